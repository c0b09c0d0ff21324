"""GroundingDINO's feature enhancer: per layer the words and the image meet, then each attends to itself."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.saa.generator.grounding_dino.attention import Words, enhance_words, fuse
from models.saa.generator.grounding_dino.sampling import (
    FeatureLevels,
    attend_to_points,
    blocks,
    split_projection,
    to_table,
)


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """One image before any caption is looked at: what all captions share.

    `features` and `positions` (S, C), the latter with the levels' own embedding; `levels` says where tokens lie.
    """

    features: Tensor
    positions: Tensor
    levels: FeatureLevels


def encode(encoder: Any, image: ImageTokens, words: Words) -> tuple[Tensor, Tensor]:
    """One image and B captions to (B, S, C) image tokens and (B, T, C) words that know of each other."""
    features = words.features
    captions = len(features)
    tokens = image.features.expand(captions, -1, -1).clone()
    table = tokens.new_zeros(captions, image.levels.table_tokens, tokens.shape[-1])
    for fusion, text_layer, layer in zip(encoder.fusion_layers, encoder.text_layers, encoder.layers, strict=True):
        features = fuse(fusion, tokens, features, words.used)
        features = enhance_words(text_layer, features, words)
        _attend_to_itself(layer, tokens, image, table)
    return tokens, features


def _attend_to_itself(layer: Any, tokens: Tensor, image: ImageTokens, table: Tensor) -> None:
    """A deformable self-attention and feed-forward layer, in place on (B, S, C) tokens."""
    attention = layer.self_attn
    projection = split_projection(attention)
    everything = list(blocks(len(tokens), tokens.shape[1], tokens.device))
    values = torch.empty_like(tokens)
    for caption, rows in everything:
        values[caption, rows] = attention.value_proj(tokens[caption, rows])
    to_table(values, image.levels, table)
    for caption, rows in everything:
        part = tokens[caption, rows]
        projected = F.linear(part + image.positions[rows], *projection)
        centres = image.levels.centres[None, rows]
        seen = attend_to_points(projected, centres, None, table[caption], image.levels)
        part = layer.norm1(part + attention.output_proj(seen))
        tokens[caption, rows] = layer.norm2(part + feed_forward(layer, part))


def feed_forward(layer: Any, tokens: Tensor) -> Tensor:
    """Two linear layers with a ReLU between them."""
    return layer.linear2(layer.linear1(tokens).relu_())
