"""Masks from files: where they mark a defect, and what is odd about them; run and doctor ask the same questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL.Image import Image

from tracks.datasets.decode import decode, picture_pages, reading
from tracks.datasets.images import image_size
from tracks.datasets.metadata import is_lossy
from tracks.datasets.tiff import Wide
from tracks.errors import TrackInputError

FAINT, HALF, FULL = 32, 127, 255
GREY_TOLERANCE = 16
"""Largest difference between the channels of a grey pixel, which a JPEG may make of black and white."""
OddityKind = Literal[
    "unreadable", "of another size", "empty", "with noise", "inverted", "not on black", "not binary",
    "that mark everything",
]  # fmt: skip


@dataclass(frozen=True)
class Oddity:
    """What is odd about a mask; `text` is about masks of this kind or, where the mask is `refused`, about this one."""

    kind: OddityKind
    path: Path
    text: str
    refused: bool = True


@dataclass(frozen=True)
class MaskLevels:
    """How strongly a mask marks each pixel, (H, W) from 0 to 255, and what was done to find its background."""

    values: np.ndarray
    oddities: tuple[Oddity, ...] = ()


def read_mask(path: str | Path, above: float = 0) -> np.ndarray:
    """(H, W) bool, True where the mask marks a defect: where its level (see `mask_levels`) is greater than `above`."""
    return mask_levels(path) > above


def mask_levels(path: str | Path) -> np.ndarray:
    """How strongly a mask marks each pixel, (H, W) from 0 to 255, uint8 or float.

    Grey: the value itself (black and white are 0 and 255; 16 bits and floats up to 1 are scaled to 255, but
    integers up to 255 stand as they are). Colour: the largest channel. Transparent pixels are 0. A palette of
    greys: the grey. A palette of colours names kinds, not strengths: everything but the background is 255. The
    background is the colour of most of the border; where that is not black, everything else is 255. White all
    along the border and on most of the mask is background too. Of several pages, the strongest level counts.

    Raises:
        TrackInputError: as for `read_image`; colours of which none is the background.
    """
    return read_levels(Path(path)).values


def read_levels(path: Path) -> MaskLevels:
    """The levels of a mask, with the oddities that reading it took."""
    with reading(path):
        pages = [_page_levels(decode(path, page=page), path) for page in picture_pages(path)]
        values = np.maximum.reduce([page.values for page in pages])
    return MaskLevels(values, tuple(oddity for page in pages for oddity in page.oddities))


def defects(image: Path, masks: Sequence[Path], above: float) -> tuple[np.ndarray, list[Oddity]]:
    """Where any of an image's masks marks a defect, (H, W) bool, and all that is odd about them; raises nothing of it.

    Masks that cannot be used are left out; the image must have a size that can be read.
    """
    size = image_size(image)
    marked, oddities = np.zeros(size, dtype=bool), []
    for path in masks:
        try:
            levels = read_levels(path)
        except TrackInputError as error:
            oddities.append(Oddity("unreadable", path, str(error)))
            continue
        oddities += level_oddities(levels, path, above)
        if levels.values.shape == size:
            marked |= levels.values > above
        else:
            oddities.append(Oddity("of another size", path, _other_size(image, size, path, levels.values.shape)))
    if not marked.any() and not any(oddity.refused for oddity in oddities):
        oddities.append(Oddity("empty", masks[0], _empty(image, masks, above)))
    return marked, oddities


def level_oddities(levels: MaskLevels, path: Path, above: float) -> Iterator[Oddity]:
    """What is odd about one mask, whatever image it belongs to."""
    yield from levels.oddities
    values = levels.values
    marked = values > above
    if is_lossy(path) and (marked & (values <= FAINT)).any():
        yield Oddity("with noise", path, _noisy(path, int((marked & (values <= FAINT)).sum()), above))
    elif values.max() > HALF and (marked & (values <= HALF)).any():
        yield Oddity(
            "not binary", path,
            f"the mask has faint pixels, which count as defects (all above {above:g}); with data.mask_above=127 only "
            "those nearer to white would", refused=False,
        )  # fmt: skip
    if marked.all():
        yield Oddity("that mark everything", path, "the mask marks the whole image as defective", refused=False)


def _page_levels(picture: Image | Wide, path: Path) -> MaskLevels:
    if isinstance(picture, Wide):
        return _grey_levels(_wide_levels(picture, path), path)
    if picture.mode in ("1", "L") and not picture.has_transparency_data:
        return _grey_levels(np.asarray(picture.convert("L")), path)
    *bands, alpha = (np.asarray(band) for band in picture.convert("RGBA").split())
    high = np.maximum.reduce(bands)
    is_grey = high - np.minimum.reduce(bands) <= GREY_TOLERANCE
    if is_grey.all() or is_grey[alpha > 0].all():
        return _grey_levels(np.minimum(high, alpha), path)
    return _colour_levels(np.stack(bands, axis=-1), alpha, names_kinds=picture.mode == "P", path=path)


def _grey_levels(values: np.ndarray, path: Path) -> MaskLevels:
    """The levels as they stand, or the other way round where white is the background, or without a grey one."""
    low, high = values.min(), values.max()
    is_white, is_low = values > high / 2, values == low
    if border(is_white).all() and 0.5 < is_white.mean() < 1:
        text = "the mask is white outside of what it marks: read the other way round, black as the defect"
        return MaskLevels(high - values, (Oddity("inverted", path, text, refused=False),))
    if 0 < low < high and border(is_low).mean() > 0.5:
        return MaskLevels(np.where(is_low, 0, values), (_not_on_black(path),))
    return MaskLevels(values)


def _colour_levels(colours: np.ndarray, alpha: np.ndarray, names_kinds: bool, path: Path) -> MaskLevels:
    background = _background(colours, alpha, path)
    is_black = not background.any()
    levels = colours.max(axis=-1)
    if names_kinds or not is_black:
        difference = np.abs(colours.astype(np.int16) - background).max(axis=-1)
        threshold = difference.max() / 2 if is_lossy(path) else 0
        levels = np.where(difference > threshold, FULL, 0).astype(np.uint8)
    return MaskLevels(np.minimum(levels, alpha), () if is_black else (_not_on_black(path),))


def _not_on_black(path: Path) -> Oddity:
    text = "the mask is not on black: the colour of most of its border is taken for the background"
    return Oddity("not on black", path, text, refused=False)


def _background(colours: np.ndarray, alpha: np.ndarray, path: Path) -> np.ndarray:
    """The colour of most of the border, black before one that covers less than half; transparent pixels are black."""
    colours = np.where(alpha[..., None] > 0, colours, 0)
    of_border, counts = np.unique(border(colours), axis=0, return_counts=True)
    common = of_border[counts.argmax()]
    black = np.zeros(3, dtype=np.uint8)
    has_black = bool((colours == black).all(axis=-1).any())
    if counts.max() > counts.sum() / 2 and not (has_black and (colours == common).all(axis=-1).mean() <= 0.5):
        return common
    if has_black:
        return black
    raise TrackInputError(
        f"expected a mask in black and white, or in colours on one background, in {path}, got colours of which none "
        "fills most of the border; save the mask in black and white"
    )


def border(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of (H, W, ...) values, as (N, ...)."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _wide_levels(wide: Wide, path: Path) -> np.ndarray:
    values = wide.values if wide.values.ndim == 2 else wide.values.max(axis=-1)
    high = float(values.max())
    if not np.isfinite(high):
        raise TrackInputError(f"expected the mask {path} to hold finite numbers, got {high}; save it with 8 bits")
    limits = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    full = next((limit for limit in limits if high <= limit), high)
    values = full - values if wide.white_is_zero else values
    levels = values.astype(np.float64) * (FULL / full)
    return levels if wide.alpha is None else np.where(wide.alpha > 0, levels, 0)


def _noisy(path: Path, number: int, above: float) -> str:
    return (
        f"expected a mask without noise, got {path}, which was compressed with loss: {number:,} of its pixels lie "
        f"between {above:g} and {FAINT} of {FULL} and would count as defects; set data.mask_above=127, or save the "
        "masks as PNG"
    )


def _empty(image: Path, masks: Sequence[Path], above: float) -> str:
    more = f" (with {len(masks) - 1} more)" if len(masks) > 1 else ""
    highest = max(float(read_levels(path).values.max()) for path in masks)
    return (
        f"expected the mask {masks[0]}{more} to mark a defect (a level above {above:g}), got none above {highest:g}; "
        f"lower mask_above if the mask is fainter than that, or mend the mask, or take it away together with {image}"
    )


def _other_size(image: Path, size: tuple[int, ...], mask: Path, shape: tuple[int, ...]) -> str:
    turned = "; they agree once turned: the image carries a rotation that the mask lacks, or the reverse"
    return (
        f"expected image and mask of one size, got {image} of {size[1]} x {size[0]} and {mask} of {shape[1]} x "
        f"{shape[0]} (width x height){turned if shape == size[::-1] else ''}; make the mask anew from this image"
    )
