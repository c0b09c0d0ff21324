"""A verdict on each photo of a folder: what `make predict` does once model and threshold stand."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import Tensor
from tqdm import tqdm

from eval.ranking.histogram import LARGEST, ValueCounts
from models.base import AnomalyModel
from models.disk import write_atomically
from models.errors import ModelInputError
from tracks.command.paths import below, shortened
from tracks.datasets.sample import Sample
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.errors import TrackInputError
from tracks.run.ahead import cut, load_ahead
from tracks.run.batch import as_batch
from tracks.run.input_size import mention_small_input
from tracks.run.overlay import category_scale, count_pixels, map_bound, render_overlay
from tracks.run.resize import resize_map

UNREADABLE = "unreadable"
UNSURE = "unsure: between the threshold and the highest reference"
PENDING = "the threshold comes from all photos, once they are scored"
COUNTED_SIDE = 256
"""The colour scale is read off so many rows and columns of each map at most."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one photo; the files are relative to the output folder, `score` is None if unreadable."""

    name: str
    verdict: str
    score: float | None = None
    map_file: str = ""
    overlay_file: str = ""
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


@dataclass(frozen=True)
class Loaded:
    """A photo as the model wants it, (3, h, w), with its own size (height, width); or the reason why there is none."""

    sample: Sample
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    reason: str = ""


class Judge:
    """A model that judges photos of one category, writing maps and overlays below `folder`.

    A map or an overlay that cannot be written costs no verdict: `failures` lists what the system said, first one first.
    """

    def __init__(self, model: AnomalyModel, category: str, folder: Path, device: str = "cpu"):
        self.model, self.category, self.folder, self.device = model, category, folder, device
        self.failures: list[OSError] = []

    def judge(
        self, samples: Sequence[Sample], threshold: Threshold | None, batch_size: int, workers: int
    ) -> Iterator[Verdict]:
        """Verdicts in the order of `samples`; the maps are on disk by then, one batch is in memory at a time."""
        with tqdm(total=len(samples), desc=f"{self.category}: predict", unit="image") as bar:
            for _, batch in load_ahead(cut(samples, batch_size), partial(_load, self.model), workers):
                scored = self._score([photo for photo in batch if photo.image is not None])
                for photo in batch:
                    yield next(scored).by(threshold) if photo.image is not None else _unreadable(photo)
                    bar.update()

    def write_overlays(
        self, samples: Sequence[Sample], verdicts: Sequence[Verdict], reference_pixels: ValueCounts
    ) -> list[Verdict]:
        """Draw the overlays once all maps are known, on one scale; defects are outlined.

        `reference_pixels` are the map values of references, counted as negative; without any, photos judged OK stand
        in for them. Returns the verdicts, those without an overlay saying so.
        """
        scale = category_scale(*self._pixels(verdicts, reference_pixels))
        drawn = []
        bar = tqdm(zip(samples, verdicts, strict=True), f"{self.category}: overlays", len(verdicts), unit="image")
        for sample, verdict in bar:
            if verdict.map_file:
                photo, anomaly_map = sample.load_image(), self._read_map(verdict)
                overlay = render_overlay(photo, anomaly_map, scale, called=verdict.verdict == DEFECT)
                encoded = io.BytesIO()
                overlay.save(encoded, "PNG")
                name = self._written(f"overlays/{shortened(verdict.name)}.png", encoded)
                verdict = replace(verdict, overlay_file=name)
            drawn.append(verdict)
        return drawn

    def _pixels(self, verdicts: Sequence[Verdict], reference_pixels: ValueCounts) -> tuple[ValueCounts, float | None]:
        """The values of all maps, and the highest that there can be."""
        pixels, has_references = ValueCounts(), bool(reference_pixels.by_value()[1].any())
        pixels.merge(reference_pixels)
        for verdict in verdicts:
            if verdict.map_file:
                anomaly_map = self._read_map(verdict)
                rows, columns = (max(1, side // COUNTED_SIDE) for side in anomaly_map.shape)
                count_pixels(pixels, anomaly_map[::rows, ::columns], verdict.verdict == GOOD and not has_references)
        return pixels, map_bound(self.model.protocol, has_references)

    def _score(self, photos: Sequence[Loaded]) -> Iterator[Verdict]:
        """Photos with their scores and maps, none of them judged yet."""
        if not photos:
            return
        images = as_batch([photo.image for photo in photos if photo.image is not None], self.device)
        with torch.inference_mode():
            prediction = self.model.predict(images, [self.category] * len(photos)).cpu()
        for photo, score, anomaly_map in zip(
            photos, prediction.image_scores.tolist(), prediction.anomaly_maps, strict=True
        ):
            encoded = io.BytesIO()
            resized = resize_map(anomaly_map, photo.size, np.float32)
            fits = np.abs(resized).max() <= LARGEST
            tifffile.imwrite(encoded, resized.astype(np.float16) if fits else resized)
            name = photo.sample.name
            map_file = self._written(f"maps/{shortened(name)}.tiff", encoded)
            yield Verdict(name, UNDECIDED, score, map_file)

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


def _load(model: AnomalyModel, sample: Sample) -> Loaded:
    try:
        image = sample.load_image()
        mention_small_input(model.protocol, sample, image)
        return Loaded(sample, model.preprocess(image), (image.height, image.width))
    except (TrackInputError, ModelInputError) as error:
        return Loaded(sample, reason=str(error))


def _unreadable(photo: Loaded) -> Verdict:
    return Verdict(photo.sample.name, UNREADABLE, note=photo.reason)
