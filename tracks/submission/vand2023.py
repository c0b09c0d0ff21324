"""The VAND 2023 format: one score file and one 8-bit map file per image.

    <k>shot/<run>/<category>/[Unknown/]classification/<stem>.txt   "0.12345": five decimals, no newline, in [0, 1]
    <k>shot/<run>/<category>/[Unknown/]segmentation/<stem>.npz     one array `img`, (400, 400) uint8 = round(255 * map)

Where images are labelled, their defect type stands in place of `Unknown`.

Source: the archive writer of the Segment Any Anomaly entry (2nd, zero-shot track). The organisers' own
description is no longer public, so the size of the maps, the `Unknown` level and the scaling are options here.
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from tqdm import tqdm

from tracks.command.names import unknown
from tracks.command.paths import below
from tracks.errors import TrackInputError
from tracks.run.resize import MAP_RULE, resize_map
from tracks.run.store import PredictionStore, Row
from tracks.submission.base import SCALING, Problem, Range, checked_range
from tracks.submission.contents import Wrong, check_contents
from tracks.submission.runs import StoredImage, fixed_range, scale, stored_images

IMAGE_SCORES = {"model": "the model's own", "map_max": "the largest pixel of the submitted map"}
LEVELS = ("defect_type", "Unknown", "none")
PUBLISHED_SHOTS, PUBLISHED_RUNS = (0, 1, 5, 10), (0, 1, 2)
SCORE_REMEDY = "use ARGS=image_scores=map_max or, transductive, ARGS=normalise=category_minmax"
SLACK = 1e-3
"""How far, as a share of the range, float16 rounding may carry a value out of it."""
FEW_LEVELS = 64
"""With fewer of the 256 grey levels in use, rounding shows in the metrics."""
ARRAY = "img"
SCORE_TEXT = re.compile(r"[01]\.\d{5}")


@dataclass(frozen=True)
class Options:
    """What the published description leaves open.

    `map_size` is the side of the square maps in pixels. `level` is the folder below the category:
    "defect_type" for that of a labelled set, which is "Unknown" for the challenge's unlabelled images (as in the
    source), "Unknown" for that word whatever is known, or "none" for no such folder.
    `normalise` brings values to [0, 1]: "fixed" by the constants `map_range` (by default from 0 to the bound that
    the model states), which know nothing of the test set, or "category_minmax" by the smallest and largest of the
    category's test set, as in the source.
    `image_scores` are the "model"'s own or "map_max", the largest pixel of the map as submitted.
    `run_number` is the folder below the shots, by default the run's seed (0 without shots).
    """

    map_size: int = 400
    level: str = "defect_type"
    normalise: str = "fixed"
    map_range: Range | None = None
    image_scores: str = "model"
    run_number: int | None = None

    def __post_init__(self) -> None:
        for key, choices in (("level", LEVELS), ("normalise", SCALING), ("image_scores", IMAGE_SCORES)):
            if getattr(self, key) not in choices:
                raise unknown(key, getattr(self, key), choices)
        if self.map_size < 1:
            raise TrackInputError(f"expected map_size in pixels, got {self.map_size}; the published writer used 400")
        object.__setattr__(self, "map_range", checked_range("map_range", self.map_range))


class Submission:
    """The images of one or several runs, which may differ in shots and seed, ready to be written."""

    suffix = ".zip"

    def __init__(self, stores: Sequence[PredictionStore], options: Options) -> None:
        """Find each image's target.

        Raises:
            TrackInputError: a run without results or rows, two images with one target, no range for the maps.
        """
        self.options = options
        self.images = stored_images(stores, self._target, self._clash)
        fixed = options.normalise == "fixed"
        self.ranges = {s.folder.resolve(): fixed_range(s, options.map_range) if fixed else None for s in stores}

    @property
    def record(self) -> dict[str, object]:
        """What was done to the numbers, for the reader of a result."""
        return {
            "map_range_of_run": {str(folder): bounds for folder, bounds in self.ranges.items()},
            "format": "vand2023",
            "maps": f"{self.options.map_size} x {self.options.map_size} whatever the image's shape, {MAP_RULE}, 8 bit",
            "normalise": SCALING[self.options.normalise],
            "image_scores": IMAGE_SCORES[self.options.image_scores],
        }

    def write(self, folder: Path) -> list[str]:
        """Fill the empty `folder`, one image in memory at a time; returns what the user should know.

        Raises:
            TrackInputError: a value that is not finite, or an image score outside [0, 1] under normalise=fixed.
        """
        used, num_pixels, cut = np.zeros(256, dtype=bool), 0, 0
        groups: dict[tuple[Path, str], list[StoredImage]] = {}
        for image in self.images:
            groups.setdefault((image.store.folder, image.row.category), []).append(image)
        with tqdm(total=len(self.images), unit="image") as bar:
            for (_, category), group in groups.items():
                bar.set_description(f"{category}: export")
                for image, pixels, num_cut, score in self._normalised(group):
                    used[pixels] = True
                    num_pixels, cut = num_pixels + pixels.size, cut + num_cut
                    score_path, map_path = (
                        below(folder, score_file(image.target)),
                        below(folder, map_file(image.target)),
                    )
                    for path in (score_path, map_path):
                        path.parent.mkdir(parents=True, exist_ok=True)
                    score_path.write_text(f"{score:.5f}", encoding="ascii")
                    np.savez_compressed(map_path, img=pixels)
                    bar.update()
        return [*self._remarks(), *_rounding_remarks(int(used.sum()), cut / num_pixels)]

    def check(self, archive: Path) -> list[Problem]:
        """What is wrong with the archive, by the images of the runs."""
        return validate(archive, [image.target for image in self.images], self.options.map_size)

    def _target(self, store: PredictionStore, row: Row) -> str:
        """Where an image goes, without the folder of its kind and the suffix: "4shot/0/bottle/Unknown/000"."""
        shots, run = int(store.settings["shots"]), self.options.run_number
        if run is None:
            run = int(store.settings["seed"]) if shots else 0
        levels = {"Unknown": ["Unknown"], "none": [], "defect_type": [row.defect_type or "Unknown"]}
        return "/".join(
            [f"{shots}shot", str(run), row.category, *levels[self.options.level], PurePosixPath(row.name).stem]
        )

    def _clash(self, first: StoredImage, second: StoredImage) -> TrackInputError:
        if first.store is not second.store:
            return TrackInputError(
                f"expected runs that differ in shots or seed, got {first.store.folder} and {second.store.folder}, "
                f"which both hold {second.target.rpartition('/')[0]}; submit one of them"
            )
        apart = (
            "" if self.options.level == "defect_type" else ", or keep defect types apart with ARGS=level=defect_type"
        )
        return TrackInputError(
            f"expected every image of {second.row.category} to have a file name of its own, got {first.row.name} and "
            f"{second.row.name}, which would both be {score_file(second.target)}; rename one{apart}"
        )

    def _normalised(self, group: Sequence[StoredImage]) -> Iterator[tuple[StoredImage, np.ndarray, int, float]]:
        """The images of one category and run with their uint8 maps, how many pixels were cut, and scores in [0, 1]."""
        map_range, score_range = self.ranges[group[0].store.folder.resolve()], (0.0, 1.0)
        if map_range is None:
            map_range, score_range = self._test_set_ranges(group)
        for image in group:
            scaled = scale(self._map(image), map_range, image, "map")
            anomaly_map = np.clip(scaled, 0, 1)
            pixels = np.rint(anomaly_map * 255).astype(np.uint8)
            num_cut = int(np.count_nonzero(np.abs(scaled - anomaly_map) > SLACK))
            own = self.options.image_scores == "model"
            yield image, pixels, num_cut, _score(image, score_range) if own else float(anomaly_map.max())

    def _map(self, image: StoredImage) -> np.ndarray:
        """Its map as (map_size, map_size) float32, unscaled."""
        stored = torch.from_numpy(image.store.read_map(image.row)).float()
        return resize_map(stored, (self.options.map_size,) * 2, image.store.map_type).astype(np.float32)

    def _test_set_ranges(self, group: Sequence[StoredImage]) -> tuple[Range, Range]:
        """(low, high) of all map pixels and of all image scores: statistics of the test set."""
        scores = [image.row.image_score for image in group]
        low, high = np.inf, -np.inf
        for image in tqdm(group, desc=f"{group[0].row.category}: range", unit="image", leave=False):
            anomaly_map = self._map(image)
            low, high = min(low, float(anomaly_map.min())), max(high, float(anomaly_map.max()))
        return (low, high), (min(scores), max(scores))

    def _remarks(self) -> list[str]:
        """How many images each folder holds, and where shots or runs are others than the challenge's."""
        counts = Counter(image.target.rpartition("/")[0] for image in self.images)
        found = {PurePosixPath(folder).parts[:2] for folder in counts}
        shots = sorted({int(shot.removesuffix("shot")) for shot, _ in found} - set(PUBLISHED_SHOTS))
        runs = sorted({int(run) for _, run in found} - set(PUBLISHED_RUNS))
        said = [f"{folder}: {count} images" for folder, count in counts.items()]
        said += [f"{shot} shots: the challenge had 0, 1, 5 and 10" for shot in shots]
        return said + [f"run {run}: the challenge had runs 0, 1 and 2" for run in runs]


def _score(image: StoredImage, score_range: Range) -> float:
    """The model's image score, scaled; never cut, since scores beyond the range would tie."""
    score = float(scale(np.asarray(image.row.image_score), score_range, image, "image score"))
    if not -SLACK <= score <= 1 + SLACK:
        raise TrackInputError(
            f"expected the image score of {image.row.category}/{image.row.name} within [0, 1] for normalise=fixed, got "
            f"{image.row.image_score:.4g}; {SCORE_REMEDY}"
        )
    return min(max(score, 0.0), 1.0)


def _rounding_remarks(levels: int, cut: float) -> list[str]:
    """What 8 bits and a fixed range did to the maps: how many grey levels are in use, what share of pixels was cut."""
    said = [f"{cut:.3%} of all map pixels lie outside the range and were cut to its ends"] if cut else []
    if levels < FEW_LEVELS:
        said.append(
            f"the maps use {levels} of 256 grey levels, so rounding costs some segmentation score; a narrower "
            "map_range, chosen on other data, costs less"
        )
    return said


def score_file(target: str) -> str:
    """Where the score of an image goes."""
    folder, _, stem = target.rpartition("/")
    return f"{folder}/classification/{stem}.txt"


def map_file(target: str) -> str:
    """Where the map of an image goes."""
    folder, _, stem = target.rpartition("/")
    return f"{folder}/segmentation/{stem}.npz"


def validate(path: Path, targets: Collection[str], map_size: int = 400) -> list[Problem]:
    """Everything wrong with the submission at `path` (a zip or a folder); an empty list if it is right.

    `targets` are all images, such as "4shot/0/bottle/Unknown/000". Maps must be (map_size, map_size).
    Kinds of problem: missing, extra, duplicate, link, unreadable, name, dtype, shape, number, range, format.
    """

    def check(name: str, content: bytes) -> Wrong | None:
        return _check_score(content) if name.endswith(".txt") else _check_map(content, map_size)

    return check_contents(path, [file(target) for target in targets for file in (score_file, map_file)], check)


def _check_score(content: bytes) -> Wrong | None:
    """What is wrong with a score file, None if nothing is."""
    text = content.decode("ascii", errors="replace")
    try:
        value = float(text)
    except ValueError:
        return "number", f"expected one number, got {text[:40]!r}"
    if not np.isfinite(value):
        return "number", f"expected a finite number, got {text[:40]!r}"
    if not 0 <= value <= 1:
        return "range", f"expected a score in [0, 1], got {text[:40]!r}"
    if not SCORE_TEXT.fullmatch(text):
        return "format", f"expected five decimals and no newline, got {text[:40]!r}"
    return None


def _check_map(content: bytes, map_size: int) -> Wrong | None:
    """What is wrong with a map file, None if nothing is."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if arrays.files != [ARRAY]:
                return "name", f"expected one array named {ARRAY!r}, got {arrays.files}"
            pixels = arrays[ARRAY]
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own for a damaged file
        return "unreadable", f"expected an .npz, got: {error}"
    if pixels.dtype != np.uint8:
        return "dtype", f"expected uint8, got {pixels.dtype}"
    if pixels.shape != (map_size, map_size):
        return "shape", f"expected ({map_size}, {map_size}), got {pixels.shape}"
    return None
