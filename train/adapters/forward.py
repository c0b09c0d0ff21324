"""What the adapters make of a batch of tokens: in training with a gradient, in validation without."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.clip_adapter.adapter import LinearAdapter, stage_probabilities
from train.adapters.tokens import TokenBatch


def stage_maps(adapter: LinearAdapter, batch: TokenBatch, text: Mapping[str, Tensor]) -> list[Tensor]:
    """Per stage the softmax over normal and abnormal at the masks' size, (B, 2, S, S) (Eq. 2, 3).

    `text` holds (D, 2) by category; every image meets its own category's.
    """
    size = int(batch.masks.shape[-1])
    columns = text_columns(batch, text)
    adapted = adapter(batch.features.stages)
    return [
        stage_probabilities(tokens, columns, grid, size)
        for tokens, grid in zip(adapted, batch.features.grids, strict=True)
    ]


@torch.no_grad()
def zero_shot(adapter: LinearAdapter, batch: TokenBatch, text: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Image scores (B,) by Eq. 1 and maps (B, S, S) by Eq. 3, as the model gives them with its default settings."""
    embedding = batch.features.embedding[:, None]  # one token to an image
    scores = stage_probabilities(embedding, text_columns(batch, text), (1, 1), 1)[:, 1, 0, 0]
    return scores, torch.stack([stage[:, 1] for stage in stage_maps(adapter, batch, text)]).sum(dim=0)


def text_columns(batch: TokenBatch, text: Mapping[str, Tensor]) -> Tensor:
    """Each image's own category's text features, (B, D, 2)."""
    return torch.stack([text[category] for category in batch.categories])
