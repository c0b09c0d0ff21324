"""From a file to upright pixels, whatever the file: 8-bit pictures as Pillow has them, wider ones as numbers.

Only the first frame of a file with several is read, and colour profiles are not applied.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import tifffile
from PIL.Image import Image, Transpose
from tifffile import PHOTOMETRIC

from tracks.errors import TrackInputError
from tracks.names import missing_path

MAX_PIXELS = 500_000_000
# Pillow warns from 89 million pixels on, where large photographs begin; _check_size refuses above the number here.
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, PIL.Image.DecompressionBombError,
)  # fmt: skip
"""What decoders raise for a broken file."""

WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION_TAG, PHOTOMETRIC_TAG, BITS_TAG = 274, 262, 258
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a picture upright, by its EXIF orientation."""
PNG_ROTATION_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class Wide:
    """A decoded picture of more than eight bits: (H, W) or (H, W, 3) numbers as they stand in the file."""

    values: np.ndarray
    white_is_zero: bool = False
    transparent: int | None = None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what decoders raise into one paragraph that names the file."""
    try:
        yield
    except TrackInputError:
        raise
    except FileNotFoundError as error:
        raise missing_path("an image", path) from error
    except UNREADABLE as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "not a file"
        reason = "no known format" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        raise TrackInputError(
            f"expected an image that decodes, got {path} ({size}): {reason or type(error).__name__}; "
            "copy the file again from its source, or take it away"
        ) from error


def decode(path: Path, bit_depth: int | None = None) -> Image | Wide:
    """The upright picture of a file. Call it within `reading`.

    `bit_depth` only decides whether the bits that Pillow drops from 16-bit colour are missed.
    """
    with path.open("rb") as stream:
        if _is_tiff(stream) and (wide := _load_wide_tiff(stream)):
            return wide
        stream.seek(0)
        # A stream, not the path: given a path, Pillow maps uncompressed TIFFs into memory and garbles rotated ones.
        with PIL.Image.open(stream) as image:
            _check_size(image, path)
            white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_TAG) == 0  # type: ignore[attr-defined]
            sixteen_bits = _has_sixteen_bits(image, stream)
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
            upright = image.copy() if turn is None else image.transpose(turn)
    if upright.mode in WIDE_MODES:
        transparent = upright.info.get("transparency")
        return Wide(np.asarray(upright), white_is_zero, transparent if isinstance(transparent, int) else None)
    if sixteen_bits:
        _check_high_bytes(upright, bit_depth, path)
    return upright


def decoded_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone. Call it within `reading`."""
    with path.open("rb") as stream:
        height, width, orientation = _tiff_header(stream) if _is_tiff(stream) else _header(stream, path)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _load_wide_tiff(stream: BinaryIO) -> Wide | None:
    """The first page of a TIFF of floats or 16-bit numbers, or None for all that Pillow reads as well or better.

    Pillow knows no float colour and keeps only the high bytes of 16-bit colour; tifffile lacks some compressions.
    """
    try:
        with tifffile.TiffFile(stream) as tiff:
            page = tiff.pages.first
            plain = page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
            if page.dtype is None or page.dtype.itemsize == 1 or not plain or page.axes not in ("YX", "YXS", "SYX"):
                return None
            if page.samplesperpixel not in (1, 3) or page.imagewidth * page.imagelength > MAX_PIXELS:
                return None
            values = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
            orientation = page.tags.valueof(ORIENTATION_TAG, default=1)
            return Wide(_turned(values, orientation), white_is_zero=page.photometric == PHOTOMETRIC.MINISWHITE)
    except UNREADABLE:
        return None


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) numbers made upright, like `UPRIGHT` does it to a picture."""
    if orientation in (3, 4, 6, 7):
        values = values[::-1]
    if orientation in (2, 3, 7, 8):
        values = values[:, ::-1]
    return values.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else values


def _header(stream: BinaryIO, path: Path) -> tuple[int, int, int]:
    with PIL.Image.open(stream) as image:
        _check_size(image, path)
        # Asking a PNG for its EXIF decodes it whole, so look first whether it can have any.
        upright = image.format == "PNG" and not any(mark in path.read_bytes() for mark in PNG_ROTATION_MARKS)
        return image.height, image.width, 1 if upright else image.getexif().get(ORIENTATION_TAG, 1)


def _tiff_header(stream: BinaryIO) -> tuple[int, int, int]:
    with tifffile.TiffFile(stream) as tiff:
        page = tiff.pages.first
        return page.imagelength, page.imagewidth, page.tags.valueof(ORIENTATION_TAG, default=1)


def _is_tiff(stream: BinaryIO) -> bool:
    magic = stream.read(4)
    stream.seek(0)
    return magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _check_size(image: Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise TrackInputError(
            f"expected an image of at most {MAX_PIXELS:,} pixels, got {path} of {image.width:,} x {image.height:,}; "
            "cut it into tiles or scale it down"
        )


def _has_sixteen_bits(image: Image, stream: BinaryIO) -> bool:
    """Whether the file stores more than eight bits a channel, of which Pillow may keep the upper eight only."""
    if image.format == "PNG":
        stream.seek(24)  # the bit depth in the header chunk, which always comes first
        depth = stream.read(1)[0]
        stream.seek(0)
        return depth == 16
    return image.format == "TIFF" and max(image.tag_v2.get(BITS_TAG, (1,))) > 8  # type: ignore[attr-defined]


def _check_high_bytes(image: Image, bit_depth: int | None, path: Path) -> None:
    """Refuse 16-bit colour of which only the upper bytes are left, where the lower bits hold the picture."""
    bands = image.convert("RGB").getextrema()
    largest = max(high for _, high in bands)  # type: ignore[misc, has-type]
    if bit_depth not in (None, 16) or (bit_depth is None and largest < 16):
        raise TrackInputError(
            f"expected {path}, which has 16 bits a channel in colour, to use the upper ones, got values below "
            f"{(largest + 1) * 256:,} of 65,536: the lower bits cannot be read from such a file; save it with "
            "8 bits, or set bit_depth=16 if it is meant to be this dark"
        )
