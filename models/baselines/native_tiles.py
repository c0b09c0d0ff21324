"""One image in overlapping tiles for a net, and their tokens as the maps of one image, overlaps cut in the middle.

Nothing is stretched or padded, and the tokens of a tile are those that the net gives of it alone. (models/tiles.py lets
any model judge tiles beside the whole image, and blends what it says.)
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.baselines.patches import encoded, stage_maps
from models.features import PatchBackbone


@dataclass(frozen=True)
class Span:
    """A tile along one side, in cells: where it begins, and the first and the end of those that are taken from it."""

    start: int
    first: int
    end: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles of `tile` cells along a side of `length`, evenly spread, each two sharing at least 2 `overlap` cells.

    ceil((length - tile) / (tile - 2 overlap)) + 1 of them (SuperADD); one of the whole side where that is no longer.
    """
    if length <= tile:
        return [Span(0, 0, length)]
    count = math.ceil((length - tile) / (tile - 2 * overlap)) + 1
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    cuts = [0, *((one + tile + other) // 2 for one, other in pairwise(starts)), length]
    return [Span(start, first, end) for start, (first, end) in zip(starts, pairwise(cuts), strict=True)]


def tiled_maps(
    backbone: PatchBackbone, image: Tensor, stages: tuple[int, ...], tile_px: int, overlap_px: int
) -> list[Tensor]:
    """The chosen stages of an image (3, H, W), each (C_n, h_n, w_n), from tiles of `tile_px` pixels a side.

    All sizes are multiples of the backbone's stride.
    """
    cell = backbone.stride
    rows, columns = (spans(side // cell, tile_px // cell, overlap_px // cell) for side in image.shape[1:])
    high, wide = (min(tile_px, side) for side in image.shape[1:])
    corners = [(row.start * cell, column.start * cell) for row in rows for column in columns]
    tiles = torch.stack([image[:, top : top + high, left : left + wide] for top, left in corners])
    maps = stage_maps(encoded(backbone, tiles, stages), backbone.stages, stages)
    return [_joined(each, rows, columns, each.shape[2] * cell // high) for each in maps]


def _joined(maps: Tensor, rows: list[Span], columns: list[Span], finer: int) -> Tensor:
    """Maps (T, C, h, w) of the tiles, row by row, as one (C, H, W); a cell is `finer` x `finer` tokens."""
    lines = []
    for row, line in zip(rows, maps.unflatten(0, (len(rows), len(columns))), strict=True):
        down = slice((row.first - row.start) * finer, (row.end - row.start) * finer)
        across = [slice((each.first - each.start) * finer, (each.end - each.start) * finer) for each in columns]
        lines.append(torch.cat([part[:, down, cut] for part, cut in zip(line, across, strict=True)], dim=2))
    return torch.cat(lines, dim=1)
