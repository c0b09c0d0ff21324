"""A verdict on each photo of a folder, with its map, its overlay and its row in predictions.csv."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import RawIOBase
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from tqdm import tqdm

from eval.ranking.histogram import LARGEST, ValueCounts
from models.disk import write_atomically
from models.own_references import OWN
from tracks.command.paths import below, shortened
from tracks.datasets.files import FileSample
from tracks.datasets.region import Region, photo_size
from tracks.decide.kept import NO_MAPS, Facts, Kept, Score, fingerprint
from tracks.decide.regions import find_regions
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.decide.verdict import BYTE_ORDER_MARK, COLUMNS, CSV_FILE, UNREADABLE, Verdict, cells, csv_line
from tracks.run.loading import cut, load_ahead
from tracks.run.overlay import HeatScale, category_scale, count_pixels, render_overlay, shrunk
from tracks.run.runner import Loaded, Scored

COUNTED_SIDE = 256
"""The colour scale is read off so many rows and columns of each map at most."""
THUMBNAIL_SIDE = 320
"""Longest side of a thumbnail in pixels."""
QUALITY = 82
OVERLAY_QUALITY = 90
DRAWN_AHEAD = 8
"""Overlays in a batch, two of which are drawn ahead."""
SHOWN = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
"""Endings of what browsers show; of other photos the page needs a copy."""


class Judge:
    """Judges photos by their scores, writing maps, overlays and predictions.csv into `folder`.

    What is `kept` of earlier runs is not made again. What cannot be written costs no verdict: `failures` lists what the
    system said, first one first. Overlays are drawn in so many threads (`workers`).
    """

    def __init__(self, kept: Kept, folder: Path, quiet: bool = False, region: Region | None = None, workers: int = 1):
        self.kept, self.folder, self.quiet, self.region, self.workers = kept, folder, quiet, region, workers
        self.failures: list[OSError] = []
        self._one_line = Lock()

    def judge(
        self, samples: Sequence[FileSample], threshold: Threshold | None, scored: Iterator[tuple[Loaded, Scored | None]]
    ) -> Iterator[Verdict]:
        """Verdicts in the order of `samples`, each printed and with map and row on disk: a stopped run keeps them.

        `scored` gives those whose score is not kept, in the same order.
        """
        with (self.folder / CSV_FILE).open("wb", buffering=0) as file:
            self._add_row(file, COLUMNS, BYTE_ORDER_MARK)
            for sample in samples:
                row = self.kept.scores.pop(sample.name, None) or self._score(sample, *next(scored))
                if row.score is None:
                    verdict = Verdict(sample.name, UNREADABLE, note=row.note)
                else:
                    verdict = Verdict(
                        sample.name, UNDECIDED, row.score, row.map_file, milliseconds=row.milliseconds,
                        own_reference=row.own_reference,
                    )  # fmt: skip
                    verdict = verdict.by(threshold)
                self._add_row(file, cells(verdict, threshold))
                if not self.quiet:
                    tqdm.write(str(verdict))
                yield verdict

    def write_overlays(self, samples: Sequence[FileSample], verdicts: list[Verdict], facts: Facts) -> None:
        """Draw the overlays once all maps are known, on one scale; defects are outlined.

        Without references those photos that the model took as such stand in for them on the scale, else those that are
        OK by the weights' threshold, so that another threshold leaves it as it is; where none is, those judged OK. What
        was drawn alike before stays. Verdicts are replaced in the list by ones that name their files.
        """
        scale = category_scale(self._pixels(verdicts, facts), facts.map_bound)

        def drawn(number: int) -> Verdict:
            sample, verdict = samples[number], verdicts[number]
            if verdict.map_file:
                return self._with_overlay(sample, verdict, scale)
            alone = self.kept.maps == NO_MAPS and verdict.score is not None
            return self._with_photo(sample, verdict) if alone else verdict

        with tqdm(desc="overlays", total=len(verdicts), unit="image") as bar:
            for numbers, found in load_ahead(cut(range(len(verdicts)), DRAWN_AHEAD), drawn, self.workers):
                verdicts[numbers[0] : numbers[-1] + 1] = found
                bar.update(len(found))

    def _score(self, sample: FileSample, loaded: Loaded, scored: Scored | None) -> Score:
        """The score of a photo, its map written; kept unless that failed, so that the next run makes up for it."""
        name, mark = sample.name, fingerprint(sample)
        if scored is None:
            row = Score(name, mark, note=loaded.unreadable)
        else:
            maps = self.kept.maps
            anomaly_map = scored.anomaly_map if self.region is None else self.region.blanked(scored.anomaly_map)
            map_file = "" if maps == NO_MAPS else self._write_map(name, anomaly_map)
            row = Score(
                name, mark, scored.image_score, map_file, round(1000 * scored.seconds, 1), maps=maps,
                own_reference=bool(scored.scalars.get(OWN)),
            )  # fmt: skip
        if row.map_file or scored is None or row.maps == NO_MAPS:
            try:
                self.kept.keep(row)
            except OSError as error:
                self.failures.append(error)
        return row

    def _with_overlay(self, sample: FileSample, verdict: Verdict, scale: HeatScale) -> Verdict:
        called = verdict.verdict == DEFECT
        looks = [fingerprint(sample), called, scale.low, scale.quiet, scale.high]
        row = self.kept.drawn(verdict.name, looks)
        if row is None:
            photo, anomaly_map = sample.load_image(), self._read_map(verdict)
            overlay = render_overlay(photo, anomaly_map, scale, called=called)
            file = self._written(f"overlays/{shortened(verdict.name)}.jpg", _jpeg(overlay, OVERLAY_QUALITY))
            files = [file, *self._write_thumbs(verdict.name, photo, overlay), *self._shown(sample, photo)]
            regions = find_regions(anomaly_map, photo.size, scale) if called else []
            if self.region is not None:
                regions = self.region.on_photo(regions, photo_size(sample))
            row = self._keep_drawn({"name": verdict.name, "looks": looks, "files": files, "regions": regions})
        overlay_file, thumb_file, _, photo_file = [*row["files"], ""][:4]
        return replace(
            verdict, overlay_file=overlay_file, thumb_file=thumb_file, photo_file=photo_file,
            regions=tuple(row["regions"]),
        )  # fmt: skip

    def _with_photo(self, sample: FileSample, verdict: Verdict) -> Verdict:
        """A thumbnail of the photo alone."""
        looks = [fingerprint(sample)]
        row = self.kept.drawn(verdict.name, looks)
        if row is None:
            photo = sample.load_image()
            small = _jpeg(shrunk(photo, THUMBNAIL_SIDE), QUALITY)
            files = [self._written(f"thumbs/{shortened(verdict.name)}.jpg", small), *self._shown(sample, photo)]
            row = self._keep_drawn({"name": verdict.name, "looks": looks, "files": files, "regions": []})
        thumb_file, photo_file = [*row["files"], ""][:2]
        return replace(verdict, thumb_file=thumb_file, photo_file=photo_file)

    def _shown(self, sample: FileSample, photo: PIL.Image.Image) -> list[str]:
        """The file of a copy of a photo that no browser shows as it is: a frame of a clip, a remote one, a TIFF."""
        if sample.path.suffix.lower() in SHOWN and sample.path.is_file():
            return []
        return [self._written(f"photos/{shortened(sample.name)}.jpg", _jpeg(photo, OVERLAY_QUALITY))]

    def _keep_drawn(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if all(row["files"]):
                with self._one_line:
                    self.kept.keep_drawn(row)
        except OSError as error:
            self.failures.append(error)
        return row

    def _write_thumbs(self, name: str, photo: PIL.Image.Image, overlay: PIL.Image.Image) -> list[str]:
        """Thumbnails of a photo with heat and without; returns their files, "" for one that cannot be written."""
        thumb_file = f"thumbs/{shortened(name)}.jpg"
        heat = overlay.crop((0, 0, overlay.width, round(photo.height * overlay.width / photo.width)))  # no legend
        pictures = {thumb_file: heat, plain_file(thumb_file): photo}
        return [
            self._written(file, _jpeg(shrunk(picture, THUMBNAIL_SIDE), QUALITY)) for file, picture in pictures.items()
        ]

    def _pixels(self, verdicts: Sequence[Verdict], facts: Facts) -> ValueCounts:
        """How often the maps have each value."""
        pixels, has_references = ValueCounts(), bool(facts.pixels.by_value()[1].any())
        pixels.merge(facts.pixels)
        good = [verdict.own_reference for verdict in verdicts]
        if not any(good):
            good = [verdict.by(facts.weights_threshold).verdict == GOOD for verdict in verdicts]
        if not any(good):
            good = [verdict.verdict == GOOD for verdict in verdicts]
        for verdict, is_good in zip(verdicts, good, strict=True):
            if verdict.map_file:
                count_map(pixels, self._read_map(verdict), is_good and not has_references)
        return pixels

    def _add_row(self, file: RawIOBase, cells: Iterable[str], before: bytes = b"") -> None:
        try:
            file.write(before + csv_line(cells))
        except OSError as error:
            self.failures.append(error)

    def _write_map(self, name: str, anomaly_map: np.ndarray) -> str:
        """The map of a photo as float16, or whole where it has larger values; returns its file, "" if it has none."""
        encoded = io.BytesIO()
        fits = np.abs(anomaly_map).max() <= LARGEST
        tifffile.imwrite(encoded, anomaly_map.astype(np.float16) if fits else anomaly_map)
        return self._written(f"maps/{shortened(name)}.tiff", encoded.getvalue())

    def _written(self, name: str, content: bytes) -> str:
        """`name`, relative to the folder, once it is written; "" if it cannot be."""
        path = below(self.folder, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            error.filename = error.filename or str(path)
            self.failures.append(error)
            return ""
        return name

    def _read_map(self, verdict: Verdict) -> np.ndarray:
        return tifffile.imread(below(self.folder, verdict.map_file))


def count_map(counts: ValueCounts, anomaly_map: np.ndarray, normal: bool) -> None:
    """Let a map take part in the colour scale by some of its rows and columns."""
    rows, columns = (max(1, side // COUNTED_SIDE) for side in anomaly_map.shape)
    count_pixels(counts, anomaly_map[::rows, ::columns], normal)


def _jpeg(picture: PIL.Image.Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def plain_file(thumb_file: str) -> str:
    """The thumbnail without heat that belongs to one with."""
    return thumb_file.removesuffix(".jpg") + ".photo.jpg"
