"""Build Segment Anything and load its published weights, from a file only."""

from typing import Literal

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from models.errors import ModelInputError
from models.frozen import random_seed, seeded
from models.saa.refiner.base import SamRefiner
from models.weights.registry import find_weights
from models.weights.state import read_state

NAMES = ("vit_b", "vit_l", "vit_h")


def load_sam(
    name: Literal["vit_b", "vit_l", "vit_h"], *, weights: str, precision: str = "float32",
    boxes_at_once: int | None = None,
) -> SamRefiner:  # fmt: skip
    """The refiner with Segment Anything ViT-B, L or H, on the CPU.

    Args:
        name: of the architecture.
        weights: a path, a name of the weights catalogue (sam_vit_b, sam_vit_l, sam_vit_h), or "random:SEED".
        precision: "float32", or "bfloat16" or "float16" for autocast.
        boxes_at_once: as for `SamRefiner`.

    Raises:
        ModelInputError: an unknown architecture; a missing, damaged or foreign file.
    """
    if name not in NAMES:
        raise ModelInputError(f"expected the architecture of SAM to be one of {', '.join(NAMES)}, got {name!r}")
    seed = random_seed(weights)
    sam = _loaded(name, weights) if seed is None else _random(name, seed)
    return SamRefiner(sam, name=name, weights=weights, precision=precision, boxes_at_once=boxes_at_once)


def _random(name: str, seed: int) -> Sam:
    with seeded(seed):
        return sam_model_registry[name]()


def _loaded(name: str, weights: str) -> Sam:
    """Built without storage, then given the file's tensors: nothing is initialised in vain."""
    path = find_weights(weights)
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    state = read_state(path, f"the weights of SAM {name}")
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInputError(
            f"expected {path} to hold the weights of SAM {name}, got a file that does not fit ({reason}); name the "
            "architecture that belongs to the file, or fetch it again"
        ) from error
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)  # not in the file
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam.eval()
