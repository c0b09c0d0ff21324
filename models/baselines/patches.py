"""Patch tokens of several stages, as PatchCore, PaDiM and SPADE read them."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from models.base import Prediction
from models.errors import checked
from models.features import ImageFeatures, PatchBackbone
from models.frozen import in_one_graph
from models.imagenet.backbone import TimmBackbone
from models.imagenet.vit import VitBackbone
from models.images import check_batch

IMAGES_AT_ONCE = 8


def check_backbone(backbone: PatchBackbone | None, method: str) -> PatchBackbone:
    """Refuse weights without an image encoder."""
    good = backbone is not None and hasattr(backbone, "encode_image")
    need = f"an image encoder for {method}; choose weights that have one (weights=tiny, wide_resnet50_2 or resnet18)"
    checked("backbone", backbone, good, need)
    assert backbone is not None
    return backbone


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


def encode_in_parts(backbone: PatchBackbone, images: Tensor, stages: Sequence[int] | None = None) -> ImageFeatures:
    """The features of K images as `preprocess` makes them; see `encoded`.

    Raises:
        ModelInputError: images of another shape than the backbone's `preprocess` makes.
    """
    check_batch(images, backbone.image_size)
    return encoded(backbone, images, stages)


def encoded(backbone: PatchBackbone, images: Tensor, stages: Sequence[int] | None = None) -> ImageFeatures:
    """The features of K images of any size that the backbone takes, a few at a time.

    With `stages`, no more of a net of timm is computed than they need; the embedding is then not the image's.
    """
    look: Callable[[Tensor], ImageFeatures] = backbone.encode_image
    if stages and isinstance(backbone, TimmBackbone | VitBackbone):
        look = partial(backbone.encode_image, deepest=max(stages))
    parts = [images] if in_one_graph() else images.split(IMAGES_AT_ONCE)
    return ImageFeatures.cat([look(part) for part in parts])


def together(found: Sequence[tuple[Tensor, Tensor]]) -> Prediction:
    """The maps (S, S) and the scores () of several images as one prediction."""
    maps, scores = (torch.stack(part) for part in zip(*found, strict=True))
    return Prediction(maps, scores)


def within(pos_radius: int | None) -> str:
    """RAD's window of positions, as a protocol says it."""
    return "" if pos_radius is None else f" within {pos_radius} cells of its position (RAD)"


def square_grid(patches: Tensor) -> tuple[int, int]:
    """(h, w) of patches (B, h * w, C) or their values (B, h * w); images are squares, and so are their grids."""
    side = math.isqrt(patches.shape[1])
    return side, side
