"""A tiny data set and a tiny CLIP of random weights, so that the tests of training need no files."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import pytest
import torch

from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.clip.weights import build_clip
from train.adapters.training import AdapterTraining


@dataclass(frozen=True)
class FlatSample:
    """A noisy grey image; an anomalous one has a bright square, which is its mask."""

    category: str
    index: int
    defect_type: str = "good"
    size: tuple[int, int] = (32, 32)
    masked: bool = True
    labelled: bool = True

    @property
    def name(self) -> str:
        return f"test/{self.defect_type}/{self.index:03}.png"

    @property
    def label(self) -> int | None:
        return int(self.defect_type != "good") if self.labelled else None

    @property
    def fingerprint(self) -> str:
        return f"{self.category}-{self.name}-{self.size}"

    @property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.fingerprint.encode()))

    def load_mask(self) -> np.ndarray | None:
        if not self.masked:
            return None
        width, height = self.size
        mask = np.zeros((height, width), dtype=bool)
        if self.defect_type != "good":
            x, y = self._random.integers(0, width - 12), self._random.integers(0, height - 12)
            mask[y : y + 12, x : x + 12] = True
        return mask

    def load_image(self) -> PIL.Image.Image:
        width, height = self.size
        pixels = self._random.integers(60, 100, size=(height, width, 3)).astype(np.uint8)
        if self.defect_type != "good":
            mask = FlatSample.load_mask(FlatSample(self.category, self.index, self.defect_type, self.size))
            pixels[mask] = 220 if self.defect_type == "blot" else 0
        return PIL.Image.fromarray(pixels)


@dataclass(frozen=True)
class FlatDataset:
    """Categories with some good images and some of two kinds of defect."""

    name: str = "flat"
    categories: Sequence[str] = ("plate", "tube", "cord")
    good: int = 4
    blots: int = 3
    holes: int = 1
    size: tuple[int, int] = (32, 32)
    masked: bool = True
    labelled: bool = True
    protocol: dict[str, str | int | float | bool] = field(default_factory=dict)

    def train(self, category: str) -> list[FlatSample]:
        return []

    def test(self, category: str) -> list[FlatSample]:
        counts = {"good": self.good, "blot": self.blots, "hole": self.holes}
        return [
            FlatSample(category, index, kind, self.size, self.masked, self.labelled)
            for kind, count in counts.items()
            for index in range(count)
        ]


SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 12, "heads": 2, "layers": 1},
}


def small_backbone(seed: int = 0, precision: str = "float32") -> ClipBackbone:
    """A CLIP of random weights: 32 px, 4 x 4 tokens, two stages of 24 channels, 16 joint ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = build_clip(SMALL_CLIP, image_size=32, activation="gelu")
    return ClipBackbone(clip, name="small", stages=(1, 2), activation="gelu", precision=precision)


PROMPTS = PromptEnsemble(["{}", "flawless {}"], ["damaged {}"], ["a photo of a {}.", "{}."])


def break_off(job: AdapterTraining, step: int) -> None:
    """Run a training until it is killed after so many steps, between two of them."""
    inner, count = job._step, 0

    def counted(batch):
        nonlocal count
        if count == step:
            raise KeyboardInterrupt
        count += 1
        return inner(batch)

    job._step = counted
    with pytest.raises(KeyboardInterrupt):
        job.run()
