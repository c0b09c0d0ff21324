"""What learns in a training: adapters into the space of words (APRIL-GAN), or vectors without words.

A head says what it makes of the encoder's tokens, what teaches it and how it is kept; the training knows no more of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.clip_adapter.adapter import AdapterHeader, LinearAdapter, random_adapter
from models.clip_adapter.checkpoint import save_adapter
from models.features import PatchBackbone
from models.vector_adapter.checkpoint import embedding_width, save_vectors
from models.vector_adapter.vectors import ClassVectors, random_vectors
from tracks.run.fingerprint import settings_digest
from train.adapters.forward import stage_maps, zero_shot
from train.adapters.losses import adapter_loss
from train.adapters.tokens import TokenBatch

Shares = tuple[Tensor | float, Tensor | float]
"""How much of a batch a process's part is: of its images, and of those that the dice term counts."""


class Head(ABC):
    """An adapter in training, on an encoder that is frozen."""

    scores: ClassVar[str]
    """What its image scores are, for the source of a threshold."""
    backbone: PatchBackbone
    adapter: nn.Module

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What else than encoder, data and options decides its weights, for run.json."""

    @abstractmethod
    def loss(self, batch: TokenBatch, *, dice_on_normal: bool, shares: Shares) -> Tensor:
        """What is minimised, a scalar; the losses of the parts of a batch add up to that of the batch."""

    @abstractmethod
    def zero_shot(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and maps (B, S, S), as the model gives them with its default settings."""

    @abstractmethod
    def save(self, path: Path, state: Mapping[str, Tensor] | None, header: AdapterHeader) -> None:
        """Write the adapter, of this `state` if one is given, as its model reads it."""

    def copy_of(self, state: Mapping[str, Tensor] | None) -> Any:
        """The adapter, of this `state` if one is given."""
        adapter = deepcopy(self.adapter)
        if state is not None:
            adapter.load_state_dict(state)
        return adapter


class WordHead(Head):
    """One affine map per stage into the joint space, taught by focal and dice at every stage."""

    scores = "the zero-shot image scores (Eq. 1)"
    adapter: LinearAdapter

    def __init__(
        self, backbone: ClipBackbone, prompts: PromptEnsemble, categories: Sequence[str], seed: int, quiet: bool = False
    ):  # fmt: skip
        self.backbone: ClipBackbone = backbone
        self.prompts, self.categories, self.quiet = prompts, tuple(categories), quiet
        self.adapter = random_adapter(backbone.stage_widths, backbone.embed_dim, seed)

    @cached_property
    def text(self) -> dict[str, Tensor]:
        """(D, 2) by category, computed once."""
        bar = tqdm(self.categories, desc="encode words", unit="category", disable=self.quiet)
        return {category: self.prompts.text_features(self.backbone, category) for category in bar}

    @property
    def settings(self) -> dict[str, Any]:
        """The words."""
        return {"prompts": settings_digest(asdict(self.prompts))}

    def loss(self, batch: TokenBatch, *, dice_on_normal: bool, shares: Shares) -> Tensor:
        """Focal and dice; nothing teaches the image score, which no adapter enters."""
        maps = stage_maps(self.adapter, batch, self.text)
        return adapter_loss(maps, batch.masks, dice_on_normal=dice_on_normal, shares=shares)

    def zero_shot(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Eq. 1 and Eq. 3."""
        return zero_shot(self.adapter, batch, self.text)

    def save(self, path: Path, state: Mapping[str, Tensor] | None, header: AdapterHeader) -> None:
        """An adapter for `ClipAdapter`."""
        save_adapter(path, self.copy_of(state), header)


class VectorHead(Head):
    """A pair of vectors per stage and one for the image, taught by focal, dice and the cross-entropy of images."""

    scores = "the zero-shot image scores"
    adapter: ClassVectors

    def __init__(self, backbone: PatchBackbone, seed: int):
        self.backbone = backbone
        self.adapter = random_vectors(backbone.stage_widths, embedding_width(backbone), seed)

    @property
    def settings(self) -> dict[str, Any]:
        """That it is no adapter into the space of words."""
        return {"adapter": self.adapter.kind}

    def loss(self, batch: TokenBatch, *, dice_on_normal: bool, shares: Shares) -> Tensor:
        """Focal and dice at every stage, and the cross-entropy of whether an image has a defect; all weights 1."""
        maps = self.adapter.stage_maps(batch.features, int(batch.masks.shape[-1]))
        pixels = adapter_loss(maps, batch.masks, dice_on_normal=dice_on_normal, shares=shares)
        has_defect = batch.masks.flatten(1).any(dim=1).long()
        return pixels + shares[0] * F.cross_entropy(self.adapter.image_logits(batch.features), has_defect)

    @torch.no_grad()
    def zero_shot(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The image's probability with the default share of the map's maximum, and the mean of the stages' maps."""
        return self.adapter.assessed(batch.features, int(batch.masks.shape[-1]))

    def save(self, path: Path, state: Mapping[str, Tensor] | None, header: AdapterHeader) -> None:
        """Vectors for `VectorAdapter`."""
        save_vectors(path, self.copy_of(state), header)
