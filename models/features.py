"""What a frozen image encoder gives: raw tokens by stage and an embedding (`ImageFeatures`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.errors import ModelInputError
from models.images import Preprocess


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over B images yields, float32.

    `embedding` (B, D) is the image's: of a CLIP it lives in the joint space, not normalised (from the class token of
    the last block, or a ResNet's attention pool). `stages` holds per stage (B, h*w, C_n): raw outputs of the block,
    before any final norm (unless a `VitBackbone` is told otherwise) or projection, class token and registers dropped;
    `grids` the (h, w) of each. `fine` (B, C, h, w) is what comes before the first stage, at a stride of 2, of a CLIP's
    image tower that is a convolutional net of timm; else None.
    """

    embedding: Tensor
    stages: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    fine: Tensor | None = None

    def __getitem__(self, images: slice | list[int]) -> "ImageFeatures":
        """The features of some of the images."""
        fine = None if self.fine is None else self.fine[images]
        return ImageFeatures(self.embedding[images], tuple(stage[images] for stage in self.stages), self.grids, fine)

    @staticmethod
    def cat(parts: Sequence["ImageFeatures"]) -> "ImageFeatures":
        """The features of several batches as those of one; of a single one no copy."""
        if len(parts) == 1:
            return parts[0]
        stages = tuple(torch.cat(stage) for stage in zip(*(part.stages for part in parts), strict=True))
        known = [part.fine for part in parts if part.fine is not None]
        fine = torch.cat(known) if len(known) == len(parts) else None
        return ImageFeatures(torch.cat([part.embedding for part in parts]), stages, parts[0].grids, fine)


class PatchBackbone(Protocol):
    """A frozen net that gives patch tokens: a `ClipBackbone`, a `TimmBackbone` or a `VitBackbone`."""

    name: str
    weights: str
    image_size: int
    """Side of the square that `preprocess` makes."""
    stages: tuple[int, ...]
    preprocess: Preprocess

    @property
    def stride(self) -> int:
        """Both sides of an input are multiples of it, in pixels: the patch of a ViT, 32 of a convolutional net."""
        ...

    @property
    def is_convolutional(self) -> bool:
        """Whether its stages are the four of a convolutional net."""
        ...

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        ...

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) to tokens by stage and an embedding; a ViT or ResNet of open_clip takes its own size alone."""
        ...


def increasing_stages(stages: Sequence[int], num_stages: int, name: str) -> tuple[int, ...]:
    """Stages of a net, counted from 1.

    Raises:
        ModelInputError: none, or not increasing, or beyond those it has.
    """
    chosen = tuple(int(stage) for stage in stages)
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 1 or chosen[-1] > num_stages:
        raise ModelInputError(f"expected increasing stages between 1 and {num_stages} for {name}, got {list(chosen)}")
    return chosen
