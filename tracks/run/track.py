"""One run of a track, from the configuration to the table: what both tracks and the sweep call."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from eval.ranking.histogram import RoundingSample, rank_loss
from models.base import AnomalyModel
from models.disk import write_atomically
from models.transductive import TransductiveModel
from tracks.command.names import unknown
from tracks.command.paths import below
from tracks.datasets.notices import counted_notices
from tracks.datasets.registry import announce_licence
from tracks.datasets.sample import Dataset, Sample
from tracks.decide.decision import KeptThresholds
from tracks.decide.threshold import weights_threshold
from tracks.errors import TrackInputError
from tracks.run.build import build_model, check_run_settings, chosen_tracker, engine, pick_device, run_names
from tracks.run.cost import CostLedger, peak_memory
from tracks.run.fingerprint import code_digest, device_name, settings_digest, versions, weights_digest
from tracks.run.log_file import kept_log, log_into, note
from tracks.run.overlay import draw_overlays
from tracks.run.reference_lists import write_manifest
from tracks.run.references import (
    DRAWS,
    SHUFFLED,
    SLICES,
    choose_shuffled,
    choose_slice,
    distinct,
    resolve,
    warn_of_judged_references,
)
from tracks.run.resize import MAP_RULE, MASK_RULES
from tracks.run.results import known_of_run, report, summarise, write_results
from tracks.run.run_folder import link_latest, run_folder, working_in
from tracks.run.runner import RunnerOptions, fit_references, lacking, predict_category
from tracks.run.scoring import IMAGE_SCORES, score_category
from tracks.run.shard import Shard, predicted_alone, read_shard
from tracks.run.store import PRECISIONS, PredictionStore
from tracks.run.trackers import Record, flat, metrics_of

log = logging.getLogger(__name__)


@kept_log()
@counted_notices()
def run_track(cfg: DictConfig, track: str) -> dict[str, Any]:
    """Run one track on one data set and write results.json, .csv and .md into its run folder.

    Returns the content of results.json plus `folder`. A run of the same settings that was begun
    before is continued with the images that are missing. Of a shard there are predictions and no results.

    Raises:
        TrackInputError: anything in the settings or the data that the user can mend.
    """
    started = time.perf_counter()
    check_settings(cfg)
    tracker, shard = chosen_tracker(cfg), read_shard(cfg.get("shard"))
    dataset: Dataset = instantiate(cfg.data)
    announce_licence(dataset.name)
    categories = choose_categories(dataset, list(cfg.categories))
    references = choose_references(cfg, dataset, categories)
    samples = {name: samples_to_score(dataset, name, references.get(name, [])) for name in categories}
    device = pick_device(cfg.device)
    options = RunnerOptions(cfg.resolution, cfg.batch_size, cfg.workers, device, cfg.mask_resize, **engine(cfg))
    model = build_model(cfg, device)
    settings = describe(cfg, track, dataset, categories, references, model, device)
    warn_of_own_data(str(settings["protocol"].get("adapter_trained_on", "")), dataset)
    track_folder = Path(cfg.outputs) / track
    folder = run_folder(cfg.out, track_folder, settings)
    if shard is not None:
        folder, settings = shard.folder(folder), settings | {"shard": str(shard)}
        samples = part_of(samples, shard, model, cfg.batch_size)
    with working_in(folder, settings, fresh=cfg.fresh) as store:
        log_into(store.folder)
        drop_what_is_outdated(store, samples, together=isinstance(model, TransductiveModel))
        if references:
            write_manifest(store.folder / "references.json", references, shots=cfg.shots, seed=cfg.seed)
        tables, predicted = predict_and_score(cfg, model, samples, references, store, options, started)
        if shard is not None:
            return predicted_alone(shard, samples, predicted, store.folder)
        known = known_of_run(store.folder)
        if predicted:
            known |= {"seconds": round(time.perf_counter() - started, 2)}
            known |= {"peak_memory_mb": peak_memory()["peak_memory_mb"]}
        results = summarise(settings, tables, cfg.image_score, known)
        write_results(store.folder, results)
        write_atomically(store.folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        tracker.write(Record(store.folder, flat(OmegaConf.to_container(cfg, resolve=True)), metrics_of(results)))  # type: ignore[arg-type]
        linked = link_latest(track_folder, store.folder)
        note(f"{predicted} images predicted, {results['images']} scored on {device}: track score {results['score']}")
    report(results, store.folder, predicted, linked)
    return {**results, "folder": str(store.folder)}


def part_of(
    samples: dict[str, list[Sample]], shard: Shard, model: AnomalyModel, batch_size: int
) -> dict[str, list[Sample]]:
    """The images of a shard; TrackInputError for a model that scores all images together."""
    if isinstance(model, TransductiveModel):
        raise TrackInputError(f"expected no shard for {type(model).__name__}, which scores all images together")
    return shard.of(samples, batch_size)


def drop_what_is_outdated(store: PredictionStore, samples: dict[str, list[Sample]], together: bool = False) -> None:
    """Leave no row but those of the images of this run, and no result of an earlier one that had others.

    Where images are scored `together`, a category that has not all and only its images is begun again.
    """
    images = {name: [(sample.name, sample.fingerprint) for sample in each] for name, each in samples.items()}
    if together:
        found = {name: {(row.name, row.fingerprint) for row in store.rows(name)} for name in images}
        images = {name: each if found[name] == set(each) else [] for name, each in images.items()}
    dropped = [name for name in images if store.keep_only(name, images[name])]
    if dropped or any(lacking(store, each, name) for name, each in samples.items()):
        for suffix in ("json", "csv", "md"):
            (store.folder / f"results.{suffix}").unlink(missing_ok=True)


def predict_and_score(
    cfg: DictConfig, model: AnomalyModel, samples: dict[str, list[Sample]], references: dict[str, list[Sample]],
    store: PredictionStore, options: RunnerOptions, started: float,
) -> tuple[dict[str, dict[str, Any]], int]:  # fmt: skip
    """Category by category: fit, predict what is missing, score; returns the tables and how many were predicted.

    A category without images is passed over, as most are in a shard, where nothing is scored.
    """
    kept, cost = KeptThresholds(store.folder, cfg.false_alarm_rate), CostLedger(store.folder, started, options.device)
    tables, predicted = {}, 0
    for category, images in samples.items():
        if not images:
            continue
        if not references and not isinstance(model, TransductiveModel):
            kept.keep_known(category, weights_threshold(model))
        elif references and (lacking(store, images, category) or category not in kept):
            with cost.fit(model):
                fit_references(model, references[category], category, options.device)
            kept.keep_fitted(category, model, [sample.name for sample in references[category]])
        unrounded = RoundingSample()
        predicted_now = predict_category(model, images, category, store, options, cost.predicting, unrounded)
        store.keep_only(category, [(sample.name, sample.fingerprint) for sample in images])  # their order
        if isinstance(model, TransductiveModel) and not references:
            kept.keep_photos(category, store.rows(category), model.scores_are_probabilities)
        predicted += predicted_now
        if "shard" not in store.settings:
            tables[category] = score_category(images, category, store, cfg.image_score, cfg.workers)
            if loss := rank_loss(unrounded.change()):
                log.warning("%s: %s. Run again with map_precision=float32", category, loss)
                tables[category]["rounding"] = loss
            draw_overlays(store, images, category, count=cfg.overlays)
        cost.keep(category, predicted_now)
    return tables, predicted


def check_settings(cfg: DictConfig) -> None:
    """Refuse values that no type can refuse."""
    good = cfg.resolution == "native" or (isinstance(cfg.resolution, int) and cfg.resolution > 0)
    if not good:
        raise TrackInputError(f"expected resolution to be a number of pixels or native, got {cfg.resolution!r}")
    choices = {
        "image_score": IMAGE_SCORES,
        "map_precision": tuple(PRECISIONS),
        "mask_resize": tuple(MASK_RULES),
        "draw": DRAWS,
    }
    for key, known in choices.items():
        if cfg[key] not in known:
            raise unknown(key, cfg[key], known)
    check_run_settings(cfg)


def choose_categories(dataset: Dataset, wanted: Sequence[str]) -> list[str]:
    """The categories to run, in the data set's order."""
    for name in wanted:
        if name not in dataset.categories:
            raise unknown("category", name, dataset.categories)
    return [name for name in dataset.categories if not wanted or name in wanted]


def choose_references(cfg: DictConfig, dataset: Dataset, categories: Sequence[str]) -> dict[str, list[Sample]]:
    """K normal images of each category; none at all, and no look at them, on the zero-shot track."""
    if cfg.shots == 0:
        return {}
    if cfg.draw == SHUFFLED and cfg.references is None:
        shuffled = choose_shuffled(dataset, cfg.shots, cfg.seed)
        return {name: shuffled[name] for name in categories}
    if cfg.draw == SLICES and cfg.references is None:
        return {name: choose_slice(dataset, name, cfg.shots, cfg.seed) for name in categories}
    return {name: resolve(dataset, name, cfg.shots, cfg.seed, cfg.references, cfg.run) for name in categories}


def samples_to_score(dataset: Dataset, category: str, references: Sequence[Sample]) -> list[Sample]:
    """The test images without those that were handed out as references from the same pool."""
    used = {sample.name for sample in references}
    samples = [sample for sample in dataset.test(category) if sample.name not in used]
    if not samples:
        raise TrackInputError(f"expected test images of {category} in {dataset.name}, got none; look into its folder")
    for name in (category, *(sample.name for sample in samples)):
        below(Path("the run folder"), name)  # said before anything is predicted
    distinct(references)  # all are handed out, copies are only said
    warn_of_judged_references(references, samples)
    return samples


def describe(
    cfg: DictConfig, track: str, dataset: Dataset, categories: Sequence[str],
    references: dict[str, list[Sample]], model: AnomalyModel, device: str,
) -> dict[str, Any]:  # fmt: skip
    """The settings that decide the results, as they stand in run.json; the run folder is named after them."""
    protocol = {
        "setting": model.setting,
        **dataset.protocol,
        **model.protocol,
        "resolution": "each image's own" if cfg.resolution == "native" else f"{cfg.resolution} x {cfg.resolution}",
        "map_resize": MAP_RULE,
        "mask_resize": MASK_RULES[cfg.mask_resize],
        "map_precision": cfg.map_precision,
    }
    return {
        "track": track,
        **({"model": type(model).__name__, "weights": "unnamed"} | run_names()),
        "data": dataset.name,
        "shots": cfg.shots,
        "seed": cfg.seed,
        "categories": list(categories),
        "chosen_categories": list(cfg.categories),
        "protocol": protocol,
        "image_score": cfg.image_score,
        "false_alarm_rate": cfg.false_alarm_rate,
        "batch_size": cfg.batch_size,
        "config": {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data")},
        "references": {category: [sample.name for sample in samples] for category, samples in references.items()},
        "references_digest": settings_digest(
            {category: [sample.fingerprint for sample in samples] for category, samples in references.items()}
        ),
        "weights_digest": weights_digest(model),
        "code_digest": code_digest(),
        "versions": versions(),
        "device": device,
        "device_name": device_name(device),
    }


def warn_of_own_data(trained_on: str, dataset: Dataset) -> None:
    """Warn where weights are scored on data that they were trained on."""
    split = dataset.protocol.get("split")
    names = {dataset.name, f"{dataset.name}:{split}"} if split else {dataset.name}
    if names & set(trained_on.split(", ")):
        log.warning("the weights were trained on %s, which is scored here: these are no zero-shot numbers", trained_on)
