"""Pictures from files, as a person sees them: rotation, palette, transparency, 16 bits, CMYK."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
from PIL.Image import Image
from tqdm import tqdm

from tracks.datasets.decode import decode, decoded_size, is_wide, reading
from tracks.datasets.notices import differs_from_earlier, notice
from tracks.datasets.tiff import Wide
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

AT_ONCE = 1000
"""So many files wait to be looked into; a pool of threads keeps 2 KB for each."""
GUESSED_DEPTHS = (8, 12, 16)
"""Depths among which the largest value of a 16-bit file decides; see `read_image`."""


OTHER_DEPTH = (
    "its largest value speaks for another bit depth than that of files before it, so they differ in brightness: set "
    "bit_depth (on a track data.bit_depth) to that of the camera"
)


def read_image(path: str | Path, bit_depth: int | None = None) -> Image:
    """The picture in RGB: upright, transparency on white, more than eight bits a channel scaled down to eight.

    `bit_depth` says how many of a 16-bit file's bits are in use. Files do not say it themselves; where it is
    None the largest value decides: below 256 the values are taken for 8-bit, below 4,096 for 12-bit, otherwise
    for 16-bit ones. The steps are this coarse so that dark and bright pictures of one camera end at one
    brightness; a 10- or 14-bit camera comes out dark, though evenly, until told. Floats are read as 0 to 1, or
    if larger like integers.

    Raises:
        TrackInputError: no file, a file that does not decode or is truncated, values outside their range.
    """
    path = Path(path)
    with reading(path):
        picture = decode(path, bit_depth)
        if isinstance(picture, Wide):
            picture = _eight_bits(picture, bit_depth, path)
        return _on_white(picture)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone; TrackInputError if it has none."""
    path = Path(path)
    with reading(path):
        return decoded_size(path)


def _eight_bits(wide: Wide, bit_depth: int | None, path: Path) -> Image:
    """Scale to eight bits by the depth given or guessed."""
    picture = _scaled(wide.values, bit_depth, path)
    picture = 255 - picture if wide.white_is_zero else picture
    if wide.transparent is not None:
        alpha = np.where(wide.values == wide.transparent, 0, 255).astype(np.uint8)
    elif wide.alpha is not None:
        alpha = _scaled(wide.alpha, guessed_depth(float(wide.alpha.max())), path)
    else:
        return PIL.Image.fromarray(picture)
    colours = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
    rgba = np.ascontiguousarray(np.concatenate([colours, alpha[..., None]], axis=-1))
    return PIL.Image.frombytes("RGBa" if wide.premultiplied else "RGBA", alpha.shape[::-1], rgba.tobytes())


def _scaled(values: np.ndarray, bit_depth: int | None, path: Path) -> np.ndarray:
    """Numbers as uint8, by the depth given or guessed."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise TrackInputError(
            f"expected {path} to hold numbers from 0 on, got {low:g} to {high:g}; save it with 8 or 16 bits"
        )
    if values.dtype.kind == "f" and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    depth = bit_depth or guessed_depth(high)
    if bit_depth is None and differs_from_earlier("bit depth", depth):
        notice(OTHER_DEPTH, path)
    if not 8 <= depth <= 16 or high >= 2**depth:
        raise TrackInputError(
            f"expected the values of {path} to fit into bit_depth={depth} (8 to 16), got up to {high:g}; "
            "set bit_depth to the camera's, or save the file with 8 or 16 bits"
        )
    scaled = values >> (depth - 8) if values.dtype.kind in "iu" else np.floor(values / 2 ** (depth - 8))
    return scaled.astype(np.uint8)


def common_bit_depth(paths: Iterable[Path]) -> int | None:
    """The depth that all files of more than eight bits fit into, by their largest value; None if there are none.

    Floats from 0 to 1 have no depth; files that cannot be read do not count.
    """
    waiting, largest = iter(paths), 0.0
    with ThreadPoolExecutor() as pool, tqdm(desc="bit depth", unit="image", leave=False, delay=2) as bar:
        while some := list(islice(waiting, AT_ONCE)):
            largest = max(largest, *pool.map(_largest_value, some))
            bar.update(len(some))
    if not largest:
        return None
    depth, needed = guessed_depth(largest), int(largest).bit_length()
    if depth - needed >= 2:
        log.warning(
            "the photos of more than eight bits hold values up to %s and are read as %d bits; if they come out dark, "
            "set bit_depth to that of the camera, for example bit_depth=%d",
            f"{largest:,.0f}", depth, needed + needed % 2,
        )  # fmt: skip
    return depth


def _largest_value(path: Path) -> float:
    """The largest of the numbers whose depth a file does not tell, 0 if there are none."""
    try:
        with reading(path):
            picture = decode(path, 16) if is_wide(path) else None
    except TrackInputError:
        return 0
    if picture is None:
        return 0
    if not isinstance(picture, Wide):
        return 2**16 - 1  # colour of which only the high bytes are left
    largest = float(picture.values.max())
    return 0 if not np.isfinite(largest) or (picture.values.dtype.kind == "f" and largest <= 1) else largest


def guessed_depth(high: float) -> int:
    """The bits in use where the largest value is `high`."""
    return next((depth for depth in GUESSED_DEPTHS if high < 2**depth), 16)


def _on_white(image: Image) -> Image:
    if image.has_transparency_data or image.mode == "RGBa":
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
