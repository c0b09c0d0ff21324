"""A verdict on each photo of a folder: what `make predict` does once model and threshold stand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tifffile
import torch
from torch import Tensor
from tqdm import tqdm

from eval.histogram import ValueCounts
from models.base import AnomalyModel
from models.errors import ModelInputError
from tracks.ahead import cut, load_ahead
from tracks.batch import as_batch
from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError
from tracks.input_size import mention_small_input
from tracks.overlay import category_scale, count_pixels, render_overlay
from tracks.paths import below, shortened
from tracks.resize import resize_map
from tracks.threshold import Threshold

DEFECT, GOOD, UNREADABLE = "DEFECT", "OK", "unreadable"
UNSURE = "unsure: between the threshold and the highest reference"


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


@dataclass(frozen=True)
class Loaded:
    """A photo as the model wants it, (3, h, w), with its own size (height, width); or the reason why there is none."""

    sample: Sample
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    reason: str = ""


@dataclass
class Judge:
    """A model and a threshold for one category, writing below `folder`.

    `pixels` collects map values for the colour scale: those of normal images are counted as negative. Without
    references, photos judged OK stand in for normal images.
    """

    model: AnomalyModel
    category: str
    threshold: Threshold
    folder: Path
    device: str = "cpu"
    pixels: ValueCounts = field(default_factory=ValueCounts)

    def __post_init__(self) -> None:
        self._has_normals = bool(self.pixels.by_value()[1].any())

    def judge(self, samples: Sequence[Sample], batch_size: int, workers: int) -> Iterator[Verdict]:
        """Verdicts in the order of `samples`; the maps are on disk by then, one batch is in memory at a time."""
        with tqdm(total=len(samples), desc=f"{self.category}: predict", unit="image") as bar:
            for _, batch in load_ahead(cut(samples, batch_size), partial(_load, self.model), workers):
                scored = self._score([photo for photo in batch if photo.image is not None])
                for photo in batch:
                    yield next(scored) if photo.image is not None else _unreadable(photo)
                    bar.update()

    def write_overlays(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> None:
        """Draw the overlays once all maps are known, on one scale; defects are outlined."""
        scale = category_scale(self.pixels)
        readable = [pair for pair in zip(samples, verdicts, strict=True) if pair[1].score is not None]
        for sample, verdict in tqdm(readable, desc=f"{self.category}: overlays", unit="image", disable=not readable):
            outline = scale.quiet if verdict.verdict == DEFECT else None
            anomaly_map = tifffile.imread(below(self.folder, verdict.map_file))
            overlay = render_overlay(sample.load_image(), anomaly_map, scale, outline)
            overlay.save(_made_ready(below(self.folder, verdict.overlay_file)))

    def _score(self, photos: Sequence[Loaded]) -> Iterator[Verdict]:
        if not photos:
            return
        images = as_batch([photo.image for photo in photos if photo.image is not None], self.device)
        with torch.inference_mode():
            prediction = self.model.predict(images, [self.category] * len(photos))
        for photo, score, anomaly_map in zip(
            photos, prediction.image_scores.tolist(), prediction.anomaly_maps, strict=True
        ):
            verdict = self._verdict(photo.sample.name, score)
            normal = verdict.verdict == GOOD and not self._has_normals
            count_pixels(self.pixels, anomaly_map.half().cpu().numpy(), normal)
            tifffile.imwrite(_made_ready(below(self.folder, verdict.map_file)), resize_map(anomaly_map, photo.size))
            yield verdict

    def _verdict(self, name: str, score: float) -> Verdict:
        verdict = DEFECT if self.threshold.is_defect(score) else GOOD
        note = UNSURE if self.threshold.is_unsure(score) else ""
        place = shortened(name)
        return Verdict(name, verdict, score, f"maps/{place}.tiff", f"overlays/{place}.png", note)


def _load(model: AnomalyModel, sample: Sample) -> Loaded:
    try:
        image = sample.load_image()
        mention_small_input(model.protocol, sample, image)
        return Loaded(sample, model.preprocess(image), (image.height, image.width))
    except (TrackInputError, ModelInputError) as error:
        return Loaded(sample, reason=str(error))


def _unreadable(photo: Loaded) -> Verdict:
    return Verdict(photo.sample.name, UNREADABLE, note=photo.reason)


def _made_ready(path: Path) -> Path:
    """The same path, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
