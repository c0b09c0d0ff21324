"""A region of interest: the part of every photo that is looked at."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from tracks.datasets.files import FileSample
from tracks.datasets.images import read_image
from tracks.errors import TrackInputError

SIDE = 2048
"""At this many rows and columns a polygon is kept."""
RULE = "cropped to the region's bounding box, of which the image score is; the map is blank outside the region"


class Region:
    """The inside of a mask (not black) or of a polygon, in shares of a photo's width and height.

    Photos and references are cropped to its bounding box. The image score is that of the box; outside the region the
    map is blanked.
    """

    def __init__(self, given: str | Sequence[Sequence[float]] | np.ndarray):
        """Read it: the path of a mask, points, or a mask (h, w) bool itself.

        Raises:
            TrackInputError: no mask that decodes, no polygon of three points inside the photo, or nothing inside.
        """
        mask = given if isinstance(given, np.ndarray) else _mask_of(given)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            raise TrackInputError(f"expected a region of interest with something inside, got {given} with nothing")
        (height, width), (top, left) = mask.shape, (rows[0], columns[0])
        bottom, right = rows[-1] + 1, columns[-1] + 1
        self.box = (left / width, top / height, right / width, bottom / height)
        self._inside = PIL.Image.fromarray(mask[top:bottom, left:right])
        self.mask = mask
        self.digest = hashlib.sha256(np.packbits(mask).tobytes() + str(mask.shape).encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """How it stands in run.json."""
        return {"sha256": self.digest, "box": [round(float(share), 4) for share in self.box], "rule": RULE}

    def pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The bounding box in a photo of `size` (width, height): left, top, right, bottom, one pixel at least."""
        left, top = (min(side - 1, round(self.box[axis] * side)) for axis, side in enumerate(size))
        right, bottom = (round(self.box[axis + 2] * side) for axis, side in enumerate(size))
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which pixels of a map (h, w) of the box are inside, bool; one at least."""
        inside = np.asarray(self._inside.resize((shape[1], shape[0]), PIL.Image.Resampling.NEAREST))
        return inside if inside.any() else np.ones(shape, bool)

    def blanked(self, anomaly_map: np.ndarray) -> np.ndarray:
        """The map with the lowest value inside in place of all that is outside."""
        inside = self.inside(anomaly_map.shape)
        return np.where(inside, anomaly_map, anomaly_map[inside].min())

    def on_photo(self, found: Sequence[dict[str, Any]], size: tuple[int, int]) -> list[dict[str, Any]]:
        """Regions of defects, found in the box, as boxes and shares of the whole photo of `size` (width, height)."""
        left, top, right, bottom = self.pixels(size)
        share = (right - left) * (bottom - top) / (size[0] * size[1])
        shifted = [[x0 + left, y0 + top, x1 + left, y1 + top] for x0, y0, x1, y1 in (each["box"] for each in found)]
        return [
            {**each, "box": box, "area": round(each["area"] * share, 6)}
            for each, box in zip(found, shifted, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True)
class CroppedSample(FileSample):
    """A photo, `whole`, of which only the bounding box of a region is seen."""

    whole: FileSample | None = None
    region: Region | None = None

    @property
    def fingerprint(self) -> str:
        """That of the whole photo."""
        assert self.whole is not None
        return self.whole.fingerprint

    def load_image(self) -> PIL.Image.Image:
        """The box of the picture in RGB."""
        assert self.whole is not None
        assert self.region is not None
        picture = self.whole.load_image()
        return picture.crop(self.region.pixels(picture.size))


def cropped(samples: Sequence[FileSample], region: Region | None) -> Sequence[FileSample]:
    """The photos, seen through the region if there is one."""
    if region is None:
        return samples
    known = [field.name for field in fields(FileSample)]
    return [
        CroppedSample(**{name: getattr(sample, name) for name in known}, whole=sample, region=region)
        for sample in samples
    ]


def photo_size(sample: FileSample) -> tuple[int, int]:
    """(width, height) of a whole photo."""
    return sample.whole.size if isinstance(sample, CroppedSample) and sample.whole else sample.size


def _mask_of(given: str | Sequence[Sequence[float]]) -> np.ndarray:
    return _from_file(Path(given).expanduser()) if isinstance(given, str) else _from_points(given)


def _from_file(path: Path) -> np.ndarray:
    return np.asarray(read_image(path)).max(axis=2) > 0


def _from_points(points: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        corners = np.array(points, dtype=float)  # numbers in a YAML file of ours may come as text
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not ((corners >= 0) & (corners <= 1)).all():
        raise TrackInputError(
            "expected roi to be the path of a mask, or three or more points [x,y] in shares of width and height from "
            f"0 to 1, got {points}"
        )
    canvas = PIL.Image.new("L", (SIDE, SIDE))
    PIL.ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners * (SIDE - 1)], fill=255)
    return np.asarray(canvas) > 0
