"""What decides whether two runs are the same run: digests of settings, code and weights, device and versions."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
CODE_THAT_DECIDES_NUMBERS = (
    "models/**/*.py",
    "tracks/datasets/**/*.py",
    "tracks/run/runner.py",
    "tracks/run/resize.py",
)
PACKAGES_THAT_DECIDE_NUMBERS = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the settings' JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


@cache
def code_digest(patterns: tuple[str, ...] = CODE_THAT_DECIDES_NUMBERS) -> str:
    """Digest of source files, by default those that predictions depend on: after an edit, a run starts afresh."""
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """Digest of all parameters and buffers, so that a run never continues with other weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the packages whose rounding, resizing or networks predictions depend on."""
    return {**{name: version(name) for name in PACKAGES_THAT_DECIDE_NUMBERS}, "torch": str(torch.__version__)}


def device_name(device: str) -> str:
    """What a torch device is: the GPU's own name, or the processor's with the instructions that torch uses on it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type != "cpu":
        return device
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
