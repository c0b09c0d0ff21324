"""Reads an MVTec AD 2 submission back, packed or as a folder, and names everything that is wrong with it."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile

from tracks.submission.contents import Problem, Wrong, check_contents

MAPS, MASKS = "anomaly_images", "anomaly_images_thresholded"
SETS = {"test_private": "regular", "test_private_mixed": "mixed"}
"""The two private test sets and the ending of their file names."""
PUBLISHED_COUNTS = {
    "can": 321, "fabric": 314, "fruit_jelly": 255, "rice": 277, "sheet_metal": 142, "vial": 276, "wallplugs": 232,
    "walnuts": 228,
}  # fmt: skip
"""Images of each category, the same number in both sets; MVTec's checker."""


def image_places(counts: Mapping[str, int]) -> list[str]:
    """Every image of a whole submission, "can/test_private/000_regular" and so on; numbered from 000."""
    return [
        f"{category}/{name}/{number:03d}_{ending}"
        for category, count in counts.items()
        for name, ending in SETS.items()
        for number in range(count)
    ]


def map_file(place: str) -> str:
    """Where the map of an image goes, relative to the folder that is packed."""
    return f"{MAPS}/{place}.tiff"


def mask_file(place: str) -> str:
    """Where the binary map of an image goes."""
    return f"{MASKS}/{place}.png"


def validate(
    path: Path, counts: Mapping[str, int] = PUBLISHED_COUNTS, thresholded: bool = True, same_size: bool = True
) -> list[Problem]:
    """Everything wrong with the submission at `path` (a .tar.gz or a folder); an empty list if it is right.

    `counts` are the images of each category in each of the two test sets. With `thresholded` the binary maps must be
    there, without they must not. `same_size` asks the two files of an image to be of one size, which no source states.
    Kinds of problem: unreadable, link, root, extra, duplicate, missing, dtype, shape, number, values, size.
    """
    places = image_places(counts)
    expected = [map_file(place) for place in places] + [mask_file(place) for place in places if thresholded]
    shapes: dict[str, tuple[int, ...]] = {}
    problems = check_contents(path, expected, lambda name, content: _check_file(name, content, shapes), inside="")
    if same_size and thresholded:
        problems += _unlike_sizes(places, shapes)
    return problems


def _check_file(name: str, content: bytes, shapes: dict[str, tuple[int, ...]]) -> Wrong | None:
    wrong, shape = _check_map(content) if name.startswith(f"{MAPS}/") else _check_mask(content)
    if wrong is None:
        shapes[name] = shape
    return wrong


def _check_map(content: bytes) -> tuple[Wrong | None, tuple[int, ...]]:
    try:
        values = tifffile.imread(io.BytesIO(content))
    except Exception as error:  # a damaged file makes tifffile raise whatever its bytes lead it into
        return ("unreadable", f"expected a TIFF, got: {error}"), ()
    if values.dtype != np.float16:
        return ("dtype", f"expected float16, got {values.dtype}"), ()
    if values.ndim != 2 or not values.size:
        return ("shape", f"expected (h, w), got {values.shape}"), ()
    if not np.isfinite(values).all():
        return ("number", "expected finite values, got NaN or infinity"), ()
    return None, values.shape


def _check_mask(content: bytes) -> tuple[Wrong | None, tuple[int, ...]]:
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # as above, of Pillow
        return ("unreadable", f"expected a PNG, got: {error}"), ()
    if values.ndim != 2:
        return ("shape", f"expected (h, w), got {values.shape}"), ()
    if mode != "L":
        return ("dtype", f"expected 8-bit grey, got mode {mode}"), ()
    if other := sorted(set(np.unique(values).tolist()) - {0, 255}):
        return ("values", f"expected 0 and 255 alone, got {other[0]} too"), ()
    return None, values.shape


def _unlike_sizes(places: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    problems = []
    for place in places:
        of_map, of_mask = shapes.get(map_file(place)), shapes.get(mask_file(place))
        if of_map and of_mask and of_map != of_mask:
            problems.append(Problem("size", mask_file(place), f"expected {of_map} as its map, got {of_mask}"))
    return problems
