"""Parts of SAA that need no weights and whose answers can be worked out by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.saa.confidence import TopRegions
from models.saa.generator.base import Proposals
from models.saa.language import PromptBook
from models.saa.model import SAA
from models.saa.saliency.prompt import Saliency

SIZE = (9, 13)
GENERAL = ("defect on {}", "flaw on {}")
BOOK = PromptBook(source="test prompts", general=GENERAL)


def rectangles(count: int, seed: int) -> Tensor:
    """(N, H, W) random rectangles of `SIZE`, a few of them empty and a few alike."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, *SIZE, dtype=torch.bool)
    for i in range(count):
        if i and rng.random() < 0.25:
            masks[i] = masks[rng.integers(i)]
        elif rng.random() < 0.9:
            top, left = rng.integers(0, 8), rng.integers(0, 12)
            masks[i, top : top + rng.integers(1, 9), left : left + rng.integers(1, 12)] = True
    return masks


def whole(regions: TopRegions) -> Tensor:
    """(k, H, W) bool: the regions' masks at full size."""
    masks = torch.zeros(len(regions.packed), *regions.size, dtype=torch.bool)
    for mask, packed in zip(masks, regions.packed, strict=True):
        mask[packed.rows, packed.columns] = torch.from_numpy(packed.rectangle)
    return masks


def proposals(*rows: Sequence[float], phrases: Sequence[str] | None = None) -> Proposals:
    """Boxes from rows (cx, cy, w, h, score)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Proposals(table[:, :4], table[:, 4], tuple(phrases or [""] * len(table)))


class GridGenerator:
    """Boxes on a grid of the image; a cell scores by how far its brightness lies from the image's mean.

    Each caption sees a grid of another fineness, so that captions differ.
    """

    def __init__(self, least: float = 0.0):
        self.least = least

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        return [self._proposals(image, 3 + sum(map(ord, caption)) % 3) for caption in captions]

    def _proposals(self, image: Tensor, cells: int) -> Proposals:
        grey = image.float().mean(dim=0) / 255
        means = F.adaptive_avg_pool2d(grey[None], cells)[0]
        scores = (2 * (means - grey.mean()).abs()).clamp(0, 1).flatten()
        middles = (torch.arange(cells, device=image.device) + 0.5) / cells
        centres = torch.cartesian_prod(middles, middles).flip(1)
        boxes = torch.cat([centres, torch.full_like(centres, 0.9 / cells)], dim=1)
        kept = scores >= self.least
        return Proposals(boxes[kept], scores[kept], ("",) * int(kept.sum()))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"generator": "grid"}


@dataclass
class ScriptedGenerator:
    """Says what it is told to, by caption, and remembers what it was asked."""

    answers: dict[str, Proposals]
    asked: list[list[str]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        self.asked.append(list(captions))
        self.images.append(image)
        return [self.answers.get(caption, proposals()) for caption in captions]

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"generator": "scripted"}


class BoxRefiner:
    """A region is its box; counts the boxes it was given."""

    def __init__(self) -> None:
        self.outlined = 0
        self.images: list[Tensor] = []

    def outline(self, image: Tensor) -> "BoxOutliner":
        self.images.append(image)
        return BoxOutliner(self, image.shape[1], image.shape[2])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"refiner": "the box"}


class BoxOutliner:
    def __init__(self, refiner: BoxRefiner, height: int, width: int):
        self.refiner, self.height, self.width = refiner, height, width

    def masks(self, boxes: Tensor) -> Tensor:
        self.refiner.outlined += len(boxes)
        x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
        y = torch.arange(self.height, device=boxes.device)[:, None] + 0.5
        x = torch.arange(self.width, device=boxes.device) + 0.5
        return (x > x0) & (x < x1) & (y > y0) & (y < y1)


class ColourFeatures:
    """Colours about grey, and a constant, at a quarter of the size."""

    stage_widths = (3, 1)

    def features(self, images: Tensor, size: Any) -> Tensor:
        height, width = (size, size) if isinstance(size, int) else size
        pixels = F.interpolate(images.float() / 255, (height // 4, width // 4), mode="bilinear", antialias=True)
        return torch.cat([pixels - 0.5, torch.full_like(pixels[:, :1], 0.2)], dim=1)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"saliency_features": "colours"}


def small_saa(
    generator: Any = None, refiner: Any = None, prompts: Any = BOOK, rules: str = "paper", **options: Any
) -> SAA:
    """An SAA+ of stand-ins; its saliency looks at 8 x 8 patches."""
    saliency = Saliency(ColourFeatures(), rule=rules, size=32, several_size=64, num_neighbours=10)
    return SAA(
        generator or GridGenerator(),
        refiner or BoxRefiner(),
        saliency,
        prompts,
        rules=rules,
        **{"map_size": 40, **options},
    ).eval()
