"""Where each image of a run goes in a VAND 2023 submission, and the choices that the format leaves open."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from tracks.command.names import unknown
from tracks.errors import TrackInputError
from tracks.run.resize import MAP_RULE, resize_map
from tracks.run.store import PredictionStore, Row
from tracks.submission.runs import finished_rows

FORMAT = "vand2023"
NORMALISE = ("fixed", "category_minmax")
IMAGE_SCORES = ("model", "map_max")
LEVELS = ("defect_type", "Unknown", "none")
PUBLISHED_SHOTS, PUBLISHED_RUNS = (0, 1, 5, 10), (0, 1, 2)


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
    """

    map_size: int = 400
    level: str = "defect_type"
    normalise: str = "fixed"
    map_range: tuple[float, float] | None = None
    image_scores: str = "model"

    def __post_init__(self) -> None:
        for key, choices in (("level", LEVELS), ("normalise", NORMALISE), ("image_scores", IMAGE_SCORES)):
            if getattr(self, key) not in choices:
                raise unknown(key, getattr(self, key), choices)
        if self.map_size < 1:
            raise TrackInputError(f"expected map_size in pixels, got {self.map_size}; the published writer used 400")
        if self.map_range is not None and not self.map_range[0] < self.map_range[1]:
            raise TrackInputError(f"expected map_range=[low,high] with low < high, got {list(self.map_range)}")

    @property
    def protocol(self) -> dict[str, str]:
        """What was done to the numbers, in words, for the reader of a result."""
        scaling = {
            "fixed": "inductive: by a range fixed beforehand",
            "category_minmax": "transductive: by the smallest and largest value of the category's whole test set",
        }
        scores = {"model": "the model's own", "map_max": "the largest pixel of the submitted map"}
        return {
            "format": FORMAT,
            "maps": f"{self.map_size} x {self.map_size} whatever the image's shape, {MAP_RULE}, 8 bit",
            "normalise": scaling[self.normalise],
            "image_scores": scores[self.image_scores],
        }


@dataclass(frozen=True)
class Entry:
    """One image of a submission; `folder` is that of its category (and level), relative, "4shot/0/bottle/Unknown"."""

    store: PredictionStore
    row: Row
    folder: str
    stem: str

    @property
    def score_file(self) -> str:
        """Where its score goes, relative, with forward slashes."""
        return f"{self.folder}/classification/{self.stem}.txt"

    @property
    def map_file(self) -> str:
        """Where its map goes, relative, with forward slashes."""
        return f"{self.folder}/segmentation/{self.stem}.npz"

    def read_map(self, size: int) -> np.ndarray:
        """Its map as (size, size) float32, unscaled."""
        stored = torch.from_numpy(self.store.read_map(self.row)).float()
        return resize_map(stored, (size, size), self.store.map_type).astype(np.float32)


def plan(stores: Sequence[PredictionStore], options: Options, run_number: int | None = None) -> list[Entry]:
    """All images of all runs with their places in the submission.

    The run number is the run's seed (0 without shots) unless given.

    Raises:
        TrackInputError: a run without results or rows, or two images with one place.
    """
    places: dict[str, Entry] = {}
    for store in stores:
        for entry in _entries(store, options, run_number):
            other = places.setdefault(entry.score_file, entry)
            if other is not entry:
                raise _collision(entry, other, options)
    return list(places.values())


def expected_stems(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Stems by folder, what a complete submission of these images holds."""
    stems: dict[str, list[str]] = {}
    for entry in entries:
        stems.setdefault(entry.folder, []).append(entry.stem)
    return stems


def remarks(entries: Sequence[Entry]) -> list[str]:
    """Where shots or runs are others than the challenge's, one sentence each."""
    found = {PurePosixPath(entry.folder).parts[:2] for entry in entries}
    shots = sorted({int(shot.removesuffix("shot")) for shot, _ in found} - set(PUBLISHED_SHOTS))
    runs = sorted({int(run) for _, run in found} - set(PUBLISHED_RUNS))
    said = [f"{shot} shots: the challenge had 0, 1, 5 and 10" for shot in shots]
    return said + [f"run {run}: the challenge had runs 0, 1 and 2" for run in runs]


def _entries(store: PredictionStore, options: Options, run_number: int | None) -> Iterator[Entry]:
    shots = int(store.settings["shots"])
    run = run_number if run_number is not None else (int(store.settings["seed"]) if shots else 0)
    for _, row in finished_rows([store]):
        level = {"Unknown": ["Unknown"], "none": [], "defect_type": [row.defect_type or "Unknown"]}[options.level]
        folder = "/".join([f"{shots}shot", str(run), row.category, *level])
        yield Entry(store, row, folder, PurePosixPath(row.name).stem)


def _collision(entry: Entry, other: Entry, options: Options) -> TrackInputError:
    if entry.store is not other.store:
        return TrackInputError(
            f"expected runs that differ in shots or seed, got {other.store.folder} and {entry.store.folder}, which "
            f"both hold {entry.folder}; submit one of them"
        )
    apart = "" if options.level == "defect_type" else ", or keep defect types apart with ARGS=level=defect_type"
    return TrackInputError(
        f"expected every image of {entry.row.category} to have a file name of its own, got {other.row.name} and "
        f"{entry.row.name}, which would both be {entry.score_file}; rename one{apart}"
    )
