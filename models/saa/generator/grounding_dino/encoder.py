"""GroundingDINO's feature enhancer: per layer the words and the image meet, then each attends to itself.

The modules whose weights are used are those of the package groundingdino-py; the arithmetic is ours, so that
captions can share an image and the fusion costs what its few words cost: 4.2 times as quick
(benchmarks/saa_detector.py).
S. Liu et al.: Grounding DINO (arXiv 2303.05499), section 3.1.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@dataclass(frozen=True, eq=False)
class Words:
    """B captions of at most T tokens.

    `features` (B, T, C); `positions` (B, T, C), the sine encoding of each token's position in its own phrase; `used`
    (B, T), False for padding; `phrases` (B, T, T), which tokens see which: those of one phrase each other, padding
    itself.
    """

    features: Tensor
    positions: Tensor
    used: Tensor
    phrases: Tensor


def enhance(encoder: Any, image: ImageTokens, words: Words) -> tuple[Tensor, Tensor]:
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


def sine_encoding(positions: Tensor, channels: int, temperature: float = 10000) -> Tensor:
    """Sines and cosines in turn of 2π times (...,) positions, at falling frequencies: (..., channels)."""
    step = torch.arange(channels, device=positions.device, dtype=torch.float32).div(2, rounding_mode="floor")
    angle = positions[..., None] * (2 * math.pi) / temperature ** (2 * step / channels)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def attend(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
    """An `nn.MultiheadAttention` by its weights, batch first: (B, Q, C).

    `seen` (B, Q or 1, K) is True where a query may look; each sample has its own, the same for all heads.
    """
    width = query.shape[-1]
    weights, biases = module.in_proj_weight, module.in_proj_bias
    q, k, v = (
        F.linear(tokens, weights[i * width : (i + 1) * width], biases[i * width : (i + 1) * width])
        .unflatten(-1, (module.num_heads, -1))
        .transpose(1, 2)
        for i, tokens in enumerate((query, key, value))
    )
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if seen is None else seen[:, None])
    return F.linear(attended.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias)


def enhance_words(layer: Any, features: Tensor, words: Words) -> Tensor:
    """The text enhancer: words (B, T, C) attend within their phrases, then the feed-forward net.

    The package hands its attention the mask of another caption wherever captions differ in one batch (it tiles the
    masks by head, `nn.MultiheadAttention` reads them by sample); here every caption has its own.
    """
    placed = features + words.positions.to(features.dtype)
    features = layer.norm1(features + attend(layer.self_attn, placed, placed, features, words.phrases))
    return layer.norm2(features + layer.linear2(F.relu(layer.linear1(features))))


def fuse(block: Any, image: Tensor, features: Tensor, used: Tensor) -> Tensor:
    """Attention both ways between image tokens (B, S, C), overwritten, and words (B, T, C); returns the new words.

    Every projection of an image token is used with the caption's few words alone: its product with a key,
    q·k = v (W_q' k), and the sums of values that it gives or receives. So the projections are applied to the words
    (T rows) instead of the image (S rows, some 2,000 times as many); the sums are the same up to float rounding. The
    package's clamp of scores more than 50,000 below the highest is left out.
    """
    attention, heads = block.attn, block.attn.num_heads
    words = block.layer_norm_l(features)
    keys, constant = _keys(attention, words)
    values = _values(block, words)
    scores = image.new_empty(len(image), image.shape[1], keys.shape[2])
    everything = list(blocks(len(image), image.shape[1], image.device))
    for caption, rows in everything:
        tokens = block.layer_norm_v(image[caption, rows])
        image[caption, rows] = tokens
        scores[caption, rows] = torch.baddbmm(constant[caption], tokens.to(keys.dtype), keys[caption]).to(scores.dtype)
    gathered = torch.bmm(scores.softmax(dim=1).transpose(1, 2), image)  # (B, heads·T, C)
    hidden = ~used[:, None, None, :]
    bias = block.gamma_v * attention.out_v_proj.bias
    for caption, rows in everything:
        per_head = scores[caption, rows].unflatten(-1, (heads, -1))
        shares = per_head.masked_fill(hidden[caption], float("-inf")).softmax(dim=-1).flatten(2)
        image[caption, rows] += torch.bmm(shares, values[caption]).add_(bias)
    return words + block.gamma_l * _received(attention, gathered)


def _keys(attention: Any, words: Tensor) -> tuple[Tensor, Tensor]:
    """What an image token is multiplied with to get its scores: (B, C, heads·T), and the constants (B, 1, heads·T)."""
    heads = attention.num_heads
    keys = (attention.l_proj(words) * attention.scale).unflatten(-1, (heads, -1))  # (B, T, heads, d)
    weight = attention.v_proj.weight.unflatten(0, (heads, -1)).to(keys.dtype)
    bias = attention.v_proj.bias.unflatten(0, (heads, -1)).to(keys.dtype)
    folded = torch.einsum("bthd,hdc->bcht", keys, weight).flatten(2)
    return folded, torch.einsum("bthd,hd->bht", keys, bias).flatten(1)[:, None]


def _values(block: Any, words: Tensor) -> Tensor:
    """What each word of each head adds to an image token that attends to it alone: (B, heads·T, C)."""
    attention, heads = block.attn, block.attn.num_heads
    values = attention.values_l_proj(words).unflatten(-1, (heads, -1))
    out = (block.gamma_v[:, None] * attention.out_v_proj.weight).unflatten(1, (heads, -1))
    return torch.einsum("bthd,chd->bhtc", values.to(out.dtype), out).flatten(1, 2)


def _received(attention: Any, gathered: Tensor) -> Tensor:
    """What the words receive (B, T, C), from the image tokens averaged per head and word (B, heads·T, C)."""
    heads = attention.num_heads
    weight = attention.values_v_proj.weight.unflatten(0, (heads, -1))
    values = torch.einsum("bhtc,hdc->bthd", gathered.unflatten(1, (heads, -1)), weight.to(gathered.dtype))
    return attention.out_l_proj(values.flatten(2) + attention.values_v_proj.bias)
