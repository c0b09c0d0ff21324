"""The format of the MVTec AD 2 server (VAND 3.0 category 1, VAND 4.0 industrial): maps and binary maps, as .tar.gz.

    <name>/anomaly_images/<category>/test_private/000_regular.tiff                   (h, w) float16, higher = worse
    <name>/anomaly_images/<category>/test_private_mixed/000_mixed.tiff
    <name>/anomaly_images_thresholded/<category>/test_private/000_regular.png        (h, w) 8 bit, 0 or 255
    <name>/anomaly_images_thresholded/<category>/test_private_mixed/000_mixed.png

Source: MVTec's own checker and the validator of VAND 4.0. The first lets the thresholded half out, the second wants it.
Neither looks at the size of the maps. Assumed, as no source states it: maps of another size than the image's are taken
(an entry of 2026 wrote a quarter of height and width; `downscale`), and both files of an image are of one size
(`same_size` of the validator). One threshold per category serves both test sets.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
import tifffile
import torch
from tqdm import tqdm

from models.baselines.closing import LineClosing
from tracks.command.paths import below
from tracks.errors import TrackInputError
from tracks.run.resize import MAP_RULE, resize_map
from tracks.run.store import PredictionStore, Row
from tracks.submission.base import Problem
from tracks.submission.contents import Wrong, check_contents, read_png
from tracks.submission.map_thresholds import MODEL, map_thresholds
from tracks.submission.runs import StoredImage, check_finite, check_same_method, stored_images

MAPS, MASKS = "anomaly_images", "anomaly_images_thresholded"
SETS = {"test_private": "regular", "test_private_mixed": "mixed"}
"""The two private test sets and the ending of their file names."""
PUBLISHED_COUNTS = {
    "can": 321, "fabric": 314, "fruit_jelly": 255, "rice": 277, "sheet_metal": 142, "vial": 276, "wallplugs": 232,
    "walnuts": 228,
}  # fmt: skip
"""Images of each category, the same number in both sets; MVTec's checker."""


@dataclass(frozen=True)
class Options:
    """What the format leaves open.

    `thresholded` writes the binary half too. Its threshold is `threshold`, a number or "model" for what the model
    learnt of the references of each category; or mean + `threshold_stds` standard deviations of all map pixels of each
    category in a run on the normal images of `validation` (MVTec's suggestion, with 3), whose folder is
    `threshold_run`. `downscale` divides height and width of the stored maps. `closing` is the radius, in pixels of
    those, of the lines along which binary maps are closed (`LineClosing`; SuperADD: 26 with a downscale of 4).
    `counts`, images by category, are the published ones unless given.
    """

    thresholded: bool = True
    threshold: float | str | None = None
    threshold_run: str | None = None
    threshold_stds: float = 3.0
    downscale: int = 1
    closing: int | None = None
    counts: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.downscale < 1:
            raise TrackInputError(f"expected mvtec_ad2.downscale >= 1, got {self.downscale}; 1 keeps the maps' size")
        if isinstance(self.threshold, str) and self.threshold != MODEL:
            raise TrackInputError(f"expected mvtec_ad2.threshold to be a number or {MODEL}, got {self.threshold!r}")
        if self.closing is not None and self.closing < 1:
            raise TrackInputError(f"expected mvtec_ad2.closing >= 1 or null, got {self.closing}")
        if self.threshold is not None and self.threshold_run:
            raise TrackInputError(
                f"expected mvtec_ad2.threshold or mvtec_ad2.threshold_run, got both ({self.threshold} and "
                f"{self.threshold_run}); leave one out"
            )
        if self.thresholded and self.threshold is None and not self.threshold_run:
            raise TrackInputError(
                "expected a threshold for the binary maps, got none; run the track on the normal images "
                "(ARGS=data.split=validation) and name that run with ARGS=mvtec_ad2.threshold_run=folder, or set "
                "mvtec_ad2.threshold=number, or mvtec_ad2.threshold=model if that learns one (superadd), or leave the "
                "binary maps out with mvtec_ad2.thresholded=false"
            )


class Submission:
    """The private test images of one or several runs, ready to be written."""

    suffix = ".tar.gz"

    def __init__(self, stores: Sequence[PredictionStore], options: Options) -> None:
        """Find each image's target and each category's threshold.

        Raises:
            TrackInputError: runs of other images or of unlike methods, or a threshold that cannot be had.
        """
        check_same_method(stores)
        self.options = options
        self.images = stored_images(stores, _target)
        self.counts = dict(options.counts or PUBLISHED_COUNTS)
        categories = sorted({image.row.category for image in self.images})
        self.thresholds: dict[str, float] = {}
        if options.thresholded:
            given = (options.threshold, options.threshold_run, options.threshold_stds)
            self.thresholds = map_thresholds(stores[0], categories, *given)
        self._closing = LineClosing(options.closing) if options.thresholded and options.closing else None

    @property
    def record(self) -> dict[str, object]:
        """What was done to the numbers, for the reader of a result."""
        return {
            "format": "mvtec_ad2",
            "maps": f"height and width of the run's maps / {self.options.downscale}, {MAP_RULE}, float16",
            "threshold": self._threshold_rule(),
            "thresholds": self.thresholds,
            **({"binary_maps": self._closing.label} if self._closing else {}),
        }

    def write(self, folder: Path) -> list[str]:
        """Fill the empty `folder`, one map in memory at a time; returns what the user should know."""
        for image in tqdm(self.images, desc="export", unit="image"):
            values = self._map(image)
            path = below(folder, map_file(image.target))
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, values)
            if self.options.thresholded:
                path = below(folder, mask_file(image.target))
                path.parent.mkdir(parents=True, exist_ok=True)
                threshold = self.thresholds[image.row.category]
                above = self._closing(values, threshold) if self._closing else values > np.float64(threshold)
                PIL.Image.fromarray(np.where(above, 255, 0).astype(np.uint8)).save(path)
        return self._remarks()

    def check(self, archive: Path) -> list[Problem]:
        """What is wrong with the archive, by the counts of the whole test sets."""
        return validate(archive, self.counts, thresholded=self.options.thresholded)

    def _map(self, image: StoredImage) -> np.ndarray:
        values = image.store.read_map(image.row).astype(np.float16)
        if self.options.downscale > 1:
            height, width = (max(1, side // self.options.downscale) for side in values.shape)
            values = resize_map(torch.from_numpy(values).float(), (height, width))
        check_finite(values, image, "map")
        return values

    def _threshold_rule(self) -> str:
        if not self.options.thresholded:
            return "no binary maps"
        if self.options.threshold == MODEL:
            return "the model's own, learnt of the references of each category"
        if self.options.threshold is not None:
            return "as set by the user, for all categories"
        return f"mean + {self.options.threshold_stds:g} standard deviations of the pixels of normal validation images"

    def _remarks(self) -> list[str]:
        said = []
        have = {image.target for image in self.images}
        for category, count in self.counts.items():
            lacking = [target for target in image_targets({category: count}) if target not in have]
            if lacking:
                said.append(f"{category}: {len(lacking)} of {2 * count} images are in no run, {lacking[0]} first")
        sizes = {image.store.settings["protocol"].get("resolution") for image in self.images}
        if sizes != {"each image's own"}:
            said.append(
                "the runs' maps are not of the images' own size, which the server may want: run the track with "
                "ARGS=resolution=native for that"
            )
        if not self.options.thresholded:
            said.append("no binary maps: the server then gives no metric that needs a threshold, SegF1 among them")
        return said


def _target(_: PredictionStore, row: Row) -> str:
    """Where an image goes, without folder of the half and suffix: "can/test_private/000_regular"."""
    path = PurePosixPath(row.name)
    ending = SETS.get(path.parent.name)
    if ending is None or not re.fullmatch(rf"\d{{3}}_{ending}", path.stem):
        raise TrackInputError(
            f"expected images of the private test sets, such as test_private/000_regular.png, got {row.name} of "
            f"{row.category}; run the track with DATA=mvtec_ad2 ARGS=data.split=test_private, again with "
            "data.split=test_private_mixed, and name both runs: ARGS='run=[first,second]'"
        )
    return f"{row.category}/{path.parent.name}/{path.stem}"


def image_targets(counts: Mapping[str, int]) -> list[str]:
    """Every image of a whole submission, "can/test_private/000_regular" and so on; numbered from 000."""
    return [
        f"{category}/{name}/{number:03d}_{ending}"
        for category, count in counts.items()
        for name, ending in SETS.items()
        for number in range(count)
    ]


def map_file(target: str) -> str:
    """Where the map of an image goes, relative to the folder that is packed."""
    return f"{MAPS}/{target}.tiff"


def mask_file(target: str) -> str:
    """Where the binary map of an image goes."""
    return f"{MASKS}/{target}.png"


def validate(
    path: Path, counts: Mapping[str, int] = PUBLISHED_COUNTS, thresholded: bool = True, same_size: bool = True
) -> list[Problem]:
    """Everything wrong with the submission at `path` (a .tar.gz or a folder); an empty list if it is right.

    `counts` are the images of each category in each of the two test sets. With `thresholded` the binary maps must be
    there, without they must not. `same_size` asks the two files of an image to be of one size, which no source states.
    Kinds of problem: unreadable, link, root, extra, duplicate, missing, dtype, shape, number, values, size.
    """
    targets = image_targets(counts)
    expected = [map_file(target) for target in targets] + [mask_file(target) for target in targets if thresholded]
    shapes: dict[str, tuple[int, ...]] = {}
    problems = check_contents(path, expected, lambda name, content: _check_file(name, content, shapes), inside="")
    if same_size and thresholded:
        problems += _unlike_sizes(targets, shapes)
    return problems


def _check_file(name: str, content: bytes, shapes: dict[str, tuple[int, ...]]) -> Wrong | None:
    is_map = name.startswith(f"{MAPS}/")
    try:
        mode, values = ("", tifffile.imread(io.BytesIO(content))) if is_map else read_png(content)
    except Exception as error:  # a damaged file makes tifffile and Pillow raise whatever its bytes lead them into
        return "unreadable", f"expected a {'TIFF' if is_map else 'PNG'}, got: {error}"
    wrong = _wrong_map(values) if is_map else _wrong_mask(values, mode)
    if wrong is None:
        shapes[name] = values.shape
    return wrong


def _wrong_map(values: np.ndarray) -> Wrong | None:
    if values.dtype != np.float16:
        return "dtype", f"expected float16, got {values.dtype}"
    if values.ndim != 2 or not values.size:
        return "shape", f"expected (h, w), got {values.shape}"
    return None if np.isfinite(values).all() else ("number", "expected finite values, got NaN or infinity")


def _wrong_mask(values: np.ndarray, mode: str) -> Wrong | None:
    if values.ndim != 2:
        return "shape", f"expected (h, w), got {values.shape}"
    if mode != "L":
        return "dtype", f"expected 8-bit grey, got mode {mode}"
    other = sorted(set(np.unique(values).tolist()) - {0, 255})
    return ("values", f"expected 0 and 255 alone, got {other[0]} too") if other else None


def _unlike_sizes(targets: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    problems = []
    for target in targets:
        of_map, of_mask = shapes.get(map_file(target)), shapes.get(mask_file(target))
        if of_map and of_mask and of_map != of_mask:
            problems.append(Problem("size", mask_file(target), f"expected {of_map} as its map, got {of_mask}"))
    return problems
