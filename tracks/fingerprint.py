"""Digests that decide whether two runs are the same run: of settings, of code, of weights."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
CODE_THAT_DECIDES_NUMBERS = ("models/**/*.py", "tracks/datasets/**/*.py", "tracks/runner.py", "tracks/resize.py")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the settings' JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


@cache
def code_digest() -> str:
    """Digest of the source that predictions depend on: after an edit, a run starts afresh."""
    digest = hashlib.sha256()
    for pattern in CODE_THAT_DECIDES_NUMBERS:
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
