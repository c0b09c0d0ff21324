"""From a file to upright pixels, whatever the file: 8-bit pictures as Pillow has them, wider ones as numbers.

Colour profiles are not applied. Damaged metadata do not matter.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import PIL.Image
from PIL.Image import Image, Transpose

import tracks.datasets.formats  # noqa: F401  (makes Pillow know the formats of installed plugins)
from tracks.command.names import missing_path
from tracks.datasets.metadata import PNG_MAGIC, without_metadata
from tracks.datasets.tiff import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    Wide,
    check_channels,
    has_wide_numbers,
    header,
    is_tiff,
    load_page,
    open_tiff,
    own_pages,
)
from tracks.errors import TrackInputError

Result = TypeVar("Result")
# Pillow warns from 89 million pixels on, where large photographs begin; _check_size refuses above the number here.
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")  # on metadata that no pixel depends on

UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error, PIL.Image.DecompressionBombError,
)  # fmt: skip
"""What decoders raise for a broken file."""

WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
PHOTOMETRIC_TAG, BITS_TAG = 262, 258
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a picture upright, by its EXIF orientation."""
PNG_ROTATION_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


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


def decode(path: Path, bit_depth: int | None = None, page: int | None = None) -> Image | Wide:
    """The upright picture of a file, or of a page of one that has several. Call it within `reading`.

    `bit_depth` only decides whether the bits that Pillow drops from 16-bit colour are missed.

    Raises:
        TrackInputError: several pictures and no `page` named, too many pixels, channels that nobody can tell.
    """
    with path.open("rb") as stream:
        if is_tiff(stream):
            return _decode_tiff(stream, bit_depth, page, path)
        return _undamaged(stream, lambda source: _decode(source, bit_depth, 0, path))


def picture_pages(path: Path) -> list[int]:
    """The pages of a file that are pictures of their own: several in some TIFFs. Call it within `reading`."""
    with path.open("rb") as stream:
        return _pages(stream) if is_tiff(stream) else [0]


def decoded_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone. Call it within `reading`."""
    with path.open("rb") as stream:
        if is_tiff(stream):
            with open_tiff(stream) as tiff:
                height, width, orientation = header(tiff.pages[own_pages(tiff)[0]].aspage())
        else:
            height, width, orientation = _undamaged(stream, lambda source: _header(source, path))
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def is_wide(path: Path) -> bool:
    """Whether a file has more than eight bits a channel, from its header alone. Call it within `reading`."""
    with path.open("rb") as stream:
        if is_tiff(stream):
            with open_tiff(stream) as tiff:
                return has_wide_numbers(tiff.pages[own_pages(tiff)[0]].aspage())
        return _undamaged(stream, _is_wide)


def _is_wide(stream: BinaryIO) -> bool:
    with PIL.Image.open(stream) as image:
        return image.mode in WIDE_MODES or _has_sixteen_bits(image, stream)


def _undamaged(stream: BinaryIO, read: Callable[[BinaryIO], Result]) -> Result:
    """What `read` makes of a file or, where it fails, of the same file without its metadata."""
    try:
        return read(stream)
    except TrackInputError:
        raise
    except UNREADABLE:
        stream.seek(0)
        if (bare := without_metadata(stream.read())) is None:
            raise
        return read(io.BytesIO(bare))


def _decode_tiff(stream: BinaryIO, bit_depth: int | None, page: int | None, path: Path) -> Image | Wide:
    """Pillow knows no float colour and keeps only the high bytes of 16-bit colour; tifffile lacks some compressions."""
    pages = _pages(stream) if page is None else [page]
    if len(pages) > 1:
        raise TrackInputError(
            f"expected one picture in {path}, got {len(pages)} pages of one size; save each page in a file of its own"
        )
    if (wide := _load_tiff(stream, pages[0], path, only_wide=True)) is not None:
        return wide
    try:
        return _undamaged(stream, lambda source: _decode(source, bit_depth, pages[0], path))
    except TrackInputError:
        raise
    except UNREADABLE:
        if (other := _load_tiff(stream, pages[0], path, only_wide=False)) is None:
            raise
        return other


def _load_tiff(stream: BinaryIO, index: int, path: Path, only_wide: bool) -> Wide | None:
    """The numbers of a page, or None for what tifffile cannot read and, if `only_wide`, what has eight bits."""
    try:
        with open_tiff(stream) as tiff:
            page = tiff.pages[index].aspage()
            check_channels(page, path)
            return None if only_wide and not has_wide_numbers(page) else load_page(page)
    except TrackInputError:
        raise
    except UNREADABLE:
        return None


def _pages(stream: BinaryIO) -> list[int]:
    try:
        with open_tiff(stream) as tiff:
            return own_pages(tiff)
    except UNREADABLE:
        return [0]


def _decode(stream: BinaryIO, bit_depth: int | None, index: int, path: Path) -> Image | Wide:
    """The picture as Pillow has it, made upright."""
    stream.seek(0)
    # A stream, not the path: given a path, Pillow maps uncompressed TIFFs into memory and garbles rotated ones.
    with PIL.Image.open(stream) as image:
        _check_size(image, path)
        _check_one_frame(image, path)
        if index:
            image.seek(index)
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_TAG) == 0  # type: ignore[attr-defined]
        sixteen_bits = _has_sixteen_bits(image, stream)
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        upright = image.copy() if turn is None else image.transpose(turn)
    if upright.mode in WIDE_MODES:
        transparent = upright.info.get("transparency")
        return Wide(np.asarray(upright), white_is_zero, transparent if isinstance(transparent, int) else None)
    if sixteen_bits:
        _check_high_bytes(upright, bit_depth, path)
    return upright


def _header(stream: BinaryIO, path: Path) -> tuple[int, int, int]:
    # Asking a PNG for its EXIF decodes it whole, so look first whether it can have any.
    is_png = stream.read(len(PNG_MAGIC)) == PNG_MAGIC
    plain = is_png and not any(mark in stream.read() for mark in PNG_ROTATION_MARKS)
    stream.seek(0)
    with PIL.Image.open(stream) as image:
        _check_size(image, path)
        if is_png and not plain:
            image.load()
        return image.height, image.width, 1 if plain else _orientation(image)


def _orientation(image: Image) -> int:
    """The EXIF orientation of a picture; 1 (upright) where it has none or its EXIF is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        return orientation if orientation in UPRIGHT else 1
    except UNREADABLE:
        return 1


def _check_size(image: Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise TrackInputError(
            f"expected an image of at most {MAX_PIXELS:,} pixels, got {path} of {image.width:,} x {image.height:,}; "
            "cut it into tiles or scale it down"
        )


def _check_one_frame(image: Image, path: Path) -> None:
    if image.format in ANIMATED and (frames := getattr(image, "n_frames", 1)) > 1:
        raise TrackInputError(
            f"expected one picture in {path}, got an animation of {frames} frames; save the frames as files"
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
