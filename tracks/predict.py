"""Entry point of `make predict IMAGES=folder [REFERENCES=folder]`: a verdict on each of your own photos."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from eval.histogram import ValueCounts
from models.base import AnomalyModel
from tracks.cli import command, run_main, stop
from tracks.datasets.notices import counted_notices
from tracks.datasets.photos import Photos
from tracks.device import pick_device
from tracks.errors import TrackInputError
from tracks.fingerprint import settings_digest
from tracks.judge import DEFECT, GOOD, UNREADABLE, Judge, Verdict
from tracks.overlay import count_pixels
from tracks.run_folder import link_latest
from tracks.runner import fit_references
from tracks.store import PredictionStore, write_atomically
from tracks.threshold import Threshold, fit_threshold, leave_one_out, weights_threshold

DEFAULT_CATEGORY = "object"
CSV_FILE = "predictions.csv"
COLUMNS = ("file", "score", "verdict", "threshold", "map", "overlay", "note")


@counted_notices()
def predict(cfg: DictConfig) -> list[Verdict]:
    """Judge the photos of a folder; writes predictions.csv, threshold.json, maps/ and overlays/, returns the verdicts.

    Raises:
        TrackInputError: anything in the settings or the folders that the user can mend; no photo that decodes.
    """
    settings = describe(cfg)
    category, folder = settings["category"], output_folder(cfg, settings)
    photos = Photos(cfg.images, category, cfg.recursive, cfg.references or None, [folder], cfg.bit_depth)
    PredictionStore.create(folder, settings)  # refuses the folder of another run before any work
    samples, device = photos.test(category), pick_device(cfg.device)
    model: AnomalyModel = instantiate(cfg.model).to(device).eval()
    if cfg.references:
        fit_references(model, photos.train(category), category, device)
    threshold, pixels = choose_threshold(cfg, model, category)
    clear(folder)
    write_atomically(folder / "threshold.json", json.dumps(asdict(threshold), indent=2).encode())
    print(f"threshold {threshold.value:.4f}: {threshold.source}")
    judge = Judge(model, category, threshold, folder, device, pixels)
    verdicts = list(written(judge.judge(samples, cfg.batch_size, cfg.workers), folder / CSV_FILE, threshold))
    judge.write_overlays(samples, verdicts)
    link_latest(Path(cfg.outputs) / "predict", folder)
    report(verdicts, folder)
    return verdicts


def describe(cfg: DictConfig) -> dict[str, Any]:
    """The settings that make two calls the same run, as they stand in run.json."""
    if not cfg.images:
        raise TrackInputError(
            "expected a folder of photos, got none; name it, for example `make predict IMAGES=my_photos`, with "
            "REFERENCES=folder if you have photos of good parts"
        )
    if min(cfg.batch_size, cfg.workers) < 1:
        raise TrackInputError(f"expected batch_size and workers >= 1, got {cfg.batch_size} and {cfg.workers}")
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    folders = {key: str(Path(cfg[key]).expanduser().resolve()) if cfg[key] else "" for key in ("images", "references")}
    words = {"category": str(cfg.category or DEFAULT_CATEGORY), "defects": list(cfg.prompts.defects)}
    return {"track": "predict", **folders, **words, **{key: chosen.get(key, "") for key in ("model", "weights")}}


def output_folder(cfg: DictConfig, settings: dict[str, Any]) -> Path:
    """OUT, or a folder named after the photos and the settings."""
    name = f"{Path(settings['images']).name}-{settings_digest(settings)}"
    return Path(cfg.out or Path(cfg.outputs) / "predict" / name).expanduser()


def clear(folder: Path) -> None:
    """Delete what an earlier call with the same settings wrote."""
    for name in ("maps", "overlays"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / CSV_FILE).unlink(missing_ok=True)


def choose_threshold(cfg: DictConfig, model: AnomalyModel, category: str) -> tuple[Threshold, ValueCounts]:
    """The user's threshold, that of the references, or that of the weights; and the references' map values."""
    own = None if cfg.threshold is None else Threshold(float(cfg.threshold), "as you set it")
    pixels = ValueCounts()
    if not cfg.references:
        return own or weights_threshold(model), pixels
    try:
        prediction = leave_one_out(model, category)
    except TrackInputError as error:
        if own is None:
            raise TrackInputError(f"{error}; set one yourself, for example with ARGS=threshold=0.5") from error
        return own, pixels
    for anomaly_map in prediction.anomaly_maps:
        count_pixels(pixels, anomaly_map.half().cpu().numpy(), normal=True)
    return own or fit_threshold(
        prediction.image_scores.tolist(), cfg.false_alarm_rate, model.scores_are_probabilities
    ), pixels


def written(verdicts: Iterable[Verdict], path: Path, threshold: Threshold) -> Iterator[Verdict]:
    """Pass verdicts on, each printed and already in the CSV file: what is judged stays if the run is stopped."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for verdict in verdicts:
            table.writerow(csv_cells(verdict, threshold))
            file.flush()
            tqdm.write(str(verdict))
            yield verdict


def csv_cells(verdict: Verdict, threshold: Threshold) -> list[str]:
    """The values of `COLUMNS`; nine digits give a float32 back exactly, so the verdict follows from them."""
    score = "" if verdict.score is None else f"{verdict.score:.9g}"
    files = [verdict.map_file, verdict.overlay_file]
    return [verdict.name, score, verdict.verdict, f"{threshold.value:.9g}", *files, verdict.note]


def report(verdicts: list[Verdict], folder: Path) -> None:
    """Print the counts, the photos that could not be read and where the files are.

    Raises:
        TrackInputError: not one photo could be read.
    """
    count = {kind: sum(verdict.verdict == kind for verdict in verdicts) for kind in (DEFECT, GOOD, UNREADABLE)}
    unreadable = [verdict for verdict in verdicts if verdict.verdict == UNREADABLE]
    if len(unreadable) == len(verdicts):
        raise TrackInputError(f"not one of {len(verdicts)} photos could be read; the first: {unreadable[0].note}")
    print(f"{len(verdicts)} photos: " + ", ".join(f"{number} {kind}" for kind, number in count.items()))
    for verdict in unreadable:
        print(f"unreadable, {verdict.note}".encode(errors="replace").decode())
    print(f"files: {folder}: {CSV_FILE}, threshold.json, maps/, overlays/")


@command("predict")
def main(cfg: DictConfig) -> None:
    """Judge and print."""
    try:
        predict(cfg)
    except KeyboardInterrupt:
        stop("interrupted; the photos judged so far are in predictions.csv, the same command starts over")


if __name__ == "__main__":
    run_main(main)
