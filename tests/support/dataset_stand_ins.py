"""Small files in the layouts of real data sets, for the tests of their readers."""

from pathlib import Path

import numpy as np
import PIL.Image

SIZE = (8, 6)
"""(width, height) of every stand-in."""


def save_image(path: Path, value: int = 100, size: tuple[int, int] = SIZE) -> Path:
    """A grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", size, value).save(path)
    return path


def save_mask(path: Path, levels: dict[tuple[int, int], int] | None = None, size: tuple[int, int] = SIZE) -> Path:
    """A black mask with levels at some (row, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    for place, level in ({(0, 0): 255} if levels is None else levels).items():
        values[place] = level
    PIL.Image.fromarray(values).save(path)
    return path


def marked(mask: np.ndarray | None) -> set[tuple[int, int]]:
    """The (row, column) of every defect pixel of a loaded mask, which must have the stand-ins' size."""
    assert mask is not None
    assert mask.shape == SIZE[::-1]
    assert mask.dtype == bool
    return {(int(row), int(column)) for row, column in zip(*mask.nonzero(), strict=True)}
