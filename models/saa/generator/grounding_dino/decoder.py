"""GroundingDINO's queries: the image tokens most like the words are chosen and refined to boxes, layer by layer.

S. Liu et al.: Grounding DINO (arXiv 2303.05499), sections 3.2 and 3.3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.saa.generator.grounding_dino.encoder import attend, feed_forward, sine_encoding
from models.saa.generator.grounding_dino.sampling import (
    FeatureLevels,
    attend_to_points,
    blocks,
    split_projection,
    to_table,
)

FIRST_SIZE = 0.05
"""Side of the box first guessed at a token of the first level, in fractions of the image; doubled at each level."""


def choose_queries(
    transformer: Any, memory: Tensor, levels: FeatureLevels, words: Tensor, used: Tensor
) -> tuple[Tensor, Tensor]:
    """The tokens most like a word, as features (B, Q, C) and boxes before the sigmoid (B, Q, 4), best first.

    Q is the model's number of queries, or the number of tokens where an image has fewer. The package also makes a
    box of each of the S tokens, which nothing reads; here only of the chosen ones.
    """
    guesses, usable = _first_boxes(levels)
    likeness = memory.new_empty(memory.shape[:2], dtype=torch.float32)
    for caption, rows in blocks(len(memory), memory.shape[1], memory.device):
        tokens = memory[caption, rows] * usable[rows, None]
        tokens = transformer.enc_output_norm(transformer.enc_output(tokens))
        likeness[caption, rows] = token_logits(tokens, words[caption], used[caption]).amax(dim=-1)
    queries = min(transformer.num_queries, memory.shape[1])
    chosen = likeness.topk(queries, dim=1).indices
    tokens = memory.gather(1, chosen[:, :, None].expand(-1, -1, memory.shape[2])) * usable[chosen][:, :, None]
    tokens = transformer.enc_output_norm(transformer.enc_output(tokens))
    boxes = mlp(transformer.enc_out_bbox_embed, tokens) + guesses[chosen]
    return transformer.tgt_embed.weight[:queries].expand(len(memory), -1, -1), boxes


def token_logits(tokens: Tensor, words: Tensor, used: Tensor) -> Tensor:
    """How much each of (B, N, C) tokens is like each of (B, T, C) words: float32, -inf for padding."""
    logits = torch.bmm(tokens, words.to(tokens.dtype).transpose(1, 2)).float()
    return logits.masked_fill_(~used[:, None, :], float("-inf"))


def decode(
    decoder: Any, queries: Tensor, boxes: Tensor, memory: Tensor, levels: FeatureLevels, words: Tensor, used: Tensor
) -> tuple[Tensor, Tensor]:
    """Refine (B, Q, C) queries and (B, Q, 4) boxes before the sigmoid: logits (B, Q, T) and boxes (cx, cy, w, h).

    Of the last layer the boxes come from the normed queries, as in the package.
    """
    table = memory.new_zeros(len(memory), levels.table_tokens, memory.shape[2])
    reference = boxes.sigmoid()
    for index, layer in enumerate(decoder.layers):
        to_table(layer.cross_attn.value_proj(memory), levels, table)
        queries = _decoder_layer(decoder, layer, queries, reference, table, levels, words, used)
        if index + 1 < len(decoder.layers):
            reference = _moved(reference, mlp(decoder.bbox_embed[index], queries))
    queries = decoder.norm(queries)
    return token_logits(queries, words, used), _moved(reference, mlp(decoder.bbox_embed[-1], queries))


def mlp(module: Any, x: Tensor) -> Tensor:
    """The package's perceptron: linear layers with a ReLU between them."""
    for layer in module.layers[:-1]:
        x = F.relu(layer(x))
    return module.layers[-1](x)


def _decoder_layer(
    decoder: Any, layer: Any, queries: Tensor, reference: Tensor, table: Tensor, levels: FeatureLevels,
    words: Tensor, used: Tensor,
) -> Tensor:  # fmt: skip
    """Queries attend to each other, to the words, to points of the image, and pass the feed-forward net."""
    x, y, width, height = reference.unbind(-1)
    position = mlp(decoder.ref_point_head, _box_encoding(torch.stack([y, x, width, height], dim=-1), queries))
    placed = queries + position
    queries = layer.norm2(queries + attend(layer.self_attn, placed, placed, queries, None))
    told = attend(layer.ca_text, queries + position, words, words, used[:, None])
    queries = layer.catext_norm(queries + told)
    projected = F.linear(queries + position, *split_projection(layer.cross_attn))
    spread = reference[..., 2:] * (0.5 / levels.points)
    seen = attend_to_points(projected, reference[..., :2], spread, table, levels)
    queries = layer.norm1(queries + layer.cross_attn.output_proj(seen))
    return layer.norm3(queries + feed_forward(layer, queries))


def _box_encoding(boxes: Tensor, like: Tensor) -> Tensor:
    return sine_encoding(boxes, like.shape[-1] // 2).flatten(-2).to(like.dtype)


def _moved(reference: Tensor, change: Tensor) -> Tensor:
    """Boxes in [0, 1] moved by a change before the sigmoid; 0.001 keeps the logarithms finite, as in the package."""
    inside = reference.clamp(0, 1)
    return (change + (inside.clamp_min(1e-3) / (1 - inside).clamp_min(1e-3)).log()).sigmoid()


def _first_boxes(levels: FeatureLevels) -> tuple[Tensor, Tensor]:
    """The box guessed at each token, before the sigmoid (S, 4), and whether it is usable (S,): off the border.

    An unusable one is infinite: its sigmoid is the lower right corner, its token is zeroed.
    """
    sizes = [torch.full((h * w, 2), FIRST_SIZE * 2.0**i) for i, (h, w) in enumerate(levels.shapes)]
    boxes = torch.cat([levels.centres, torch.cat(sizes).to(levels.centres)], dim=1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(dim=1)
    return (boxes / (1 - boxes)).log().masked_fill(~usable[:, None], float("inf")), usable
