"""Pictures from files, as a person sees them: rotation, palette, transparency, 16 bits, CMYK."""

from pathlib import Path

import numpy as np
import PIL.Image
from PIL.Image import Image

from tracks.datasets.decode import decode, decoded_size, reading
from tracks.datasets.tiff import Wide
from tracks.errors import TrackInputError

GUESSED_DEPTHS = (8, 12, 16)
"""Depths among which the largest value of a 16-bit file decides; see `read_image`."""


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
        alpha = _scaled(wide.alpha, None, path)
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
    if bit_depth is None and values.dtype.kind == "f" and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    depth = bit_depth or guessed_depth(high)
    if not 8 <= depth <= 16 or high >= 2**depth:
        raise TrackInputError(
            f"expected the values of {path} to fit into bit_depth={depth} (8 to 16), got up to {high:g}; "
            "set bit_depth to the camera's, or save the file with 8 or 16 bits"
        )
    scaled = values >> (depth - 8) if values.dtype.kind in "iu" else np.floor(values / 2 ** (depth - 8))
    return scaled.astype(np.uint8)


def guessed_depth(high: float) -> int:
    """The bits in use where the largest value is `high`."""
    return next((depth for depth in GUESSED_DEPTHS if high < 2**depth), 16)


def _on_white(image: Image) -> Image:
    if image.has_transparency_data or image.mode == "RGBa":
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
