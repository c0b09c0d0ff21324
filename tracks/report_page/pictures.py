"""The pictures of an image that a report shows: the photo, the outlines on it, the anomaly map."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
import PIL.Image
from matplotlib import colormaps

from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError
from tracks.report_page.choice import Pick
from tracks.report_page.html import percent, significant
from tracks.run.overlay import HeatScale, fitted, shrunk
from tracks.run.store import PredictionStore, Row

COLOUR_MAP = "inferno"
"""Its lightness only rises, so that brighter is more anomalous, also in print and for those who see fewer colours.
(The overlays' turbo is as dark at its hot end as at its cold one; there a cold pixel is the photo itself.)"""
ENCODINGS = (("webp", {"quality": 76, "method": 6}), ("jpeg", {"quality": 78, "optimize": True}))
LONGEST_PATH = 6000
"""Characters; a mask with a longer outline is taken to a grid half as fine, until it fits."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn: the colour scale, the pixel threshold to outline, and the longest side in pixels."""

    scale: HeatScale
    threshold: float | None
    side: int


@dataclass(frozen=True)
class Outline:
    """The `d` of a path through the middles of pixels, and how wide and high one is in the picture."""

    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """An image to show, in pixels of the page: photo (None without one) and map as data URIs, outlines, their words.

    `defect` outlines the mask, `called` the pixels at or above the threshold; None where there are none.
    """

    pick: Pick
    width: int
    height: int
    photo: str | None
    heat: str
    defect: Outline | None
    called: Outline | None
    spoken_outlines: str
    spoken_map: str


class Photos:
    """Finds the photo of a row by its name in the data set; `remarks` says which were not found, and why."""

    def __init__(self, dataset: Dataset | None, why_none: str = "") -> None:
        self.dataset = dataset
        self.why_none = why_none
        self._missing: dict[str, list[str]] = {}
        self._samples = lru_cache(maxsize=1)(self._list)

    def find(self, row: Row) -> PIL.Image.Image | None:
        """The photo in RGB, None where it cannot be had or has changed since it was predicted."""
        if self.dataset is None:
            return None
        try:
            sample = self._samples(row.category).get(row.name)
            if sample is not None and sample.fingerprint == row.fingerprint:
                return sample.load_image()
            self._lack("no longer in the data set" if sample is None else "changed since they were predicted")
        except (TrackInputError, OSError) as error:
            self._lack("not readable", f" (the first: {error})")
        return None

    @property
    def remarks(self) -> list[str]:
        """Sentences about the photos that are not shown."""
        if self.dataset is None:
            return [f"The photos are not shown, only maps and masks: {self.why_none}."]
        return [f"{len(told)} of the photos to show: {what}{told[0]}." for what, told in self._missing.items()]

    def _list(self, category: str) -> Mapping[str, Sample]:
        assert self.dataset is not None
        return {sample.name: sample for sample in self.dataset.test(category)}

    def _lack(self, what: str, detail: str = "") -> None:
        self._missing.setdefault(what, []).append(detail)


def read_picture(pick: Pick, store: PredictionStore, photos: Photos, style: Style) -> Picture:
    """The pictures of one image of a run."""
    return draw_picture(pick, store.read_map(pick.row), store.read_mask(pick.row), photos.find(pick.row), style)


def draw_picture(
    pick: Pick, anomaly_map: np.ndarray, mask: np.ndarray | None, photo: PIL.Image.Image | None, style: Style
) -> Picture:
    """The pictures of an image by its map (H, W), its bool mask (H, W) and its photo of any size."""
    small = shrunk(photo, style.side) if photo else None
    size = small.size if small else fitted(_size(anomaly_map), style.side)
    called = None if style.threshold is None else anomaly_map.astype(np.float32) >= style.threshold
    parts = []
    if mask is not None:
        parts.append(f"the defect covers {percent(float(mask.mean()))} percent" if mask.any() else "no defect")
    if called is not None:
        parts.append(f"{percent(float(called.mean()))} percent lies at or above the pixel threshold")
    return Picture(
        pick,
        *size,
        photo=data_uri(small) if small else None,
        heat=data_uri(heat_picture(anomaly_map, style)),
        defect=None if mask is None else outline(mask, size),
        called=None if called is None else outline(called, size),
        spoken_outlines=f"Outlines on {pick.row.name}: {', '.join(parts) or 'nothing known'}",
        spoken_map=f"Anomaly map of {pick.row.name}, maximum {significant(float(anomaly_map.max()))}",
    )


def heat_picture(anomaly_map: np.ndarray, style: Style) -> PIL.Image.Image:
    """A map (H, W) in colours, `scale.low` and below the darkest, `scale.high` and above the lightest, RGB.

    Shrunk by averaging to at most `style.side`, never enlarged.
    """
    size = fitted(_size(anomaly_map), style.side)
    small = PIL.Image.fromarray(anomaly_map.astype(np.float32)).resize(size, PIL.Image.Resampling.BOX)
    span = style.scale.high - style.scale.low
    shares = np.clip((np.asarray(small) - style.scale.low) / span, 0, 1) if span > 0 else np.zeros(size[::-1])
    return PIL.Image.fromarray(colours()[np.rint(shares * 255).astype(np.uint8)])


@cache
def colours() -> np.ndarray:
    """The colour scale from low to high, (256, 3) uint8."""
    return np.rint(colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


def data_uri(image: PIL.Image.Image) -> str:
    """An RGB image as a data URI, in whichever of WebP and JPEG is shorter."""
    encoded = {}
    for kind, options in ENCODINGS:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def outline(mask: np.ndarray, size: tuple[int, int]) -> Outline | None:
    """The outline of the True pixels of a mask (H, W) stretched over a picture of (width, height); None without any.

    Where the picture has fewer pixels than the mask, one is inside where any pixel of the mask is: no speck is lost.
    """
    if not mask.any():
        return None
    grid = size
    while True:
        share = PIL.Image.fromarray(mask.astype(np.float32)).resize(grid, PIL.Image.Resampling.BOX)
        contours, _ = cv2.findContours(
            (np.asarray(share) > 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        path = "".join(f"M{' '.join(map(str, contour.ravel()))}z" for contour in contours)
        if len(path) <= LONGEST_PATH:
            return Outline(path, size[0] / grid[0], size[1] / grid[1])
        grid = (max(1, grid[0] // 2), max(1, grid[1] // 2))


def _size(anomaly_map: np.ndarray) -> tuple[int, int]:
    height, width = anomaly_map.shape
    return width, height
