"""What Pillow does not know of TIFF files: which page is the picture, floats, more than eight bits in colour."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from tracks.datasets.notices import notice
from tracks.errors import TrackInputError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it reports damaged tags that no pixel depends on

MAX_PIXELS = 500_000_000
ORIENTATION_TAG = 274
REDUCED, MASK_OF_ANOTHER = 1, 4
"""Bits of NewSubfileType (TIFF 6.0): pages that are no pictures of their own."""
GREY, COLOUR = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE), (PHOTOMETRIC.RGB,)
MORE_CHANNELS = "channels beyond red, green, blue and transparency are left out"
ALPHAS = (1, 2)
"""Values of ExtraSamples for transparency; 1 means that the colours are multiplied by it."""


@dataclass(frozen=True)
class Wide:
    """A decoded picture of more than eight bits: (H, W) or (H, W, 3) numbers as they stand in the file.

    `alpha` is (H, W); if `premultiplied`, the numbers were multiplied by it.
    """

    values: np.ndarray
    white_is_zero: bool = False
    transparent: int | None = None
    alpha: np.ndarray | None = None
    premultiplied: bool = False


def is_tiff(stream: BinaryIO) -> bool:
    """Whether a file says that it is a TIFF; leaves the stream at its start."""
    stream.seek(0)
    magic = stream.read(4)
    stream.seek(0)
    return magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_tiff(stream: BinaryIO) -> TiffFile:
    """A TIFF from the start of its stream, wherever that stands."""
    stream.seek(0)
    return TiffFile(stream)


def own_pages(tiff: TiffFile) -> list[int]:
    """The pages that are pictures: the largest ones, without thumbnails and masks of other pages."""
    pages = [page.aspage() for page in tiff.pages]
    own = [i for i, page in enumerate(pages) if not page.subfiletype & (REDUCED | MASK_OF_ANOTHER)] or [0]
    largest = max(pages[i].imagewidth * pages[i].imagelength for i in own)
    return [i for i in own if pages[i].imagewidth * pages[i].imagelength == largest]


def header(page: TiffPage) -> tuple[int, int, int]:
    """(height, width, orientation) as they stand in the file."""
    orientation = page.tags.valueof(ORIENTATION_TAG, default=1)
    return page.imagelength, page.imagewidth, orientation if isinstance(orientation, int) else 1


def check_channels(page: TiffPage, path: Path) -> None:
    """Refuse channels that nobody can tell the colours of; see `Wide` for what is read."""
    number, extra = page.samplesperpixel, page.extrasamples
    is_grey = page.photometric in GREY
    if is_grey and not (number in (1, 3) or (number == 2 and extra and extra[0] in ALPHAS)):
        raise TrackInputError(
            f"expected a picture in grey or in red, green and blue in {path}, got {number} channels of {page.dtype} "
            "that the file does not name; save the one to look at, or three of them as colours, in a file of its own"
        )
    if page.photometric in COLOUR and len([kind for kind in extra if kind not in ALPHAS]):
        notice(MORE_CHANNELS, path)


def load_page(page: TiffPage) -> Wide | None:
    """The numbers of a page of greys or colours, upright; None for other kinds of page."""
    if page.dtype is None or page.photometric not in GREY + COLOUR or page.axes not in ("YX", "YXS", "SYX"):
        return None
    if page.imagewidth * page.imagelength > MAX_PIXELS:
        return None
    values = page.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = turned(values, header(page)[2])
    colours = 3 if page.samplesperpixel >= 3 else 1
    kind = page.extrasamples[0] if page.extrasamples and page.samplesperpixel > colours else None
    alpha = values[..., colours] if kind in ALPHAS else None
    if values.ndim == 3:
        values = values[..., :3] if colours == 3 else values[..., 0]
    return Wide(values, page.photometric == PHOTOMETRIC.MINISWHITE, None, alpha, kind == ALPHAS[0])


def has_wide_numbers(page: TiffPage) -> bool:
    """Whether a page holds floats or more than eight bits a channel."""
    return page.dtype is not None and page.dtype.itemsize > 1


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) numbers made upright by their EXIF orientation."""
    if orientation in (3, 4, 6, 7):
        values = values[::-1]
    if orientation in (2, 3, 7, 8):
        values = values[:, ::-1]
    return values.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else values
