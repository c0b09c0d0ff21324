"""Masks kept small: each as the bits of its bounding box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedMask:
    """One (H, W) mask as bits, row by row, of the rectangle around what is set."""

    size: tuple[int, int]
    rows: slice
    columns: slice
    bits: np.ndarray
    area: int

    @classmethod
    def pack(cls, masks: Tensor) -> list[Self]:
        """(N, H, W) bool masks of any device; only their rectangles leave it."""
        size = (masks.shape[1], masks.shape[2])
        down, across = _extents(masks.any(dim=2)), _extents(masks.any(dim=1))
        return [cls._of(mask, size, *edges) for mask, *edges in zip(masks, down, across, strict=True)]

    @classmethod
    def _of(cls, mask: Tensor, size: tuple[int, int], rows: slice, columns: slice) -> Self:
        cut = mask[rows, columns].cpu().numpy()
        return cls(size, rows, columns, np.packbits(cut), int(cut.sum()))

    @property
    def rectangle(self) -> np.ndarray:
        """(h, w) bool: the mask within its rectangle."""
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return np.unpackbits(self.bits, count=height * width).view(bool).reshape(height, width)

    def overlap(self, other: "PackedMask") -> float:
        """Intersection over union with a mask of the same image; 0 where both are empty."""
        rows, columns = _common(self.rows, other.rows), _common(self.columns, other.columns)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return 0.0
        shared = int((self._part(rows, columns) & other._part(rows, columns)).sum())
        return shared / (self.area + other.area - shared)

    def _part(self, rows: slice, columns: slice) -> np.ndarray:
        top, left = self.rows.start, self.columns.start
        return self.rectangle[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def unpack(masks: Sequence[PackedMask], size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool on the CPU; `size` is (H, W), which no mask at all would not tell."""
    full = np.zeros((len(masks), *size), dtype=bool)
    for mask, packed in zip(full, masks, strict=True):
        mask[packed.rows, packed.columns] = packed.rectangle
    return torch.from_numpy(full)


def _extents(used: Tensor) -> list[slice]:
    """(N, L) bool: from the first to behind the last that is set; empty slices where none is."""
    length = used.shape[1]
    place = torch.arange(length, device=used.device)
    first = torch.where(used, place, length).amin(dim=1)
    stop = torch.where(used, place + 1, 0).amax(dim=1)
    edges = torch.stack([first, stop], dim=1).tolist()
    return [slice(start, end) if start < end else slice(0, 0) for start, end in edges]


def _common(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))
