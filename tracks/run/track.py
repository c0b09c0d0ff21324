"""One run of a track, from the configuration to the table: what both entry points and the sweep call."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from eval.rounding import RoundingSample, rank_loss
from eval.tables import mean_over_categories, to_csv, to_markdown, track_score
from models.base import AnomalyModel
from models.disk import write_atomically
from models.weights.missing import refuse_missing
from tracks.command.names import unknown
from tracks.command.paths import below
from tracks.datasets.notices import counted_notices
from tracks.datasets.registry import announce_licence
from tracks.datasets.sample import Dataset, Sample
from tracks.decide.decision import decision_lines, decision_table, decisions
from tracks.decide.kept_thresholds import KeptThresholds
from tracks.decide.threshold import weights_threshold
from tracks.errors import TrackInputError
from tracks.run.build import build_model
from tracks.run.copies import distinct, warn_of_judged_references
from tracks.run.cost import CostLedger, peak_memory
from tracks.run.device import pick_device
from tracks.run.fingerprint import code_digest, device_name, settings_digest, versions, weights_digest
from tracks.run.legacy import LEGACY_IMAGE_SCORE
from tracks.run.overlay import draw_overlays
from tracks.run.references import resolve, write_manifest
from tracks.run.resize import MAP_RULE, MASK_RULES
from tracks.run.run_folder import link_latest, run_folder, working_in
from tracks.run.runner import RunnerOptions, fit_references, lacking, predict_category
from tracks.run.scoring import RULES, score_category
from tracks.run.store import PRECISIONS, PredictionStore

log = logging.getLogger(__name__)
IMAGE_SCORES = ("model", "legacy_minmax")


@counted_notices()
def run_track(cfg: DictConfig, track: str) -> dict[str, Any]:
    """Run one track on one data set and write results.json, .csv and .md into its run folder.

    Returns the content of results.json plus `folder`. A run of the same settings that was begun
    before is continued with the images that are missing.

    Raises:
        TrackInputError: anything in the settings or the data that the user can mend.
    """
    started = time.perf_counter()
    check_settings(cfg)
    dataset: Dataset = instantiate(cfg.data)
    announce_licence(dataset.name)
    categories = choose_categories(dataset, list(cfg.categories))
    references = choose_references(cfg, dataset, categories)
    samples = {name: samples_to_score(dataset, name, references.get(name, [])) for name in categories}
    device = pick_device(cfg.device)
    options = RunnerOptions(cfg.resolution, cfg.batch_size, cfg.workers, device, cfg.mask_resize)
    refuse_missing(OmegaConf.to_container(cfg.model, resolve=True))
    model = build_model(cfg, device)
    settings = describe(cfg, track, dataset, categories, references, model)
    warn_of_own_data(str(settings["protocol"].get("adapter_trained_on", "")), dataset)
    track_folder = Path(cfg.outputs) / track
    with working_in(run_folder(cfg.out, track_folder, settings), settings, fresh=cfg.fresh) as store:
        drop_what_is_outdated(store, samples)
        if references:
            write_manifest(store.folder / "references.json", references, shots=cfg.shots, seed=cfg.seed)
        tables, predicted = predict_and_score(cfg, model, samples, references, store, options, started)
        known = known_of_run(store.folder) | (cost_so_far(started) if predicted else {})
        results = summarise(settings, tables, cfg.image_score, known)
        write_results(store.folder, results, cfg)
        linked = link_latest(track_folder, store.folder)
    report(results, store.folder, predicted, linked)
    return {**results, "folder": str(store.folder)}


def drop_what_is_outdated(store: PredictionStore, samples: dict[str, list[Sample]]) -> None:
    """Leave no row but those of the images of this run, and no result of an earlier one that had others."""
    images = {name: [(sample.name, sample.fingerprint) for sample in each] for name, each in samples.items()}
    dropped = [name for name in images if store.keep_only(name, images[name])]
    if dropped or any(lacking(store, each, name) for name, each in samples.items()):
        for suffix in ("json", "csv", "md"):
            (store.folder / f"results.{suffix}").unlink(missing_ok=True)


def predict_and_score(
    cfg: DictConfig, model: AnomalyModel, samples: dict[str, list[Sample]], references: dict[str, list[Sample]],
    store: PredictionStore, options: RunnerOptions, started: float,
) -> tuple[dict[str, dict[str, Any]], int]:  # fmt: skip
    """Category by category: fit, predict what is missing, score; returns the tables and how many were predicted."""
    kept, cost = KeptThresholds(store.folder, cfg.false_alarm_rate), CostLedger(store.folder, started, options.device)
    tables, predicted = {}, 0
    for category, images in samples.items():
        if not references:
            kept.keep_known(category, weights_threshold(model))
        elif lacking(store, images, category) or category not in kept:
            with cost.fit(model):
                fit_references(model, references[category], category, options.device)
            kept.keep_fitted(category, model, [sample.name for sample in references[category]])
        unrounded = RoundingSample()
        predicted_now = predict_category(model, images, category, store, options, cost.predicting, unrounded)
        store.keep_only(category, [(sample.name, sample.fingerprint) for sample in images])  # their order
        predicted += predicted_now
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
    choices = {"image_score": IMAGE_SCORES, "map_precision": tuple(PRECISIONS), "mask_resize": tuple(MASK_RULES)}
    for key, known in choices.items():
        if cfg[key] not in known:
            raise unknown(key, cfg[key], known)
    if not 0 < cfg.false_alarm_rate < 1:
        raise TrackInputError(f"expected false_alarm_rate between 0 and 1, got {cfg.false_alarm_rate}; try 0.05")
    for key in ("batch_size", "workers"):
        if cfg[key] < 1:
            raise TrackInputError(f"expected {key} >= 1, got {cfg[key]}")


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
    return {
        category: resolve(
            dataset, category, shots=cfg.shots, seed=cfg.seed, manifest=cfg.references, run=cfg.run
        )
        for category in categories
    }  # fmt: skip


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
    references: dict[str, list[Sample]], model: AnomalyModel,
) -> dict[str, Any]:  # fmt: skip
    """The settings that decide the results, as they stand in run.json; the run folder is named after them."""
    device = pick_device(cfg.device)
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    protocol = {
        "setting": "inductive",
        **dataset.protocol,
        **model.protocol,
        "resolution": "each image's own" if cfg.resolution == "native" else f"{cfg.resolution} x {cfg.resolution}",
        "map_resize": MAP_RULE,
        "mask_resize": MASK_RULES[cfg.mask_resize],
        "map_precision": cfg.map_precision,
    }
    return {
        "track": track,
        "model": chosen.get("model", type(model).__name__),
        "weights": chosen.get("weights", "unnamed"),
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
    """Say it aloud when weights are scored on data that they were trained on."""
    split = dataset.protocol.get("split")
    names = {dataset.name, f"{dataset.name}:{split}"} if split else {dataset.name}
    if names & set(trained_on.split(", ")):
        log.warning("the weights were trained on %s, which is scored here: these are no zero-shot numbers", trained_on)


def summarise(
    settings: dict[str, Any], tables: dict[str, dict[str, Any]], image_score: str, known: dict[str, Any]
) -> dict[str, Any]:
    """The content of results.json; `known` holds what maps alone do not tell, see `known_of_run`."""
    protocol = {**settings["protocol"], **RULES}
    if image_score == "legacy_minmax":
        protocol.update(setting="transductive", image_score=LEGACY_IMAGE_SCORE)
    return {
        **{key: settings[key] for key in ("track", "model", "weights", "data", "shots", "seed")},
        "protocol": protocol,
        "images": sum(table["images"] for table in tables.values()),
        **known,
        "categories": tables,
        "mean": mean_over_categories(tables),
        "score": track_score(tables),
    }


def cost_so_far(started: float) -> dict[str, float | None]:
    """Seconds since `started` (of time.perf_counter) and the largest memory of this process in MB."""
    seconds = round(time.perf_counter() - started, 2)
    return {"seconds": seconds, "peak_memory_mb": peak_memory()["peak_memory_mb"]}


def known_of_run(folder: Path) -> dict[str, Any]:
    """What the maps of a run do not tell: what its thresholds decide, and the cost that earlier results state.

    A cost that is not known is None.
    """
    path = folder / "results.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    cost = {key: earlier.get(key) for key in ("seconds", "peak_memory_mb")}
    return {**cost, "decision": decisions(PredictionStore(folder))}


def write_results(folder: Path, results: dict[str, Any], cfg: DictConfig | None) -> None:
    """Write results.json, results.csv, results.md and the resolved configuration."""
    write_atomically(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_atomically(folder / "results.csv", to_csv(results))
    tables = to_markdown(results) + "\nDecided by threshold:\n\n" + decision_table(results["decision"])
    write_atomically(folder / "results.md", f"{tables}\n{decision_lines(results['decision'])}\n")
    if cfg is not None:
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def report(results: dict[str, Any], folder: Path, predicted: int, latest: Path | None) -> None:
    """Print the table, the track score, what was decided, the cost (if anything was predicted), where the files are."""
    score = results["score"]
    shown = "none" if score is None else f"{100 * score:.1f}"
    earlier = results["images"] - predicted
    print(to_markdown(results))
    print(f"track score (mean over categories of harmonic F1): {shown}")
    print(decision_lines(results["decision"]))
    if predicted:
        seconds = max(results["seconds"], 1e-9)
        print(
            f"{predicted} images in {seconds:.1f} s ({predicted / seconds:.1f} images/s), peak memory "
            f"{results['peak_memory_mb']:.0f} MB"
            + (f"; {earlier} more were there from an earlier run" if earlier > 0 else "")
        )
    else:
        print(f"0 images to predict: all {earlier} were there from an earlier run")
    also = f" (also {latest})" if latest else ""
    print(f"files: {folder}{also}: results.json, results.csv, results.md, predictions/, overlays/")
