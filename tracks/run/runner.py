"""The only evaluation loop: references, then predictions into the store; `tracks.run.scoring` takes it from there."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eval.rounding import RoundingSample
from models.base import AnomalyModel, Images, Prediction
from models.references import MAX_REFERENCES, Prepared
from tracks.datasets.sample import Sample
from tracks.run.ahead import cut, load_ahead
from tracks.run.batch import as_batch
from tracks.run.input_size import mention_small_input
from tracks.run.resize import resize_map, resize_mask
from tracks.run.store import PredictionStore, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerOptions:
    """How a run goes about its work; `resolution` is the side of the scored maps in pixels, or "native"."""

    resolution: int | str = 256
    batch_size: int = 8
    workers: int = 2
    device: str = "cpu"
    mask_resize: str = "bilinear"


@dataclass(frozen=True)
class Loaded:
    """A sample with its preprocessed image (3, h, w), its own size (height, width) and its resized mask."""

    sample: Sample
    image: Tensor
    size: tuple[int, int]
    mask: np.ndarray | None


def fit_references(model: AnomalyModel, references: Sequence[Sample], category: str, device: str) -> None:
    """Show the model the references of one category."""
    images: Images = Prepared(references, lambda sample: model.preprocess(sample.load_image()))
    if len(references) <= MAX_REFERENCES:
        bar = tqdm(images, desc=f"{category}: references", unit="image", leave=False)
        images = as_batch(list(bar), device)
    with torch.inference_mode():
        model.fit(images, category)


def lacking(store: PredictionStore, samples: Sequence[Sample], category: str) -> set[str]:
    """Names of the samples that the store has no prediction of, or one of an image that changed since."""
    known = {row.name: row.fingerprint for row in store.rows(category)}
    return {sample.name for sample in samples if known.get(sample.name) != sample.fingerprint}


def predict_category(
    model: AnomalyModel, samples: Sequence[Sample], category: str, store: PredictionStore, options: RunnerOptions,
    watch: AbstractContextManager | None = None, unrounded: RoundingSample | None = None,
) -> int:  # fmt: skip
    """Predict the images of a category that the store lacks; returns how many that were.

    Batches are cut from the whole list, whatever is there already, so that an image is always
    computed in the same batch: a run that was killed ends in the same numbers, bit for bit on a processor (a GPU need
    not round alike from one run to the next).
    `watch` is entered around each call of the model's `predict`; `unrounded` is given the maps before the store rounds
    them.
    """
    watch = watch or nullcontext()
    stale = lacking(store, samples, category)
    batches = cut(samples, options.batch_size)
    todo = [batch for batch in batches if any(sample.name in stale for sample in batch)]
    with tqdm(total=len(samples), initial=len(samples) - len(stale), desc=f"{category}: predict", unit="image") as bar:
        for _, batch in load_ahead(todo, lambda sample: _load(model, sample, options), options.workers):
            images = as_batch([loaded.image for loaded in batch], options.device)
            with torch.inference_mode(), watch:
                prediction = model.predict(images, [category] * len(batch)).cpu()
            for index, loaded in enumerate(batch):
                if loaded.sample.name in stale:
                    _keep(store, loaded, prediction, index, options, unrounded)
                    bar.update()
    return len(stale)


def _keep(
    store: PredictionStore, loaded: Loaded, prediction: Prediction, index: int, options: RunnerOptions,
    unrounded: RoundingSample | None,
) -> None:  # fmt: skip
    sample = loaded.sample
    size = map_size(loaded.size, options.resolution)
    anomaly_map = resize_map(prediction.anomaly_maps[index], size, np.float32)
    if unrounded is not None and store.map_type is np.float16:
        unrounded.add(anomaly_map, loaded.mask)
    row = Row(
        name=sample.name,
        category=sample.category,
        label=sample.label,
        defect_type=sample.defect_type,
        image_score=float(prediction.image_scores[index]),
        height=size[0],
        width=size[1],
        map_file=store.map_file(sample.category, sample.name),
        has_mask=loaded.mask is not None,
        fingerprint=sample.fingerprint,
        scalars={name: float(values[index]) for name, values in prediction.scalars.items()},
    )
    store.add(row, anomaly_map, loaded.mask)


def map_size(size: tuple[int, int], resolution: int | str) -> tuple[int, int]:
    """(height, width) at which an image of `size` is scored: its own, or a square of the given side."""
    return size if resolution == "native" else (int(resolution), int(resolution))


def _load(model: AnomalyModel, sample: Sample, options: RunnerOptions) -> Loaded:
    image = sample.load_image()
    mention_small_input(model.protocol, sample, image)
    mask = sample.load_mask()
    size = (image.height, image.width)
    target = map_size(size, options.resolution)
    resized = None if mask is None else resize_mask(mask, target, options.mask_resize)
    return Loaded(sample, model.preprocess(image), size, resized)
