"""The only trained part: one affine map per stage into the joint space (APRIL-GAN Eq. 2), and its reading (Eq. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.features import ImageFeatures
from models.frozen import seeded

LOGIT_SCALE = 100.0
"""Factor on cosines before the softmax: constant, not read from CLIP's own temperature."""

ADAPTER_FORMAT = "vandkit-clip-adapter-1"


@dataclass(frozen=True)
class AdapterHeader:
    """What a trained adapter says of itself.

    `trained_on` names data sets; `image_threshold` decides on image scores where no reference is at
    hand, and `threshold_source` says where it comes from. `backbone_fingerprint`, if given, is that of
    the encoder's weights (`ClipBackbone.fingerprint`). `kind` is "linear", or "context" for a `ContextAdapter`.
    """

    backbone: str
    stages: tuple[int, ...]
    image_size: int
    activation: str
    trained_on: tuple[str, ...]
    format: str = ADAPTER_FORMAT
    kind: str = "linear"
    backbone_fingerprint: str = ""
    commit: str = ""
    image_threshold: float | None = None
    threshold_source: str = ""
    notes: str = ""


class Adapter(nn.Module):
    """From the tokens of an encoder's stages to tokens of the joint space, and what the checkpoint says of itself."""

    kind: str
    """The header's word for the class."""

    def __init__(self, stage_widths: Sequence[int], embed_dim: int):
        super().__init__()
        self.stage_widths = tuple(stage_widths)
        self.embed_dim = embed_dim
        self.header: AdapterHeader | None = None
        """What the checkpoint says; None if untrained, or read from a file without header."""
        self.trained_on: tuple[str, ...] = ()
        """Names of the data sets it was trained on; empty if not known."""

    def adapt(self, features: ImageFeatures) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Adapted tokens, each (B, h*w, D), not normalised, and the (h, w) of each."""
        raise NotImplementedError

    @property
    def num_maps(self) -> int:
        """How many groups of tokens `adapt` gives, each a map of probabilities."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """What it looks at, for the protocol label."""
        raise NotImplementedError


class LinearAdapter(Adapter):
    """One affine map with bias per stage, (B, N, C_n) to (B, N, D): no non-linearity, no residual (Eq. 2)."""

    kind = "linear"

    def __init__(self, stage_widths: Sequence[int], embed_dim: int):
        super().__init__(stage_widths, embed_dim)
        self.fc = nn.ModuleList(nn.Linear(width, embed_dim) for width in self.stage_widths)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Raw tokens of each stage, (B, N_n, C_n), to the joint space, (B, N_n, D); not normalised."""
        return [linear(tokens) for linear, tokens in zip(self.fc, stages, strict=True)]

    def adapt(self, features: ImageFeatures) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """One group of tokens per stage, on the stage's own grid."""
        return self(features.stages), list(features.grids)

    @property
    def num_maps(self) -> int:
        """One per stage."""
        return len(self.stage_widths)

    @property
    def reads(self) -> str:
        """Tokens as they are."""
        return "raw tokens (Eq. 2)"


def random_adapter(stage_widths: Sequence[int], embed_dim: int, seed: int = 0) -> LinearAdapter:
    """An untrained adapter, the same for the same seed: to try a set-up without its weights."""
    with seeded(seed):
        adapter = LinearAdapter(stage_widths, embed_dim)
    adapter.trained_on = ("nothing (random weights)",)
    return adapter


def stage_logits(tokens: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
    """`LOGIT_SCALE` x cosine of a stage's adapted tokens with the text columns, (B, 2, h, w): normal, abnormal.

    `tokens` is (B, h*w, D) as the adapter returns them, `text` (D, 2) for all images or (B, D, 2) for
    each, with columns of length 1.
    """
    logits = LOGIT_SCALE * F.normalize(tokens, dim=-1) @ text  # (B, h*w, 2)
    return logits.transpose(1, 2).unflatten(2, grid)


def stage_probabilities(tokens: Tensor, text: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """One term of Eq. 3 at the map's size, (B, 2, size, size): softmax over normal and abnormal.

    Logits are upsampled first (bilinear, corners aligned), softmax comes after, as in the published code.
    """
    logits = stage_logits(tokens, text, grid)
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=True).softmax(dim=1)
