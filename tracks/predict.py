"""Entry point of `make predict IMAGES=folder [REFERENCES=folder]`: a verdict on each of your own photos."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from models.base import TRANSDUCTIVE, AnomalyModel
from models.disk import write_atomically
from tracks.command.cli import command, run_main, stop
from tracks.datasets.files import FileSample
from tracks.datasets.notices import counted_notices
from tracks.datasets.photos import Photos, common_folder, given_paths
from tracks.datasets.region import RULE, Region, cropped
from tracks.decide.asked import Asked, basis
from tracks.decide.gather import gather
from tracks.decide.judge import Judge
from tracks.decide.kept import FOLDER_NAME, Facts, Kept, facts_in
from tracks.decide.page import PAGE_FILE, write_page
from tracks.decide.product import AskedOfProduct, read_product
from tracks.decide.settings import adopt, check_settings, describe, output_folder, recorded, region_of
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.decide.threshold_folder import FOLDER, check_enough_photos, folder_threshold
from tracks.decide.verdict import CSV_FILE, JSON_FILE, UNREADABLE, Verdict, write_csv, write_json_lines
from tracks.errors import TrackInputError
from tracks.run.build import build_model, chosen_tracker, engine, pick_device
from tracks.run.log_file import kept_log, log_into, note
from tracks.run.run_folder import alone_in, link_latest
from tracks.run.runner import AS_GIVEN, NATIVE, RunnerOptions
from tracks.run.shard import read_shard, shard_folders
from tracks.run.trackers import Record, Tracker, flat

KINDS = (DEFECT, GOOD, UNDECIDED, UNREADABLE)
MOST_TOLD = 20
"""Overlays that a tracker is given."""
WORDS = (
    "category and prompt hardly matter with the small weights, which were taught to read any name alike: on two "
    "photographs of bottles other words moved a score by less than 0.01"
)


@kept_log()
@counted_notices()
def predict(cfg: DictConfig) -> list[Verdict]:
    """Judge the photos of a folder; writes predictions.csv, threshold.json, maps/ and overlays/, returns the verdicts.

    Waits where another process works in the output folder.

    Raises:
        TrackInputError: anything in the settings or the folders that the user can mend; no photo that decodes; at the
            very end, files that could not be written.
    """
    check_settings(cfg)
    cfg = recorded(cfg)
    product = read_product(cfg.product) if cfg.get("product") else None
    cfg = product.settings(cfg) if product else cfg
    region = product.region if product else region_of(cfg)
    settings = describe(cfg)
    own = cfg.get("own_references")
    category, folder, shard = settings["category"], output_folder(cfg, settings), read_shard(cfg.get("shard"))
    photos = Photos(
        cfg.images, category, cfg.recursive, cfg.references or None, [folder], cfg.bit_depth, cfg.every, cfg.frames
    )
    samples = cropped(photos.test(category), region)
    references = cropped(photos.train(category), region) if cfg.references else []
    if cfg.threshold == FOLDER:
        check_enough_photos(len(samples))
    if shard is not None:
        samples = shard.of({category: samples}, cfg.batch_size)[category]
        folder, settings = shard.folder(folder), settings | {"shard": str(shard)}
    size, device = NATIVE if cfg.maps == "full" else AS_GIVEN, pick_device(cfg.device)
    options = RunnerOptions(size, cfg.batch_size, cfg.workers, device, strict=False, **engine(cfg))
    asked = Asked(lambda: build_model(cfg, options.device), category, references, options, region)
    if product:
        asked = AskedOfProduct(product, asked.build, options)
    if not (folder / FOLDER_NAME).is_dir():
        asked.build()  # what is wrong with the model is said before anything is written
    if cfg.threshold not in (None, FOLDER):  # and with a threshold before anything is deleted
        own_threshold(float(cfg.threshold), facts_in(folder / FOLDER_NAME) or asked.build())
    adopt(folder, settings)
    tracker, shards = chosen_tracker(cfg), [] if cfg.fresh else shard_folders(folder, settings)
    with alone_in(folder, settings):
        log_into(folder)
        rests_on = basis(settings["config"], references, options.device)
        if product:
            rests_on["product"] = product.digest
        kept = Kept(folder, rests_on, cfg.maps, cfg.fresh)
        if not kept.scores:
            clear(folder)  # a page whose pictures are gone
        gather(kept, shards, samples)
        facts, judge = asked.facts(kept), Judge(kept, folder, cfg.quiet, region, cfg.workers)
        if shard is not None and facts.setting == TRANSDUCTIVE:
            raise TrackInputError("expected no shard for a model that scores all photos together; leave shard out")
        judged = product.judged if product and cfg.threshold is None else None
        threshold = judged or choose_threshold(cfg, facts, asked.names)
        if threshold is None and shard is None:
            check_enough_photos(len(samples), f"own_references={own}" if own else f"threshold={FOLDER}")
        clear(folder)
        say_how(cfg, settings, region, facts)
        announce(threshold, folder, taken=bool(own) and cfg.threshold != FOLDER)
        verdicts = list(judge.judge(samples, threshold, asked.scored(samples, kept)))
        if shard is None:
            threshold, verdicts = settle(cfg, facts, threshold, verdicts, folder)
            judge.write_overlays(samples, verdicts, facts)
            title = f"{cfg.category}: " * bool(cfg.category) + common_folder(given_paths(settings["images"])).name
            write_tables(folder, title, samples, verdicts, threshold)
            link_latest(Path(cfg.outputs) / "predict", folder)
            tell(tracker, cfg, folder, verdicts, threshold)
            report(verdicts, threshold, folder)
    if shard is not None:
        print(f"shard {shard}: {len(verdicts)} photos scored; once all shards are, the same command without it decides")
    refuse_lost_files(judge.failures, folder)
    return verdicts


def say_how(cfg: DictConfig, settings: Mapping[str, Any], region: Region | None, facts: Facts) -> None:
    """Print what a reader of the scores should know first."""
    if region is not None:
        print(f"region of interest: photos and references are {RULE}")
    if facts.setting == TRANSDUCTIVE:
        own = "those that look least anomalous are the references of the others"
        how = own if cfg.get("own_references") else "the photos are scored by each other"
        print(f"{TRANSDUCTIVE}: {how}, so a score moves with the folder")
    if settings["weights"] == "tiny" and (cfg.category or cfg.prompts.defects):
        print(WORDS)


def write_tables(
    folder: Path, title: str, samples: Sequence[FileSample], verdicts: Sequence[Verdict], threshold: Threshold
) -> None:
    """Write predictions.csv, predictions.jsonl and the page."""
    write_csv(folder / CSV_FILE, verdicts, threshold)
    write_json_lines(folder / JSON_FILE, verdicts, threshold)
    write_page(folder, title, verdicts, threshold, (sample.path for sample in samples))


def tell(tracker: Tracker, cfg: DictConfig, folder: Path, verdicts: Sequence[Verdict], threshold: Threshold) -> None:
    """Counts of verdicts, the threshold, lists and the highest-scoring overlays for a tracker, if one was chosen."""
    counts = {kind: sum(verdict.verdict == kind for verdict in verdicts) for kind in KINDS}
    note(f"{len(verdicts)} photos by the threshold {threshold.value:.6g}: {counts}")
    drawn = sorted((v for v in verdicts if v.overlay_file), key=lambda v: v.score or 0, reverse=True)[:MOST_TOLD]
    metrics = {"threshold": threshold.value, **{f"photos/{kind}": float(count) for kind, count in counts.items()}}
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    tracker.write(Record(folder, flat(settings), metrics, shown=[folder / verdict.overlay_file for verdict in drawn]))


def clear(folder: Path) -> None:
    """Delete what an earlier decision wrote."""
    for name in (CSV_FILE, JSON_FILE, "threshold.json", PAGE_FILE):
        (folder / name).unlink(missing_ok=True)


def choose_threshold(cfg: DictConfig, facts: Facts, references: Sequence[str]) -> Threshold | None:
    """The user's threshold, that of the references, or that of the weights; None where the photos are to give it.

    Without references those scored together give it: what such a score means, the folder alone says.
    """
    if cfg.threshold == FOLDER or (cfg.threshold is None and not references and facts.setting == TRANSDUCTIVE):
        return None
    if cfg.threshold is not None:
        return own_threshold(float(cfg.threshold), facts)
    if not references:
        return facts.weights_threshold
    if facts.refused:
        raise TrackInputError(f"{facts.refused}; set one yourself, for example with ARGS=threshold=0.5")
    return facts.reference_threshold(references, cfg.false_alarm_rate)


def own_threshold(value: float, model: Facts | AnomalyModel) -> Threshold:
    """A threshold that the user set, which scores must be able to reach."""
    if model.scores_are_probabilities and not 0 <= value <= 1:
        raise TrackInputError(f"expected a threshold from 0 to 1, as the model's scores are, got {value:g}")
    return Threshold(value, "as you set it")


def announce(threshold: Threshold | None, folder: Path, taken: bool = False) -> None:
    """Say by what rule photos are judged, and keep it in threshold.json; `taken` are references out of the photos."""
    if threshold is None:
        which = "some of them are references" if taken else "most of them are taken to be good"
        print(f"threshold: from the photos themselves, once all are scored; {which}")
        return
    write_atomically(folder / "threshold.json", json.dumps(asdict(threshold), indent=2))
    print(f"threshold {threshold.value:.4f}: {threshold.source}", *threshold.remarks, sep="\n", flush=True)


def settle(
    cfg: DictConfig, facts: Facts, threshold: Threshold | None, verdicts: Sequence[Verdict], folder: Path
) -> tuple[Threshold, list[Verdict]]:
    """The threshold and the verdicts now that all scores are known, kept before anything else can go wrong."""
    known = [verdict for verdict in verdicts if verdict.score is not None]
    scores = [verdict.score for verdict in known if verdict.score is not None]
    if threshold is None:
        taken = {} if cfg.threshold == FOLDER else {n: each.name for n, each in enumerate(known) if each.own_reference}
        settled = folder_threshold(scores, cfg.false_alarm_rate, facts.scores_are_probabilities, taken)
    else:
        settled = threshold.after(scores)
    verdicts = [verdict.by(settled) for verdict in verdicts]
    if settled != threshold:
        announce(settled, folder)
        write_csv(folder / CSV_FILE, verdicts, settled)
    return settled, verdicts


def report(verdicts: Sequence[Verdict], threshold: Threshold, folder: Path) -> None:
    """Print the counts, what to bear in mind, the photos that could not be read and where the files are.

    Raises:
        TrackInputError: not one photo could be read.
    """
    count = {kind: sum(verdict.verdict == kind for verdict in verdicts) for kind in KINDS}
    unreadable = [verdict for verdict in verdicts if verdict.verdict == UNREADABLE]
    if len(unreadable) == len(verdicts):
        raise TrackInputError(f"not one of {len(verdicts)} photos could be read; the first: {unreadable[0].note}")
    print(f"{len(verdicts)} photos: " + ", ".join(f"{number} {kind}" for kind, number in count.items()))
    print(f"by the threshold {threshold.value:.4f}: {threshold.source}", *threshold.remarks, sep="\n")
    for verdict in unreadable:
        print(f"unreadable, {verdict.note}".encode(errors="replace").decode())
    drawn = ", maps/, overlays/" if any(verdict.map_file for verdict in verdicts) else ""
    print(f"open {folder / PAGE_FILE} in a browser; beside it: {CSV_FILE}, {JSON_FILE}, threshold.json{drawn}")


def refuse_lost_files(failures: Sequence[OSError], folder: Path) -> None:
    """Say at the end what could not be written.

    Raises:
        TrackInputError: there is something.
    """
    if failures:
        first = failures[0]
        raise TrackInputError(
            f"expected to write a map and an overlay of each photo below {folder}, got {len(failures)} times an error, "
            f"first: {first.strerror} ({first.filename or CSV_FILE}); all verdicts are in {CSV_FILE}; free some space, "
            "or choose another folder with OUT=..., and run the same command again"
        )


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """3 if a photo could not be read, else 1 if one is a defect, else 0."""
    kinds = {verdict.verdict for verdict in verdicts}
    return 3 if UNREADABLE in kinds else int(DEFECT in kinds)


@command("predict")
def main(cfg: DictConfig) -> None:
    """Judge and print; with `exit_code` the way it ends tells a script what was found."""
    try:
        verdicts = predict(cfg)
    except KeyboardInterrupt:
        stop(f"interrupted; the photos judged so far, if any, are in {CSV_FILE}; the same command goes on there")
    if cfg.exit_code:
        sys.exit(exit_code(verdicts))


if __name__ == "__main__":
    run_main(main)
