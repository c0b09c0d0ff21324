"""A verdict on each photo of a folder, with its map, its overlay and its row in predictions.csv."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from tqdm import tqdm

from eval.ranking.histogram import LARGEST, ValueCounts
from models.disk import write_atomically
from tracks.command.paths import below, shortened
from tracks.datasets.files import FileSample
from tracks.decide.kept import Facts, Kept, Score, fingerprint
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.run.overlay import HeatScale, category_scale, count_pixels, render_overlay
from tracks.run.runner import Loaded, Scored

UNREADABLE = "unreadable"
UNSURE = "unsure: between the threshold and the highest reference"
PENDING = "the threshold comes from all photos, once they are scored"
COUNTED_SIDE = 256
"""The colour scale is read off so many rows and columns of each map at most."""
CSV_FILE = "predictions.csv"
THUMBNAIL_SIDE = 320
"""Longest side of a thumbnail in pixels."""
QUALITY = 82
COLUMNS = ("file", "score", "verdict", "threshold", "map", "overlay", "note")


@dataclass(frozen=True)
class Verdict:
    """What is said of one photo; the files are relative to the output folder, `score` is None if unreadable."""

    name: str
    verdict: str
    score: float | None = None
    map_file: str = ""
    overlay_file: str = ""
    thumb_file: str = ""
    note: str = ""

    def __str__(self) -> str:
        score = " " * 6 if self.score is None else f"{self.score:.4f}"
        note = f"  ({self.note})" if self.note and self.score is not None else ""  # a broken file's is long
        line = f"{score}  {self.verdict:<10}  {self.name}{note}"
        return line.encode(errors="replace").decode()  # a name that is no valid Unicode must not stop the run

    def by(self, threshold: Threshold | None) -> "Verdict":
        """The same photo judged by a threshold; undecided without one."""
        if self.score is None:
            return self
        if threshold is None:
            return replace(self, verdict=UNDECIDED, note=PENDING)
        note = UNSURE if threshold.is_unsure(self.score) and not threshold.undecided else ""
        return replace(self, verdict=threshold.verdict(self.score), note=note)


class Judge:
    """Judges photos by their scores, writing maps, overlays and predictions.csv into `folder`.

    What is `kept` of earlier runs is not made again. What cannot be written costs no verdict: `failures` lists what the
    system said, first one first.
    """

    def __init__(self, kept: Kept, folder: Path):
        self.kept, self.folder = kept, folder
        self.failures: list[OSError] = []

    def judge(
        self, samples: Sequence[FileSample], threshold: Threshold | None, scored: Iterator[tuple[Loaded, Scored | None]]
    ) -> Iterator[Verdict]:
        """Verdicts in the order of `samples`, each printed and with map and row on disk: a stopped run keeps them.

        `scored` gives those whose score is not kept, in the same order.
        """
        with (self.folder / CSV_FILE).open("wb", buffering=0) as file:
            self._add_row(file, COLUMNS)
            for sample in samples:
                row = self.kept.scores.get(sample.name) or self._score(sample, *next(scored))
                if row.score is None:
                    verdict = Verdict(row.name, UNREADABLE, note=row.note)
                else:
                    verdict = Verdict(row.name, UNDECIDED, row.score, row.map_file).by(threshold)
                self._add_row(file, _cells(verdict, threshold))
                tqdm.write(str(verdict))
                yield verdict

    def write_overlays(self, samples: Sequence[FileSample], verdicts: Sequence[Verdict], facts: Facts) -> list[Verdict]:
        """Draw the overlays once all maps are known, on one scale; defects are outlined.

        Without references photos judged OK stand in for them on the scale. What was drawn alike before stays. Returns
        the verdicts, those without an overlay saying so.
        """
        scale = category_scale(self._pixels(verdicts, facts.pixels), facts.map_bound)
        drawn = []
        bar = tqdm(zip(samples, verdicts, strict=True), "overlays", len(verdicts), unit="image")
        for sample, verdict in bar:
            drawn.append(self._with_overlay(sample, verdict, scale) if verdict.map_file else verdict)
        return drawn

    def _score(self, sample: FileSample, loaded: Loaded, scored: Scored | None) -> Score:
        """The score of a photo, its map written; kept unless that failed, so that the next run makes up for it."""
        name, mark = sample.name, fingerprint(sample)
        if scored is None:
            row = Score(name, mark, note=loaded.unreadable)
        else:
            map_file = self._write_map(name, scored.anomaly_map)
            row = Score(name, mark, scored.image_score, map_file, round(1000 * scored.seconds, 1))
        if row.map_file or scored is None:
            try:
                self.kept.keep(row)
            except OSError as error:
                self.failures.append(error)
        return row

    def _with_overlay(self, sample: FileSample, verdict: Verdict, scale: HeatScale) -> Verdict:
        called = verdict.verdict == DEFECT
        looks = [fingerprint(sample), called, scale.low, scale.quiet, scale.high]
        files = self.kept.drawn(verdict.name, looks)
        if files is None:
            photo, anomaly_map = sample.load_image(), self._read_map(verdict)
            overlay = render_overlay(photo, anomaly_map, scale, called=called)
            encoded = io.BytesIO()
            overlay.save(encoded, "PNG")
            file = self._written(f"overlays/{shortened(verdict.name)}.png", encoded)
            files = [file, *self._write_thumbs(verdict.name, photo, overlay)]
            if all(files):
                self._keep_drawn(verdict.name, looks, files)
        return replace(verdict, overlay_file=files[0], thumb_file=files[1])

    def _keep_drawn(self, name: str, looks: Sequence[Any], files: Sequence[str]) -> None:
        try:
            self.kept.keep_drawn(name, looks, files)
        except OSError as error:
            self.failures.append(error)

    def _write_thumbs(self, name: str, photo: PIL.Image.Image, overlay: PIL.Image.Image) -> list[str]:
        """Thumbnails of a photo with heat and without; returns their files, "" for one that cannot be written."""
        thumb_file = f"thumbs/{shortened(name)}.jpg"
        heat = overlay.crop((0, 0, overlay.width, round(photo.height * overlay.width / photo.width)))  # no legend
        written = []
        for file, picture in ((thumb_file, heat), (plain_file(thumb_file), photo)):
            encoded = io.BytesIO()
            thumbnail(picture).save(encoded, "JPEG", quality=QUALITY)
            written.append(self._written(file, encoded))
        return written

    def _pixels(self, verdicts: Sequence[Verdict], reference_pixels: ValueCounts) -> ValueCounts:
        """How often the maps have each value."""
        pixels, has_references = ValueCounts(), bool(reference_pixels.by_value()[1].any())
        pixels.merge(reference_pixels)
        for verdict in verdicts:
            if verdict.map_file:
                anomaly_map = self._read_map(verdict)
                rows, columns = (max(1, side // COUNTED_SIDE) for side in anomaly_map.shape)
                count_pixels(pixels, anomaly_map[::rows, ::columns], verdict.verdict == GOOD and not has_references)
        return pixels

    def _add_row(self, file: RawIOBase, cells: Iterable[str]) -> None:
        try:
            file.write(_line(cells))
        except OSError as error:
            self.failures.append(error)

    def _write_map(self, name: str, anomaly_map: np.ndarray) -> str:
        """The map of a photo as float16, or whole where it has larger values; returns its file, "" if it has none."""
        encoded = io.BytesIO()
        fits = np.abs(anomaly_map).max() <= LARGEST
        tifffile.imwrite(encoded, anomaly_map.astype(np.float16) if fits else anomaly_map)
        return self._written(f"maps/{shortened(name)}.tiff", encoded)

    def _written(self, name: str, encoded: io.BytesIO) -> str:
        """`name`, relative to the folder, once it is written; "" if it cannot be."""
        path = below(self.folder, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encoded.getvalue())
        except OSError as error:
            error.filename = error.filename or str(path)
            self.failures.append(error)
            return ""
        return name

    def _read_map(self, verdict: Verdict) -> np.ndarray:
        return tifffile.imread(below(self.folder, verdict.map_file))


def thumbnail(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The picture with a longest side of `THUMBNAIL_SIDE` pixels, RGB; never enlarged."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), PIL.Image.Resampling.LANCZOS)
    return small


def plain_file(thumb_file: str) -> str:
    """The thumbnail without heat that belongs to one with."""
    return thumb_file.removesuffix(".jpg") + ".photo.jpg"


def as_csv(verdicts: Sequence[Verdict], threshold: Threshold) -> bytes:
    """The whole content of predictions.csv."""
    return _line(COLUMNS) + b"".join(_line(_cells(verdict, threshold)) for verdict in verdicts)


def _line(cells: Iterable[str]) -> bytes:
    """One row; a file name that is no valid Unicode comes out as the bytes it has."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode("utf-8", "surrogateescape")


def _cells(verdict: Verdict, threshold: Threshold | None) -> list[str]:
    """The values of `COLUMNS`; nine digits give a float32 back exactly, so the verdict follows from them."""
    score = "" if verdict.score is None else f"{verdict.score:.9g}"
    value = "" if threshold is None else f"{threshold.value:.9g}"
    return [verdict.name, score, verdict.verdict, value, verdict.map_file, verdict.overlay_file, verdict.note]
