"""SAM's image encoder and mask decoder: the library's functions in fewer operations, the same values up to rounding.

The encoder is segment_anything's ImageEncoderViT without its whole attention matrices. A global layer of the library
holds several matrices of heads x 4096 x 4096; here a few rows at a time are made, used and dropped, which on a CPU stay
in its cache.

The decoder is segment_anything's prompt encoder and mask decoder with one mask per box, for many boxes of one image.
What makes it 4.5 times as quick (benchmarks/saa_stages.py), by algebra alone:

* The first layer's projections of the image tokens are the same for every box: they are made once per image.
* A box has few tokens T (its corners and the output tokens) and the image has many, N. Projecting the few into the
  space of the many, q (Wk x) = (Wk' q) x, costs T heads N C in place of N C C/2, and likewise for the values.
* Only the first output token becomes a mask; the upscaling runs as plain matrix products, channels last.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor, nn

CPU_ELEMENTS, DEVICE_ELEMENTS = 2**20, 2**26
"""Size of the piece of attention matrix held at a time."""


def encode_image(encoder: ImageEncoderViT, pixels: Tensor) -> Tensor:
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
        attended = window_unpartition(_self_attention_of_image(block.attn, windows), block.window_size, padded, size)
    else:
        attended = _self_attention_of_image(block.attn, attended)
    x = x + attended
    return x + block.mlp(block.norm2(x))


def _self_attention_of_image(attention: Any, x: Tensor) -> Tensor:
    """Self-attention over (B, H, W, C), with the library's relative positions by row and by column."""
    batch, height, width, _ = x.shape
    projected = attention.qkv(x).view(batch, height * width, 3, attention.num_heads, -1)
    queries, keys, values = projected.permute(2, 0, 3, 1, 4).flatten(1, 2)  # (B*heads, H*W, c) each
    positions = _relative_positions(attention, queries, (height, width)) if attention.use_rel_pos else None
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
                attn_mask=_bias(positions, part), scale=attention.scale,
            )[0]  # fmt: skip
    out = out.view(batch, attention.num_heads, height * width, -1).transpose(1, 2)
    return attention.proj(out.reshape(batch, height, width, -1))


def _relative_positions(attention: Any, queries: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What each query adds for a key's row (G, H*W, H) and for its column (G, H*W, W)."""
    height, width = grid
    placed = queries.view(-1, height, width, queries.shape[-1])
    rows, columns = get_rel_pos(height, height, attention.rel_pos_h), get_rel_pos(width, width, attention.rel_pos_w)
    down = torch.einsum("ghwc,hkc->ghwk", placed, rows)
    across = torch.einsum("ghwc,wkc->ghwk", placed, columns)
    return down.flatten(1, 2), across.flatten(1, 2)


def _bias(positions: tuple[Tensor, Tensor] | None, part: tuple[slice, slice]) -> Tensor | None:
    """(1, g, rows, H*W): what is added to the attention of some heads and rows."""
    if positions is None:
        return None
    down, across = (each[part] for each in positions)
    return (down[..., :, None] + across[..., None, :]).flatten(2)[None]


@dataclass(frozen=True, eq=False)
class SharedTokens:
    """What every box of an image shares: N = h*w tokens of C channels, and the first layer's views of them."""

    tokens: Tensor  # (N, C), the image embedding with the embedding for "no mask given"
    positions: Tensor  # (N, C), positional encoding
    grid: tuple[int, int]
    keys: Tensor  # (heads, N, c), what box tokens compare themselves with
    values: Tensor  # (heads, N, c), what box tokens read
    queries: Tensor  # (heads, N, c), with which image tokens look at box tokens


class BoxDecoder:
    """The decoder of one `Sam`; keeps nothing of any image."""

    def __init__(self, sam: Sam):
        self.sam = sam

    def image_tokens(self, embedding: Tensor) -> SharedTokens:
        """The shared part of an image's embedding (1, C, h, w)."""
        prompt, first = self.sam.prompt_encoder, self.sam.mask_decoder.transformer.layers[0]
        read, write = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        tokens = _flat(embedding + prompt.no_mask_embed.weight.view(1, -1, 1, 1))
        with torch.autocast(embedding.device.type, enabled=False):
            positions = _flat(prompt.get_dense_pe())
        placed = tokens + positions
        return SharedTokens(
            tokens, positions, (embedding.shape[2], embedding.shape[3]),
            keys=_heads(read.k_proj(placed), read), values=_heads(read.v_proj(tokens), read),
            queries=_heads(write.q_proj(placed), write),
        )  # fmt: skip

    def logits(self, image: SharedTokens, boxes: Tensor) -> Tensor:
        """Mask logits (n, 4h, 4w) of n boxes (x0, y0, x1, y1) in pixels of the padded model input."""
        decoder = self.sam.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(boxes), -1, -1)
        with torch.autocast(boxes.device.type, enabled=False):  # sines of coordinates do not bear rounding
            corners, _ = self.sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        tokens, keys = self._transform(image, torch.cat([own, corners], dim=1))
        return _mask(decoder, tokens[:, 1], keys, image.grid)

    def _transform(self, image: SharedTokens, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: box tokens (n, T, C) and, for each box, image tokens (n, N, C)."""
        transformer = self.sam.mask_decoder.transformer
        tokens, keys, placed = prompt, image.tokens, None
        for layer in transformer.layers:
            tokens = _self_attention(layer, tokens, prompt)
            tokens = layer.norm2(tokens + _read(layer.cross_attn_token_to_image, tokens + prompt, keys, placed, image))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            written = _write(layer.cross_attn_image_to_token, tokens + prompt, tokens, placed, image)
            keys = layer.norm4(keys + written)
            placed = keys + image.positions
        last = _read(transformer.final_attn_token_to_image, tokens + prompt, keys, placed, image)
        return transformer.norm_final_attn(tokens + last), keys


def _self_attention(layer: Any, tokens: Tensor, prompt: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(tokens, tokens, tokens))
    placed = tokens + prompt
    return layer.norm1(tokens + layer.self_attn(placed, placed, tokens))


def _read(attention: Any, tokens: Tensor, keys: Tensor, placed: Tensor | None, image: SharedTokens) -> Tensor:
    """Box tokens (n, T, C) attend to image tokens; `placed`, None in the first layer, is `keys` and positions."""
    num_boxes, num_tokens, _ = tokens.shape
    queries = _scaled(_heads(attention.q_proj(tokens), attention))  # (n, heads, T, c)
    if placed is None:
        rows = queries.transpose(0, 1).flatten(1, 2)  # (heads, n*T, c)
        read = torch.softmax(rows @ image.keys.transpose(1, 2), dim=-1) @ image.values
        read = read.unflatten(1, (num_boxes, num_tokens)).transpose(0, 1)
    else:
        # The bias of the keys adds the same to a token's whole row and drops out of the softmax.
        turned = (queries @ _by_head(attention.k_proj.weight, attention)).flatten(1, 2)  # (n, heads*T, C)
        share = torch.softmax(turned @ placed.transpose(1, 2), dim=-1)
        mean = (share @ keys).unflatten(1, (-1, num_tokens))  # (n, heads, T, C)
        read = mean @ _by_head(attention.v_proj.weight, attention).transpose(1, 2)
        read = read + attention.v_proj.bias.view(attention.num_heads, 1, -1)
    return attention.out_proj(read.transpose(1, 2).flatten(2))


def _write(attention: Any, tokens: Tensor, values: Tensor, placed: Tensor | None, image: SharedTokens) -> Tensor:
    """Image tokens attend to the T box tokens: what is added to each image token, (n, N, C)."""
    num_tokens = tokens.shape[1]
    keys = _scaled(_heads(attention.k_proj(tokens), attention))  # (n, heads, T, c)
    if placed is None:
        logits = (image.queries @ keys.transpose(2, 3)).transpose(1, 2)  # (n, N, heads, T)
    else:
        turned = (keys @ _by_head(attention.q_proj.weight, attention)).flatten(1, 2)  # (n, heads*T, C)
        offset = (keys * attention.q_proj.bias.view(attention.num_heads, 1, -1)).sum(dim=-1).flatten(1)
        logits = (placed @ turned.transpose(1, 2) + offset[:, None]).unflatten(2, (-1, num_tokens))
    share = torch.softmax(logits, dim=-1).flatten(2)  # (n, N, heads*T)
    out = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1)).permute(1, 2, 0)  # (heads, c, C)
    carried = (_heads(attention.v_proj(values), attention) @ out).flatten(1, 2)  # (n, heads*T, C)
    return share @ carried + attention.out_proj.bias


def _mask(decoder: Any, token: Tensor, keys: Tensor, grid: tuple[int, int]) -> Tensor:
    """Two steps of doubling the image tokens, then their product with the mask token (n, C): (n, 4h, 4w)."""
    first, norm, activation, second, last_activation = decoder.output_upscaling
    weights = decoder.output_hypernetworks_mlps[0](token)  # (n, C/8)
    x = _doubled(keys.flatten(0, 1), first)  # (n*N*4, C/4), the 4 cells of each token in a row
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last_activation(_doubled(x, second)).view(len(token), -1, weights.shape[1])  # (n, N*16, C/8)
    logits = (x @ weights[:, :, None]).view(len(token), *grid, 2, 2, 2, 2)
    return logits.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(token), 4 * grid[0], 4 * grid[1])


def _doubled(rows: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of kernel and stride 2 on (M, C) cells: (M*4, C'), top left to bottom right."""
    assert layer.bias is not None
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 4*C')
    return torch.addmm(layer.bias.repeat(4), rows, weight).view(4 * len(rows), -1)


def _flat(maps: Tensor) -> Tensor:
    """(1, C, h, w) to (h*w, C)."""
    return maps[0].flatten(1).t().contiguous()


def _heads(x: Tensor, attention: Any) -> Tensor:
    """(..., T, heads*c) to (..., heads, T, c)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(-2, -3)


def _by_head(weight: Tensor, attention: Any) -> Tensor:
    """A projection's weight (heads*c, C) to (heads, c, C)."""
    return weight.unflatten(0, (attention.num_heads, -1))


def _scaled(x: Tensor) -> Tensor:
    return x / x.shape[-1] ** 0.5
