"""The VAND 2023 format: one score file and one 8-bit map file per image.

    <k>shot/<run>/<category>/[Unknown/]classification/<stem>.txt   "0.12345": five decimals, no newline, in [0, 1]
    <k>shot/<run>/<category>/[Unknown/]segmentation/<stem>.npz     one array `img`, (400, 400) uint8 = round(255 * map)

Where images are labelled, their defect type stands in place of `Unknown`.

Source: the archive writer of the Segment Any Anomaly entry (2nd, zero-shot track). The organisers' own
description is no longer public, so the size of the maps, the `Unknown` level and the scaling are options here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracks.command.paths import below
from tracks.errors import TrackInputError
from tracks.submission.scaling import fixed_range, scale
from tracks.submission.vand2023_plan import Entry, Options

SCORE_REMEDY = "use ARGS=image_scores=map_max or, transductive, ARGS=normalise=category_minmax"
SLACK = 1e-3
"""How far, as a share of the range, float16 rounding may carry a value out of it."""
FEW_LEVELS = 64
"""With fewer of the 256 grey levels in use, rounding shows in the metrics."""


@dataclass
class Rounding:
    """What 8 bits and a fixed range did to the maps: the grey levels in use, and the pixels cut at the range's ends."""

    levels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=bool))
    pixels: int = 0
    cut: int = 0

    def remarks(self) -> list[str]:
        """What the user should know of it, a sentence each."""
        said = []
        if self.cut:
            said.append(
                f"{self.cut / self.pixels:.3%} of all map pixels lie outside the range and were cut to its ends"
            )
        if (used := int(self.levels.sum())) < FEW_LEVELS:
            said.append(
                f"the maps use {used} of 256 grey levels, so rounding costs some segmentation score; a narrower "
                "map_range, chosen on other data, costs less"
            )
        return said


def write_tree(entries: Sequence[Entry], folder: Path, options: Options) -> Rounding:
    """Write all files into the empty `folder`, one image in memory at a time.

    Raises:
        TrackInputError: a value that is not finite, or an image score outside [0, 1] under normalise=fixed.
    """
    rounding = Rounding()
    groups: dict[tuple[Path, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.store.folder, entry.row.category), []).append(entry)
    with tqdm(total=len(entries), unit="image") as bar:
        for (_, category), group in groups.items():
            bar.set_description(f"{category}: export")
            for entry, pixels, score in _normalised(group, options, rounding):
                _write_image(folder, entry, pixels, score)
                bar.update()
    return rounding


def _normalised(
    group: Sequence[Entry], options: Options, rounding: Rounding
) -> Iterator[tuple[Entry, np.ndarray, float]]:
    """The images of one category and run with uint8 maps and scores in [0, 1]."""
    if options.normalise == "category_minmax":
        map_range, score_range = _test_set_ranges(group, options.map_size)
    else:
        map_range, score_range = fixed_range(group[0].store, options.map_range), (0.0, 1.0)
    for entry in group:
        scaled = scale(entry.read_map(options.map_size), map_range, entry, "map")
        anomaly_map = np.clip(scaled, 0, 1)
        pixels = np.rint(anomaly_map * 255).astype(np.uint8)
        rounding.levels[pixels] = True
        rounding.pixels += pixels.size
        rounding.cut += int(np.count_nonzero(np.abs(scaled - anomaly_map) > SLACK))
        yield (
            entry,
            pixels,
            float(anomaly_map.max()) if options.image_scores == "map_max" else _score(entry, score_range),
        )


def _score(entry: Entry, score_range: tuple[float, float]) -> float:
    """The model's image score, scaled; never cut, since scores beyond the range would tie."""
    score = float(scale(np.asarray(entry.row.image_score), score_range, entry, "image score"))
    if not -SLACK <= score <= 1 + SLACK:
        raise TrackInputError(
            f"expected the image score of {entry.row.category}/{entry.row.name} within [0, 1] for normalise=fixed, got "
            f"{entry.row.image_score:.4g}; {SCORE_REMEDY}"
        )
    return min(max(score, 0.0), 1.0)


def _test_set_ranges(group: Sequence[Entry], size: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(low, high) of all map pixels and of all image scores: statistics of the test set."""
    scores = [entry.row.image_score for entry in group]
    low, high = np.inf, -np.inf
    for entry in tqdm(group, desc=f"{group[0].row.category}: range", unit="image", leave=False):
        anomaly_map = entry.read_map(size)
        low, high = min(low, float(anomaly_map.min())), max(high, float(anomaly_map.max()))
    return (low, high), (min(scores), max(scores))


def _write_image(folder: Path, entry: Entry, pixels: np.ndarray, score: float) -> None:
    score_path, map_path = below(folder, entry.score_file), below(folder, entry.map_file)
    score_path.parent.mkdir(parents=True, exist_ok=True)
    map_path.parent.mkdir(parents=True, exist_ok=True)
    score_path.write_text(f"{score:.5f}", encoding="ascii")
    np.savez_compressed(map_path, img=pixels)
