"""Patch tokens of several stages on one grid, exact nearest neighbours, and maps at the size of the input."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import PIL.Image
import torch
from torch import Tensor

from models.baselines.by_category import checked
from models.features import ImageFeatures
from models.imagenet.backbone import TimmBackbone
from models.nearest import MAX_ELEMENTS, Excluded

IMAGES_AT_ONCE = 8
ROUNDING = 1e-5
"""Rows are equal that are no farther apart than this share of their length: one image, encoded beside others, differs
by that much."""


class PatchBackbone(Protocol):
    """What gives patch tokens: a `ClipBackbone` or a `TimmBackbone`."""

    name: str
    weights: str
    image_size: int
    stages: tuple[int, ...]

    @property
    def is_convolutional(self) -> bool:
        """Whether its stages are the four of a convolutional net."""
        ...

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        ...

    def preprocess(self, image: PIL.Image.Image) -> Tensor:
        """One image to (3, S, S)."""
        ...

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """(B, 3, S, S) to tokens by stage and an embedding."""
        ...


def check_backbone(backbone: PatchBackbone | None, method: str) -> PatchBackbone:
    """Refuse weights without an image encoder."""
    good = backbone is not None and hasattr(backbone, "encode_image")
    return checked(
        "backbone", backbone, good, f"an image encoder for {method}; choose weights that have one (weights=tiny, "
        "wide_resnet50_2 or resnet18)",
    )  # fmt: skip


def check_stages(backbone: PatchBackbone, stages: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """The chosen stages; None stands for `default` of a convolutional net and all that a ViT gives."""
    own = backbone.stages
    chosen = tuple(stages) if stages is not None else tuple(default) if backbone.is_convolutional else own
    good = bool(chosen) and set(chosen) <= set(own) and list(chosen) == sorted(set(chosen))
    return tuple(checked("stages", list(chosen), good, f"increasing and among the backbone's {list(own)}"))


def stage_maps(features: ImageFeatures, own: Sequence[int], chosen: Sequence[int]) -> list[Tensor]:
    """The chosen stages as maps (B, C_n, h_n, w_n), from the tokens of the backbone's `own` stages."""
    positions = [list(own).index(stage) for stage in chosen]
    return [features.stages[i].transpose(1, 2).unflatten(2, features.grids[i]) for i in positions]


def encode(backbone: PatchBackbone, images: Tensor, stages: Sequence[int] | None = None) -> ImageFeatures:
    """The features of K images, a few at a time.

    With `stages`, no more of a ResNet of timm is computed than they need; the embedding is then not the image's.
    """
    look: Callable[[Tensor], ImageFeatures] = backbone.encode_image
    if stages and isinstance(backbone, TimmBackbone):
        look = partial(backbone.encode_image, deepest=max(stages))
    return ImageFeatures.cat([look(part) for part in images.split(IMAGES_AT_ONCE)])


def nearest(
    queries: Tensor, bank: Tensor, count: int = 1, *, max_elements: int = MAX_ELEMENTS, excluded: Excluded | None = None
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of a bank by Euclidean distance: distances (Q, count), increasing, and rows (Q, count).

    `queries` (Q, C), `bank` (M, C), M >= count. Found by products of matrices, of which no more than `max_elements`
    elements are held; the distances of those found are then worked out by differences, and rows that are equal within
    rounding are 0 apart.
    """
    within_rounding = ROUNDING * queries.norm(dim=1, keepdim=True)
    num_rows = max(1, max_elements // len(bank))
    centre = bank.mean(dim=0)  # distances stay as they are, and far fewer digits cancel in the products
    queries, bank = queries - centre, bank - centre
    squares = bank.square().sum(dim=1)
    found = []
    for top in range(0, len(queries), num_rows):
        rows = slice(top, top + num_rows)
        squared = torch.addmm(squares, queries[rows], bank.T, alpha=-2)  # less the query's own square, the same for all
        if excluded is not None:
            squared.masked_fill_(excluded(rows, slice(0, len(bank))), torch.inf)
        found.append(squared.argmin(dim=1, keepdim=True) if count == 1 else _smallest(squared, count))
    rows_found = torch.cat(found)
    distances, rows_found = _distances(queries, bank, rows_found)
    return distances.masked_fill_(distances <= within_rounding, 0), rows_found


def _smallest(squared: Tensor, count: int) -> Tensor:
    return squared.topk(count, dim=1, largest=False).indices


def _distances(queries: Tensor, bank: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    distances = torch.stack([(queries - bank[column]).norm(dim=1) for column in rows.T], dim=1)
    order = distances.argsort(dim=1, stable=True)
    return distances.gather(1, order), rows.gather(1, order)


def near_own_place(grid: tuple[int, int], share: float, device: torch.device) -> Excluded:
    """Which places of a grid lie within a window of a share of its side around each other; leaves all some others."""
    radius = min(round(share * min(grid) / 2), min(grid) // 2 - 1)
    places = torch.arange(grid[0] * grid[1], device=device)
    down, across = places // grid[1], places % grid[1]

    def near(rows: slice, columns: slice) -> Tensor:
        apart = [(axis[rows, None] - axis[None, columns]).abs() for axis in (down, across)]
        return torch.maximum(*apart) <= radius

    return near
