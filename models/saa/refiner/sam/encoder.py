"""SAM's image encoder, the library's function without its whole attention matrices.

The same values, up to rounding, as segment_anything's ImageEncoderViT. A global layer of the library holds several
matrices of heads x 4096 x 4096; here a few rows at a time are made, used and dropped, which on a CPU stay in its cache.
"""

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor

CPU_ELEMENTS, DEVICE_ELEMENTS = 2**20, 2**26
"""Size of the piece of attention matrix held at a time."""


def encode(encoder: ImageEncoderViT, pixels: Tensor) -> Tensor:
    """Normalised and padded pixels (B, 3, S, S) to the embedding (B, C, S/16, S/16)."""
    x = encoder.patch_embed(pixels)  # (B, H, W, C)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _block(block, x)
    return encoder.neck(x.permute(0, 3, 1, 2))


def _block(block: Any, x: Tensor) -> Tensor:
    size = x.shape[1:3]
    attended = block.norm1(x)
    if block.window_size > 0:
        windows, padded = window_partition(attended, block.window_size)
        attended = window_unpartition(_attention(block.attn, windows), block.window_size, padded, size)
    else:
        attended = _attention(block.attn, attended)
    x = x + attended
    return x + block.mlp(block.norm2(x))


def _attention(attention: Any, x: Tensor) -> Tensor:
    """Self-attention over (B, H, W, C), with the library's relative positions by row and by column."""
    batch, height, width, _ = x.shape
    projected = attention.qkv(x).view(batch, height * width, 3, attention.num_heads, -1)
    queries, keys, values = projected.permute(2, 0, 3, 1, 4).flatten(1, 2)  # (B*heads, H*W, c) each
    places = _relative_places(attention, queries, (height, width)) if attention.use_rel_pos else None
    budget = CPU_ELEMENTS if x.device.type == "cpu" else DEVICE_ELEMENTS
    num_rows = max(1, min(height * width, budget // (height * width)))
    num_heads = max(1, budget // (num_rows * height * width))
    out = torch.empty_like(values)
    for first in range(0, len(queries), num_heads):
        heads = slice(first, first + num_heads)
        for top in range(0, height * width, num_rows):
            part = (heads, slice(top, top + num_rows))
            out[part] = F.scaled_dot_product_attention(
                queries[part][None], keys[heads][None], values[heads][None],
                attn_mask=_bias(places, part), scale=attention.scale,
            )[0]  # fmt: skip
    out = out.view(batch, attention.num_heads, height * width, -1).transpose(1, 2)
    return attention.proj(out.reshape(batch, height, width, -1))


def _relative_places(attention: Any, queries: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What each query adds for a key's row (G, H*W, H) and for its column (G, H*W, W)."""
    height, width = grid
    placed = queries.view(-1, height, width, queries.shape[-1])
    rows, columns = get_rel_pos(height, height, attention.rel_pos_h), get_rel_pos(width, width, attention.rel_pos_w)
    down = torch.einsum("ghwc,hkc->ghwk", placed, rows)
    across = torch.einsum("ghwc,wkc->ghwk", placed, columns)
    return down.flatten(1, 2), across.flatten(1, 2)


def _bias(places: tuple[Tensor, Tensor] | None, part: tuple[slice, slice]) -> Tensor | None:
    """(1, g, rows, H*W): what is added to the attention of some heads and rows."""
    if places is None:
        return None
    down, across = (place[part] for place in places)
    return (down[..., :, None] + across[..., None, :]).flatten(2)[None]
