"""A small CLIP of each kind with random weights, for tests that need an encoder and no file of the project."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch

from models.base import Prediction
from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.clip.weights import build_clip
from models.clip_adapter.adapter import Adapter, random_adapter
from models.clip_adapter.context_adapter import ContextAdapter
from models.clip_adapter.model import ClipAdapter

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 48, "head_width": 24, "patch_size": 8},
    "text_cfg": TEXT,
}
RESNET = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
TIMM = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 64, "timm_model_name": "test_efficientnet", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": TEXT,
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}  # fmt: skip
CONFIGS = {"vit": VIT, "resnet": RESNET, "timm": TIMM}
SIZES = {"vit": 48, "resnet": 96, "timm": 96}
STAGES = {"vit": (1, 2, 4), "resnet": (1, 2, 3), "timm": (1, 2, 3)}
PROMPTS = PromptEnsemble(
    normal_states=("{}", "flawless {}", "{} without flaw"),
    anomalous_states=("broken {}", "{} with flaw"),
    templates=("a photo of a {}.", "there is the {} in the scene."),
)


def random_clip(kind: str, image_size: int | None = None, activation: str = "gelu", seed: int = 0) -> open_clip.CLIP:
    """An `open_clip.CLIP` in evaluation mode whose blocks all do something (open_clip starts some at zero)."""
    config = CONFIGS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = build_clip(config, image_size=image_size or config["vision_cfg"]["image_size"], activation=activation)
        for name, tensor in clip.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor += 0.2 * torch.rand_like(tensor)
            if name.endswith("running_var"):
                tensor *= 1.5
    return clip.eval()


def small_backbone(kind: str, activation: str = "gelu", precision: str = "float32", seed: int = 0) -> ClipBackbone:
    clip = random_clip(kind, SIZES[kind], activation, seed)
    return ClipBackbone(clip, name=kind, stages=STAGES[kind], activation=activation, precision=precision)


def small_model(kind: str, **options: Any) -> ClipAdapter:
    backbone = small_backbone(kind)
    return ClipAdapter(backbone, random_adapter(backbone.stage_widths, backbone.embed_dim), PROMPTS, **options).eval()


def predicted(backbone: ClipBackbone, adapter: Adapter, images: torch.Tensor, shots: int, **options: Any) -> Prediction:
    """What a `ClipAdapter` says of images, the first `shots` of which are its references."""
    model = ClipAdapter(backbone, adapter, PROMPTS, **options).eval()
    if shots:
        model.fit(images[:shots], "nut")
    return model.predict(images, ["nut"] * len(images))


def small_adapter(kind: str, backbone: ClipBackbone) -> Adapter:
    """One of random weights for a backbone: "linear" or "context"."""
    if kind == "linear":
        return random_adapter(backbone.stage_widths, backbone.embed_dim)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ContextAdapter(backbone.stage_widths, backbone.embed_dim, hidden=8).eval()


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def write_config(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(deepcopy(CONFIGS[kind])))
    return path
