"""Entry point of `make tiny`: trains the small CLIP and its adapter that ship.

The image tower is an ImageNet net of timm behind open_clip's own classes (models/weights/tiny/tiny_clip.json,
train/small/model.py). The text tower learns first, alone (train/small/words.py): product names are mostly random words,
so the direction from "flawless" to "damaged" does not depend on the product. Then the adapter, and the image tower at a
small learning rate, learn against it on rendered pictures and on photographs with made defects: cross-entropy + dice on
the map (Eq. 3), the image-score loss, the same on the image embedding (Eq. 1), and which product an image shows; in
half of the batches with other scenes of the product as references. Last, class vectors that read maps beside the words
(train/adapter.py). Of the rendered products only source categories are seen.
"""

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from models.clip.backbone import load_backbone
from models.clip.weights import ClipHeader, save_clip
from models.clip_adapter.adapter import AdapterHeader
from models.clip_adapter.checkpoint import save_adapter
from models.weights.catalogue import record
from tracks.command.cli import CONF, command, run_main
from tracks.run.build import pick_device
from train.adapter import train_in
from train.adapters.checkpoint import ADAPTER_FILE
from train.adapters.processes import Processes
from train.adapters.record import current_commit
from train.small.corpus import CorpusPlan, build_corpus
from train.small.fit import fit
from train.small.model import TinyClip, load_tower
from train.small.photos import read_photos
from train.small.words import CaptionSampler, Words, vocabulary_nouns

TRAINED_ON = ("imagenet-1k", "synthetic:source", "clothing-dataset-small")
"""What the image tower came from, and what all of it learnt from then; the last are photographs."""
NO_MATTER = ("work", "out", "device", "threads", "render_workers", "save_every", "compile", "vectors")
"""Settings that leave the towers and the adapter as they are, but for rounding."""


def train_tiny(cfg: DictConfig) -> TinyClip:
    """Render, train, and return the averaged model in eval mode on the CPU."""
    device = pick_device(cfg.device)
    torch.manual_seed(cfg.seed)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    work = Path(cfg.work)
    work.mkdir(parents=True, exist_ok=True)
    config = json.loads(Path(cfg.config).read_text(encoding="utf-8"))
    model = TinyClip(config, list(cfg.stages), frozen=not cfg.tower_share)
    if cfg.imagenet:
        load_tower(model.trunk)
    plan = CorpusPlan(cfg.variants, cfg.invented, cfg.scenes, cfg.picture_size, cfg.seed)
    corpus = build_corpus(plan, work / "corpus", cfg.render_workers)
    sampler = CaptionSampler(
        cfg.prompts.normal_states, cfg.prompts.anomalous_states, cfg.prompts.templates, vocabulary_nouns(),
        config["text_cfg"]["context_length"],
    )  # fmt: skip
    photos = read_photos(Path(cfg.photos), cfg.picture_size) if cfg.photos else None
    words = Words.draw(sampler, [*plan.categories, "scene"], cfg.seed)
    return fit(model.to(device), corpus, photos, words, cfg, digest_of(cfg), device).eval().cpu()


def digest_of(cfg: DictConfig) -> str:
    """Twelve digits of the settings that decide the weights."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    decisive = {key: value for key, value in content.items() if key not in NO_MATTER}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def ship(model: TinyClip, cfg: DictConfig) -> None:
    """Save towers, adapter and vectors under cfg.out, all once all are there, and note them in the catalogue."""
    folder, config = Path(cfg.work) / "weights", json.loads(Path(cfg.config).read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    clip_file = folder / "tiny_clip.safetensors"
    batch = f"{cfg.looks} looks x {cfg.batch_scenes} scenes x 2 pictures"
    notes = f"{' + '.join(str(now.steps) for now in cfg.rounds)} steps of {batch}, seed {cfg.seed}"
    common = {
        "stages": tuple(cfg.stages), "image_size": config["vision_cfg"]["image_size"], "activation": "gelu",
        "trained_on": TRAINED_ON, "commit": current_commit(), "notes": notes,
    }  # fmt: skip
    save_clip(clip_file, model.clip.state_dict(), config, ClipHeader(backbone="tiny_clip", **common))
    shutil.copyfile(cfg.config, clip_file.with_suffix(".json"))
    backbone = load_backbone(str(clip_file.with_suffix(".json")), weights=str(clip_file))
    header = AdapterHeader(backbone="tiny_clip", backbone_fingerprint=backbone.fingerprint, **common)
    save_adapter(folder / "tiny_adapter.safetensors", model.adapter, header)
    shutil.copyfile(train_vectors(clip_file, cfg), folder / "tiny_vectors.safetensors")
    for file in folder.glob("*.safetensors"):
        shutil.copyfile(file, Path(cfg.out) / file.name)
    record("tiny")


def train_vectors(clip_file: Path, cfg: DictConfig) -> Path:
    """The file of class vectors for towers that were saved, trained under cfg.work as cfg.vectors says."""
    within = GlobalHydra.instance().is_initialized()  # as in the command
    with nullcontext() if within else initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose("train", list(cfg.vectors))
    chosen.weights.backbone.name = str(clip_file.with_suffix(".json"))
    chosen.weights.backbone.weights = str(clip_file)
    chosen.seed, chosen.out, chosen.fresh = cfg.seed, str(Path(cfg.work) / "vectors"), True
    return train_in(Processes(device=pick_device(cfg.device)), chosen) / ADAPTER_FILE


@command("tiny")
def main(cfg: DictConfig) -> None:
    """Train and write the weights with their header and card."""
    ship(train_tiny(cfg), cfg)


if __name__ == "__main__":
    run_main(main)
