"""The only evaluation loop: references, then a prediction for each image, for the tracks' store and for `predict`."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from tqdm import tqdm

from eval.ranking.histogram import RoundingSample
from models.base import AnomalyModel, Images, Prediction, as_batch
from models.errors import ModelInputError
from models.references import MAX_REFERENCES, Prepared
from models.transductive import TransductiveModel
from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError
from tracks.run.cost import Stopwatch
from tracks.run.loading import cut, load_ahead, mention_small_input
from tracks.run.resize import resize_map, resize_mask
from tracks.run.store import PredictionStore, Row

NATIVE, AS_GIVEN = "native", "model"
LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)


@dataclass(frozen=True)
class RunnerOptions:
    """How a run goes about its work; `resolution` is the side of the scored maps in pixels, or "native", or "model".

    With "native" a map has its image's size, with "model" it stays as the model gives it.

    Without `strict` an image that cannot be read is handed on with the reason, and stops nothing. The `engine` is this
    process ("local"), or "ray": then on this machine or the cluster at `ray_address`, with so many `actors` (1 by
    default) that hold the model.
    """

    resolution: int | str = 256
    batch_size: int = 8
    workers: int = 2
    device: str = "cpu"
    mask_resize: str = "bilinear"
    strict: bool = True
    engine: str = LOCAL
    ray_address: str | None = None
    actors: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A sample with its preprocessed image (3, h, w), the size (height, width) at which it is scored, its mask there;
    `photo_size` is the photo's own (width, height).

    Without an image `unreadable` says why.
    """

    sample: Sample
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    mask: np.ndarray | None = None
    photo_size: tuple[int, int] = (0, 0)
    unreadable: str = ""


@dataclass(frozen=True)
class Scored:
    """What a model says of one image: its map, (height, width) float32 at the scored size, and its scores.

    `seconds` is the model's time for the batch, shared evenly by its images.
    """

    anomaly_map: np.ndarray
    image_score: float
    scalars: dict[str, float]
    seconds: float = 0.0


def fit_references(model: AnomalyModel, references: Sequence[Sample], category: str, device: str) -> None:
    """Show the model the references of one category."""
    fit_images(model, Prepared(references, lambda sample: model.preprocess(sample.load_image())), category, device)


def fit_images(model: AnomalyModel, prepared: Prepared, category: str, device: str) -> None:
    """Show the model preprocessed references; a few are held together, many are made ready when they are asked for."""
    images: Images = prepared
    if len(prepared) <= MAX_REFERENCES:
        bar = tqdm(prepared, desc=f"{category}: references", unit="image", leave=False)
        images = as_batch(list(bar), device)
    with torch.inference_mode():
        model.fit(images, category)


def score_images(
    model: AnomalyModel, samples: Sequence[Sample], category: str, options: RunnerOptions,
    wanted: Collection[str] | None = None, watch: Stopwatch | None = None,
) -> Iterator[tuple[Loaded, Scored | None]]:  # fmt: skip
    """Each image, in order, with what the model says of it; None of one that cannot be read.

    Of `wanted` names only, if given. Batches are cut from the whole list all the same, so that an image is always
    computed in the same batch: a run that was killed ends in the same numbers, bit for bit on a processor (a GPU need
    not round alike from one run to the next). One batch of maps is in memory at a time. `watch` adds up the
    seconds of the model's `predict`.

    A transductive model is given all samples together, those that cannot be read apart, whatever is wanted.
    """
    watch, protocol = watch or Stopwatch(), model.protocol
    wanted = {sample.name for sample in samples} if wanted is None else wanted
    if isinstance(model, TransductiveModel):
        every = _score_together(model, samples, category, options, watch) if wanted else iter(())
        yield from (pair for pair in every if pair[0].sample.name in wanted)
        return
    batches = [b for b in cut(samples, options.batch_size) if any(sample.name in wanted for sample in b)]
    with tqdm(total=len(samples), initial=len(samples) - len(wanted), desc=f"{category}: predict", unit="image") as bar:
        for batch, prediction, seconds in predicted(model, batches, category, options, watch):
            numbers = iter(range(len(batch)))
            seconds /= max(1, sum(loaded.image is not None for loaded in batch))
            for loaded in batch:
                mention_small_input(protocol, loaded.sample, loaded.photo_size)
                number = None if loaded.image is None else next(numbers)
                if loaded.sample.name not in wanted:
                    continue
                scored = None
                if number is not None and prediction is not None:
                    sized = _sized(prediction.anomaly_maps[number], loaded.size, options)
                    scored = _scored(prediction, number, sized, seconds)
                yield loaded, scored
                bar.update()


def predicted(
    model: AnomalyModel, batches: Sequence[Sequence[Sample]], category: str, options: RunnerOptions, watch: Stopwatch
) -> Iterator[tuple[list[Loaded], Prediction | None, float]]:
    """For each batch, in order: its images, what the model says of those that could be read, and its seconds."""
    if options.engine == RAY:
        from tracks.run.on_ray import predicted_on_ray

        for batch, prediction, seconds in predicted_on_ray(model, batches, category, options):
            watch.seconds += seconds
            yield batch, prediction, seconds
        return
    for _, batch in load_ahead(batches, lambda sample: load(model.preprocess, sample, options), options.workers):
        images = [loaded.image for loaded in batch if loaded.image is not None]
        before, prediction = watch.seconds, None
        if images:
            with torch.inference_mode(), watch:
                prediction = model.predict(as_batch(images, options.device), [category] * len(images)).cpu()
        yield batch, prediction, watch.seconds - before


def _score_together(
    model: TransductiveModel, samples: Sequence[Sample], category: str, options: RunnerOptions,
    watch: Stopwatch,
) -> Iterator[tuple[Loaded, Scored | None]]:  # fmt: skip
    """Each image, in order, with what the model says of it in the company of the others.

    Images are made ready when the model asks for them, which counts as its time; what it does before its first
    prediction is shared evenly by all images.
    """
    if options.engine == RAY:
        raise TrackInputError(
            f"expected engine=local for {type(model).__name__}, which scores all images together, got {RAY}"
        )
    unreadable = {} if options.strict else _unreadable(model, samples, options)
    known: dict[str, Loaded] = {}

    def prepare(sample: Sample) -> Tensor:
        loaded = load(model.preprocess, sample, options, masks=False)
        assert loaded.image is not None  # those that cannot be read are not asked for
        known[sample.name] = replace(loaded, image=None)
        return loaded.image

    readable = [sample for sample in samples if sample.name not in unreadable]
    with (
        ThreadPoolExecutor(max(1, options.workers)) as pool,
        tqdm(total=len(samples), desc=f"{category}: predict together", unit="image") as bar,
    ):
        parts = model.predict_together(Prepared(readable, prepare, pool.map), category, options.batch_size)
        rows = _rows(parts, len(readable), watch)
        for sample in samples:
            bar.update()
            if sample.name in unreadable:
                yield unreadable[sample.name], None
                continue
            anomaly_map, scored = next(rows)
            loaded = known[sample.name]
            loaded = replace(loaded, mask=_mask(sample, loaded.size, options))
            yield loaded, replace(scored, anomaly_map=_sized(anomaly_map, loaded.size, options))


def _unreadable(model: AnomalyModel, samples: Sequence[Sample], options: RunnerOptions) -> dict[str, Loaded]:
    """The samples that cannot be read, by name; they take no part."""
    found: dict[str, Loaded] = {}
    for _, batch in load_ahead(
        cut(samples, 1), lambda sample: load(model.preprocess, sample, options, False), options.workers
    ):
        found |= {loaded.sample.name: loaded for loaded in batch if loaded.image is None}
    return found


def _rows(parts: Iterator[Prediction], count: int, watch: Stopwatch) -> Iterator[tuple[Tensor, Scored]]:
    """The map, at the model's size, and the scores of each image of predictions that come in parts."""
    shared: float | None = None
    while True:
        started = time.perf_counter()
        with torch.inference_mode(), watch:
            part = next(parts, None)
        if part is None:
            return
        part, seconds = part.cpu(), time.perf_counter() - started
        own = 0.0 if shared is None else seconds / len(part.image_scores)
        shared = seconds / count if shared is None else shared
        for number, anomaly_map in enumerate(part.anomaly_maps):
            yield anomaly_map, _scored(part, number, anomaly_map.numpy(), shared + own)


def _scored(prediction: Prediction, number: int, anomaly_map: np.ndarray, seconds: float) -> Scored:
    scalars = {name: float(values[number]) for name, values in prediction.scalars.items()}
    return Scored(anomaly_map, float(prediction.image_scores[number]), scalars, seconds)


def _sized(anomaly_map: Tensor, size: tuple[int, int], options: RunnerOptions) -> np.ndarray:
    if options.resolution == AS_GIVEN:
        return anomaly_map.float().numpy()
    return resize_map(anomaly_map, size, np.float32)


def lacking(store: PredictionStore, samples: Sequence[Sample], category: str) -> set[str]:
    """Names of the samples that the store has no prediction of, or one of an image that changed since."""
    known = {row.name: row.fingerprint for row in store.rows(category)}
    return {sample.name for sample in samples if known.get(sample.name) != sample.fingerprint}


def predict_category(
    model: AnomalyModel, samples: Sequence[Sample], category: str, store: PredictionStore, options: RunnerOptions,
    watch: Stopwatch | None = None, unrounded: RoundingSample | None = None,
) -> int:  # fmt: skip
    """Predict the images of a category that the store lacks; returns how many that were.

    `unrounded` is given the maps before the store rounds them; for `watch` see `score_images`.
    """
    stale = lacking(store, samples, category)
    for loaded, scored in score_images(model, samples, category, options, stale, watch):
        assert scored is not None  # options are strict
        sample, (height, width) = loaded.sample, loaded.size
        if unrounded is not None and store.map_type is np.float16:
            unrounded.add(scored.anomaly_map, loaded.mask)
        row = Row(
            name=sample.name,
            category=sample.category,
            label=sample.label,
            defect_type=sample.defect_type,
            image_score=scored.image_score,
            height=height,
            width=width,
            map_file=store.map_file(sample.category, sample.name),
            has_mask=loaded.mask is not None,
            fingerprint=sample.fingerprint,
            scalars=scored.scalars,
        )
        store.add(row, scored.anomaly_map, loaded.mask)
    return len(stale)


def load(
    preprocess: Callable[[PIL.Image.Image], Tensor], sample: Sample, options: RunnerOptions, masks: bool = True
) -> Loaded:
    """Decode and preprocess one image, its mask, if wanted, at the size at which it is scored."""
    try:
        image = sample.load_image()
        size = (image.height, image.width)
        if options.resolution not in (NATIVE, AS_GIVEN):
            size = (int(options.resolution), int(options.resolution))
        mask = _mask(sample, size, options) if masks else None
        return Loaded(sample, preprocess(image), size, mask, image.size)
    except (TrackInputError, ModelInputError) as error:
        if options.strict:
            raise
        return Loaded(sample, unreadable=str(error))


def _mask(sample: Sample, size: tuple[int, int], options: RunnerOptions) -> np.ndarray | None:
    mask = sample.load_mask()
    return None if mask is None else resize_mask(mask, size, options.mask_resize)
