"""Multi-scale deformable attention without a compiled op, as gathers that the CPU does fast.

The usual pure-PyTorch way runs `grid_sample` per level, which writes every sampled value out before it is weighted
and summed. Here one point of one head is four rows (its bilinear corners) of a table of values, so that a query's
output is a weighted sum of rows: `embedding_bag`. The result is the same up to float rounding.
X. Zhu et al.: Deformable DETR (arXiv 2010.04159), Eq. 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_ROWS = 4096
"""Rows of an image worked on at a time on the CPU: fewer suit its caches better, but its threads wait more often."""


@dataclass(frozen=True, eq=False)
class FeatureLevels:
    """Where the S tokens of an image lie: level by level, in each of them row by row.

    `centres` (S, 2) are the tokens' own positions (x, y) in fractions of the image and `sizes` (levels, 2) the (width,
    height) of the levels in tokens. In the table of `to_table` each level has a border of zeros, one token wide, so
    that a corner outside the level needs no test. The further tensors hold one number per (head, level, point), in
    this order, or one per level; positions in the table are counted in rows of one head.
    """

    shapes: tuple[tuple[int, int], ...]
    heads: int
    points: int
    centres: Tensor
    sizes: Tensor
    width: Tensor
    height: Tensor
    line: Tensor
    line_step: Tensor
    origin: Tensor
    starts: tuple[int, ...]
    table_tokens: int

    @staticmethod
    def of(
        shapes: Sequence[tuple[int, int]], heads: int, points: int, device: torch.device, dtype: torch.dtype
    ) -> "FeatureLevels":
        """The levels of the given (height, width)."""
        starts = [0]
        for height, width in shapes:
            starts.append(starts[-1] + (height + 2) * (width + 2))
        sizes = torch.tensor([(width, height) for height, width in shapes], device=device, dtype=dtype)
        first = torch.tensor([start + w + 3 for start, (_, w) in zip(starts, shapes, strict=False)], device=device)

        def per_point(values: Tensor) -> Tensor:
            return values.view(1, -1, 1).expand(heads, len(shapes), points).reshape(-1)

        line = per_point((sizes[:, 0] + 2) * heads)
        head = torch.arange(heads, device=device).view(-1, 1).expand(heads, len(shapes) * points).reshape(-1)
        return FeatureLevels(
            shapes=tuple(shapes), heads=heads, points=points, centres=_centres(shapes, device, dtype), sizes=sizes,
            width=per_point(sizes[:, 0]), height=per_point(sizes[:, 1]), line=line, line_step=line.to(torch.int32),
            origin=(per_point(first) * heads + head).to(dtype), starts=tuple(starts),
            table_tokens=starts[-1] + shapes[-1][1] + 3,  # a point on the lower edge of the last level looks further
        )  # fmt: skip

    @property
    def num_tokens(self) -> int:
        """S, the tokens of all levels together."""
        return sum(height * width for height, width in self.shapes)


def _centres(shapes: Sequence[tuple[int, int]], device: torch.device, dtype: torch.dtype) -> Tensor:
    parts = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        parts.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).view(-1, 2))
    return torch.cat(parts)


def blocks(captions: int, rows: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut (captions, rows) into what is worked on at a time: all of it, on the CPU `CPU_ROWS` rows of one caption."""
    if device.type != "cpu":
        yield slice(0, captions), slice(0, rows)
        return
    for caption in range(captions):
        for start in range(0, rows, CPU_ROWS):
            yield slice(caption, caption + 1), slice(start, min(start + CPU_ROWS, rows))


def to_table(values: Tensor, levels: FeatureLevels, table: Tensor) -> Tensor:
    """Write the values (B, S, C) of all tokens into the table (B, T, C), leaving its border of zeros; returns it."""
    token = 0
    for (height, width), start in zip(levels.shapes, levels.starts, strict=False):
        area = table[:, start : start + (height + 2) * (width + 2)].unflatten(1, (height + 2, width + 2))
        part = values[:, token : token + height * width].unflatten(1, (height, width))
        area[:, 1:-1, 1:-1] = part
        token += height * width
    return table


def split_projection(attention: Any) -> tuple[Tensor, Tensor]:
    """One projection (3·N, C) and bias of a deformable attention: all N x offsets, then all y, then all weights.

    N is heads · levels · points. `attention` has the linear layers `sampling_offsets` and `attention_weights`.
    """
    offsets, weights = attention.sampling_offsets, attention.attention_weights
    weight = torch.cat([offsets.weight[0::2], offsets.weight[1::2], weights.weight])
    return weight, torch.cat([offsets.bias[0::2], offsets.bias[1::2], weights.bias])


def attend_to_points(
    projected: Tensor, reference: Tensor, spread: Tensor | None, table: Tensor, levels: FeatureLevels
) -> Tensor:
    """What queries see of the value table: (B, R, C), before the output projection.

    Args:
        projected: (B, R, 3·N), the queries after `split_projection`.
        reference: (B or 1, R, 2), the points (x, y) in fractions of the image that offsets start from.
        spread: (B, R, 2), the (width, height) in fractions of the image that offsets are counted in; None where
            they are counted in tokens.
        table: (B, T, C) of `to_table`.
        levels: the geometry of the table.
    """
    x, y, weights = projected.to(table.dtype).tensor_split(3, dim=-1)
    split = (levels.heads, len(levels.shapes), levels.points)
    start = (reference[:, :, None] * levels.sizes - 0.5)[:, :, None, :, None]  # (B, R, 1, levels, 1, 2)
    positions = []
    for axis, offsets in enumerate((x, y)):
        position = offsets.unflatten(-1, split)
        if spread is not None:
            position = position * (spread[:, :, None, axis] * levels.sizes[:, axis])[:, :, None, :, None]
        positions.append((position + start[..., axis]).flatten(2))
    shares = weights.unflatten(-1, (levels.heads, -1)).softmax(dim=-1).flatten(2)
    return _sum_of_corners(positions[0], positions[1], shares, table, levels)


def _sum_of_corners(x: Tensor, y: Tensor, shares: Tensor, table: Tensor, levels: FeatureLevels) -> Tensor:
    """Bilinear values at positions x, y (B, R, N) in tokens (overwritten), summed per head with weights `shares`."""
    captions, rows, _ = x.shape
    x.clamp_(x.new_tensor(-1.0), levels.width)  # outside is the border of zeros
    y.clamp_(y.new_tensor(-1.0), levels.height)
    left, top = x.floor(), y.floor()
    x.sub_(left)
    y.sub_(top)
    index = top.mul_(levels.line).add_(left, alpha=levels.heads).add_(levels.origin).to(torch.int32)
    if captions > 1:
        index += torch.arange(captions, device=x.device, dtype=torch.int32).mul_(levels.heads * table.shape[1])[
            :, None, None
        ]
    lower = shares * y
    upper = shares - lower
    upper_right, lower_right = upper * x, lower * x
    per_bag = (-1, x.shape[2] // levels.heads)
    flat = table.view(-1, table.shape[2] // levels.heads)

    def bags(positions: Tensor, weights: Tensor) -> Tensor:
        return F.embedding_bag(positions.view(per_bag), flat, mode="sum", per_sample_weights=weights.view(per_bag))

    total = bags(index, upper.sub_(upper_right))
    total += bags(index + levels.heads, upper_right)
    index += levels.line_step
    total += bags(index, lower.sub_(lower_right))
    total += bags(index + levels.heads, lower_right)
    return total.view(captions, rows, -1)
