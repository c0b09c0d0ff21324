"""The format of the 7th CSIG challenge (2026): a score for each sample of five views, and a map for each view, zipped.

    submission.csv                                          header `group_folder,anomaly_score`; "<category>/<sample>"
    predicted_masks/<category>/<sample>/<view>_mask.png     views 0 to 4, 448 x 448, 8-bit grey: a score map, not binary

Source: the challenge's kit for entrants, whose own writer begins the csv with a byte-order mark (`bom`). Assumed, as no
source states it: how test images are named (`image_name`, a pattern of the sample and the view in the image's path),
and how the score of a sample follows from its views (`sample_score`).
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm

from tracks.command.names import unknown
from tracks.command.paths import below
from tracks.errors import TrackInputError
from tracks.run.resize import MAP_RULE, resize_map
from tracks.run.store import PredictionStore, Row
from tracks.submission.base import SCALING, Problem, Range, checked_range
from tracks.submission.contents import Wrong, check_contents, read_png, read_table, wrong_row
from tracks.submission.runs import StoredImage, check_same_method, fixed_range, scale, stored_images

TABLE, MASKS = "submission.csv", "predicted_masks"
HEADER = ("group_folder", "anomaly_score")
SIDE, VIEWS = 448, 5
SAMPLE_SCORES: Mapping[str, Callable[[Sequence[float]], Any]] = {"max": np.max, "mean": np.mean}


@dataclass(frozen=True)
class Options:
    """What the format leaves open.

    `image_name` finds the groups `sample` and `view` in an image's path below its category. `sample_score` makes one
    score of those of the views: "max" or "mean". Maps become grey by `normalise`: "fixed", by `map_range` (from 0 to
    the bound that the model states by default), or "category_minmax", by the category's whole test set. `samples` is a
    csv with a column group_folder that lists all samples of the test set. `size` and `views` are the kit's.
    """

    image_name: str = r"(?P<sample>[^/]+)/(?P<view>\d+)[^/]*$"
    sample_score: str = "max"
    normalise: str = "fixed"
    map_range: Range | None = None
    samples: str | None = None
    bom: bool = True
    size: int = SIDE
    views: int = VIEWS

    def __post_init__(self) -> None:
        if self.sample_score not in SAMPLE_SCORES:
            raise unknown("csig.sample_score", self.sample_score, SAMPLE_SCORES)
        if self.normalise not in SCALING:
            raise unknown("csig.normalise", self.normalise, SCALING)
        object.__setattr__(self, "map_range", checked_range("csig.map_range", self.map_range))
        if min(self.size, self.views) < 1:
            raise TrackInputError(f"expected csig.size and csig.views >= 1, got {self.size} and {self.views}")
        if not {"sample", "view"} <= set(_compiled(self.image_name).groupindex):
            raise TrackInputError(
                f"expected csig.image_name to have the groups (?P<sample>...) and (?P<view>...), got {self.image_name}"
            )


class Submission:
    """The samples of one or several runs, ready to be written."""

    suffix = ".zip"

    def __init__(self, stores: Sequence[PredictionStore], options: Options) -> None:
        """Find the sample and the view of each image.

        Raises:
            TrackInputError: unlike runs, an image whose name does not fit, a view twice, no range for the maps.
        """
        check_same_method(stores)
        self.options = options
        pattern = _compiled(options.image_name)
        images = stored_images(stores, lambda _, row: _target(row, pattern))
        self.samples: dict[str, dict[int, StoredImage]] = {}
        for image in images:
            sample, _, view = image.target.rpartition("/")
            self.samples.setdefault(sample, {})[int(view)] = image
        _check_views(self.samples, options.views)
        fixed = options.normalise == "fixed"
        self.ranges = {str(s.folder): fixed_range(s, options.map_range) for s in stores} if fixed else {}
        self.expected = read_samples(Path(options.samples).expanduser()) if options.samples else sorted(self.samples)

    @property
    def record(self) -> dict[str, object]:
        """What was done to the numbers, for the reader of a result."""
        return {
            "format": "csig",
            "maps": f"{self.options.size} x {self.options.size} whatever the image's shape, {MAP_RULE}, 8 bit",
            "normalise": SCALING[self.options.normalise],
            "map_range_of_run": self.ranges,
            "sample_score": f"{self.options.sample_score} of the model's scores of the views",
        }

    def write(self, folder: Path) -> list[str]:
        """Fill the empty `folder`, one map in memory at a time; returns what the user should know."""
        cut, pixels = 0, 0
        by_category: dict[str, list[str]] = {}
        for sample in self.samples:
            by_category.setdefault(sample.partition("/")[0], []).append(sample)
        for category, samples in by_category.items():
            images = [image for sample in samples for image in self.samples[sample].values()]
            bounds = None if self.ranges else self._of_category(images)
            for sample in tqdm(samples, desc=f"{category}: export", unit="sample"):
                for view, image in self.samples[sample].items():
                    scaled = scale(self._map(image), bounds or self.ranges[str(image.store.folder)], image, "map")
                    cut, pixels = cut + int(np.count_nonzero((scaled < -1e-3) | (scaled > 1.001))), pixels + scaled.size
                    path = below(folder, mask_file(sample, view))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    PIL.Image.fromarray(np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)).save(path)
        self._write_table(folder / TABLE)
        return self._remarks(cut / pixels)

    def check(self, archive: Path) -> list[Problem]:
        """What is wrong with the archive, by the listed samples (or those of the runs)."""
        return validate(archive, self.expected, size=self.options.size, views=self.options.views)

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8-sig" if self.options.bom else "utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(HEADER)
            table.writerows((sample, f"{score:.9g}") for sample, score in self._scores())

    def _scores(self) -> Iterator[tuple[str, float]]:
        for sample, views in self.samples.items():
            for image in views.values():
                scale(np.asarray(image.row.image_score), (0, 1), image, "image score")
            yield sample, float(SAMPLE_SCORES[self.options.sample_score]([v.row.image_score for v in views.values()]))

    def _map(self, image: StoredImage) -> np.ndarray:
        values = torch.from_numpy(image.store.read_map(image.row)).float()
        return resize_map(values, (self.options.size, self.options.size)).astype(np.float32)

    def _of_category(self, images: Sequence[StoredImage]) -> Range:
        ends = [(float(values.min()), float(values.max())) for values in map(self._map, images)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _remarks(self, cut: float) -> list[str]:
        said = []
        if cut:
            said.append(f"{cut:.3%} of all map pixels lie outside the range and were cut to its ends")
        if self.options.samples is None:
            said.append("without a list of all samples (csig.samples) it is not known whether these are all")
        elif lacking := sorted(set(self.expected) - self.samples.keys()):
            said.append(f"{len(lacking)} of {len(self.expected)} samples are in no run, {lacking[0]} first")
        return said


def read_samples(path: Path) -> list[str]:
    """The column group_folder of a csv; TrackInputError where there is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row[HEADER[0]].strip() for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise TrackInputError(
            f"expected a csv with a column {HEADER[0]} at {path}, got: {error!r}; name a list of all samples with "
            "ARGS=csig.samples=file"
        ) from error


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TrackInputError(f"expected csig.image_name to be a pattern, got {pattern}: {error}") from error


def _target(row: Row, pattern: re.Pattern[str]) -> str:
    """The category, the sample and the view of an image: "3_adapter/S0001/0"."""
    found = pattern.search(row.name)
    if found is None or not found["view"].isdigit():
        raise TrackInputError(
            f"expected images named <sample>/<view>, such as S0001/0.png, got {row.name} of {row.category}; describe "
            "their names with ARGS='csig.image_name=pattern'"
        )
    return f"{row.category}/{found['sample']}/{int(found['view'])}"


def _check_views(samples: dict[str, dict[int, StoredImage]], views: int) -> None:
    for sample, images in samples.items():
        if set(images) != set(range(views)):
            raise TrackInputError(
                f"expected views 0 to {views - 1} of {sample}, got {sorted(images)}; complete the images and run the "
                "track again, or describe their names with csig.image_name"
            )


def mask_file(sample: str, view: int) -> str:
    """Where the map of a view goes."""
    return f"{MASKS}/{sample}/{view}_mask.png"


def validate(path: Path, samples: Collection[str], size: int = SIDE, views: int = VIEWS) -> list[Problem]:
    """Everything wrong with the submission at `path` (a zip or a folder); an empty list if it is right.

    `samples` are those of the test set, "<category>/<sample>". A csv with or without a byte-order mark is right, as for
    the kit's own reader. Kinds of problem: unreadable, link, extra, duplicate, missing, dtype, shape, encoding, header,
    columns, number, unknown, lacking (a sample without a line), twice (a sample with several).
    """
    expected = [TABLE, *(mask_file(sample, view) for sample in samples for view in range(views))]
    wrong_lines: list[Problem] = []

    def check(name: str, content: bytes) -> Wrong | None:
        if name != TABLE:
            return _check_mask(content, size)
        wrong_lines.extend(Problem(kind, TABLE, text) for kind, text in _check_table(content, samples))
        return None

    return check_contents(path, expected, check) + wrong_lines


def _check_mask(content: bytes, size: int) -> Wrong | None:
    try:
        mode, values = read_png(content)
    except Exception as error:
        return "unreadable", f"expected a PNG, got: {error}"
    if mode != "L":
        return "dtype", f"expected 8-bit grey, got mode {mode}"
    return None if values.shape == (size, size) else ("shape", f"expected ({size}, {size}), got {values.shape}")


def _check_table(content: bytes, samples: Collection[str]) -> list[Wrong]:
    rows, unread = read_table(content, HEADER, "utf-8-sig")
    if unread is not None:
        return [unread]
    wrong = [(found[0], f"line {n}: {found[1]}") for n, row in enumerate(rows, start=2) if (found := wrong_row(row))]
    named = Counter(row[0] for row in rows if row)
    wrong += [("unknown", f"no sample {name!r} in the test set") for name in sorted(named.keys() - set(samples))]
    wrong += [("lacking", f"no line for {name!r}") for name in sorted(set(samples) - named.keys())]
    return wrong + [("twice", f"{times} lines for {name!r}") for name, times in named.items() if times > 1]
