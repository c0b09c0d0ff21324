"""Writes a trained small CLIP and its adapters into the files that ship."""

import json
from pathlib import Path

from omegaconf import DictConfig

from models.clip.backbone import load_backbone
from models.clip.weights import ClipHeader, save_clip
from models.clip_adapter.adapter import AdapterHeader
from models.clip_adapter.checkpoint import save_adapter
from models.weights.registry import record
from train.adapters.record import current_commit
from train.tiny import TinyClip

TRAINED_ON = ("imagenet-1k", "synthetic:source", "clothing-dataset-small")
"""What the image tower came from, and what all of it learnt from then; the last are photographs."""


def ship(model: TinyClip, cfg: DictConfig) -> None:
    """Save both towers and the adapters under cfg.out, and note their size and sha256 in the catalogue."""
    folder = Path(cfg.out)
    config = json.loads(Path(cfg.config).read_text())
    clip_file = folder / "tiny_clip.safetensors"
    batch = f"{cfg.looks} looks x {cfg.batch_scenes} scenes x 2 pictures"
    notes = f"{' + '.join(str(now.steps) for now in cfg.rounds)} steps of {batch}, seed {cfg.seed}"
    common = {
        "stages": tuple(cfg.stages), "image_size": config["vision_cfg"]["image_size"], "activation": "gelu",
        "trained_on": TRAINED_ON, "commit": current_commit(), "notes": notes,
    }  # fmt: skip
    save_clip(clip_file, model.clip.state_dict(), config, ClipHeader(backbone="tiny_clip", **common))
    backbone = load_backbone(str(clip_file.with_suffix(".json")), weights=str(clip_file))
    header = AdapterHeader(backbone="tiny_clip", backbone_fingerprint=backbone.fingerprint, **common)
    save_adapter(folder / "tiny_adapter.safetensors", model.adapter, header)
    record("tiny")
