"""The runs behind a published table: which are needed, which are finished, what they scored, legacy ones too."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.errors import ScoringInputError
from eval.legacy import legacy_pro, legacy_region_f1
from eval.published.reader import PublishedTable
from eval.ranking.curves import auroc, average_precision, f1_max
from tracks.command.names import missing_path
from tracks.comparison.answers import answers_to, experiment
from tracks.datasets.registry import registry
from tracks.errors import TrackInputError
from tracks.run.resize import MASK_RULES
from tracks.run.scoring import transductive_image_scores
from tracks.run.store import PredictionStore, Row

log = logging.getLogger(__name__)
Scores = Mapping[str, Mapping[str, float | None]]
"""Metrics as fractions by <data set>/<category>."""


@dataclass(frozen=True)
class Need:
    """One run that a table needs: an experiment with shots, a seed and further settings."""

    experiment: str
    shots: int
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model that it runs."""
        return experiment(self.experiment).model

    @property
    def data(self) -> str:
        """The data set that it runs on."""
        return experiment(self.experiment).data

    @property
    def track(self) -> str:
        """The track that it is a run of."""
        return "few_shot" if self.shots else "zero_shot"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that make a track this run."""
        return (f"experiment={self.experiment}", f"shots={self.shots}", f"seed={self.seed}", *self.settings)

    def __str__(self) -> str:
        settings = " ".join(("", *self.settings))
        return f"{self.experiment}{settings}, {self.shots} shots, seed {self.seed}"


@dataclass
class Finished:
    """A run that is finished: its results.json, and its store where that is there too."""

    folder: Path
    results: Mapping[str, Any]
    store: PredictionStore | None
    notes: list[str] = field(default_factory=list)


def needs_of(
    table: PublishedTable, seeds: Sequence[int] = (), only: Sequence[str] = (), models: Sequence[str] = ()
) -> list[Need]:
    """Every run that a table needs, each once; `seeds` instead of its own, `only` these data sets and `models`."""
    needs = [
        Need(name, answer.shots, seed, answer.settings)
        for answer in answers_to(table.name).answers
        for seed in (seeds if seeds and answer.shots else answer.seeds)
        for name in answer.experiments
    ]
    return [n for n in dict.fromkeys(needs) if (not only or n.data in only) and (not models or n.model in models)]


def read_run(path: Path) -> Finished:
    """A finished run by its folder or by its results.json.

    Raises:
        TrackInputError: there is no results.json, or it holds no results of a track.
    """
    path = path.expanduser()
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise missing_path("the results.json of a finished run", file)
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        lacking = {"data", "shots", "seed", "categories"} - set(results)
    except (ValueError, TypeError) as error:
        raise TrackInputError(f"expected the results of a run in {file}, got {error}; run the track again") from error
    if lacking:
        raise TrackInputError(
            f"expected the results of one run in {file}, got a file without {', '.join(sorted(lacking))}; name the "
            "results.json that a track wrote"
        )
    has_store = (file.parent / "run.json").is_file()
    return Finished(file.parent, results, PredictionStore(file.parent) if has_store else None)


def assign(runs: Iterable[Finished], needs: Sequence[Need], name: str) -> dict[Need, Finished]:
    """Which need of the table `name` each given run answers; a run stands for the set-up without further settings.

    A run of a model that the table does not know stands for the first, which is the paper's own.

    Raises:
        TrackInputError: a run that answers none.
    """
    taken: dict[Need, Finished] = {}
    for run in runs:
        data, shots, seed = (run.results[key] for key in ("data", "shots", "seed"))
        fitting = [n for n in needs if (n.data, n.shots, n.settings) == (data, shots, ()) and n not in taken]
        if not fitting:
            wanted = sorted({f"{need.data} with {need.shots} shots" for need in needs})
            raise TrackInputError(
                f"expected a run that {name} can be compared with ({', '.join(wanted) or 'none'}), each once, got "
                f"{data} with {shots} shots in {run.folder}; choose another table or another run"
            )
        model = run.results.get("model")
        taken[min(fitting, key=lambda need: (need.model != model, need.seed != seed))] = run
    return taken


def find_run(track_folder: Path, wanted: Mapping[str, Any]) -> Finished | None:
    """The latest finished run below <outputs>/<track> that was made with the wanted settings, wherever its data lay.

    `wanted` holds keys of run.json: model and data of its config (data without root), shots, seed, resolution.
    """
    found: list[tuple[float, Path]] = []
    for path in track_folder.glob("*/run.json"):
        if path.parent.is_symlink() or not (path.parent / "results.json").is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            same = signature_of(settings)
        except (ValueError, KeyError, TypeError):
            continue
        if same == wanted:
            found.append(((path.parent / "results.json").stat().st_mtime, path.parent))
    return read_run(max(found)[1]) if found else None


def signature_of(settings: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """`signature` of the settings in a run.json; one of before a setting has the value that there was then."""
    protocol = settings["protocol"]
    how = {key: protocol[key] for key in ("map_precision", "mask_resize") if key in protocol}
    how |= {key: settings[key] for key in ("image_score", "chosen_categories") if key in settings}
    shots, seed = changed.get("shots", settings["shots"]), changed.get("seed", settings["seed"])
    return signature(settings["config"], shots, seed, protocol["resolution"], **how)


def signature(
    config: Mapping[str, Any], shots: int, seed: int, resolution: str, *, map_precision: str = "float16",
    mask_resize: str = MASK_RULES["bilinear"], image_score: str = "model", chosen_categories: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """What makes two runs the same run, but for where the data lie, which code made it and on what machine."""
    data = {key: value for key, value in config["data"].items() if key != "root"}
    data["categories"] = data.get("categories") or None
    return {
        "model": config["model"], "data": data, "shots": shots, "seed": seed, "resolution": resolution,
        "map_precision": map_precision, "mask_resize": mask_resize, "image_score": image_score,
        "categories": list(chosen_categories),
    }  # fmt: skip


def missing_data(name: str, root: Path | None) -> str | None:
    """What is missing of a data set, in words; None where its folder is there."""
    if root is not None and root.is_dir():
        return None
    entry = registry()[name]
    where = f"no folder {root}" if root else "no folder was named"
    return f"the data set {name} ({entry.title}; {where}; make data DATA={name} ROOT=folder brings it)"


def duration(needs: Iterable[Need]) -> str:
    """How many images the runs score, and roughly how long that takes: estimated, not measured."""
    known = [experiment(need.experiment) for need in needs]
    images = sum(one.images for one in known)
    on_gpu = sum(one.images * one.gpu_seconds for one in known)
    on_cpu = sum(one.images * one.cpu_seconds for one in known)
    runs = f"{len(known)} run{'s' if len(known) != 1 else ''} of {images:,} images in all"
    return f"{runs}, roughly {_time(on_gpu)} on a GPU or {_time(on_cpu)} on a few CPU cores (an estimate)"


def scores_of(run: Finished, metrics: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """The wanted metrics of each category of a run, as fractions; None for what it has not."""
    wanted = list(dict.fromkeys(metrics))
    scores = {}
    for category, table in run.results["categories"].items():
        found = {metric: table.get(metric) for metric in wanted if not metric.startswith("legacy_")}
        legacy = [metric for metric in wanted if metric.startswith("legacy_")]
        scores[f"{run.results['data']}/{category}"] = found | _legacy_scores(run, category, legacy)
    return scores


def _legacy_scores(run: Finished, category: str, metrics: Sequence[str]) -> dict[str, float | None]:
    """The legacy metrics of one category, from the store alone; None, and a note, where one has no value."""
    values: dict[str, float | None] = dict.fromkeys(metrics)
    if run.store is None:
        if metrics:
            _note(run, f"no {', '.join(metrics)}: they need the maps, and only results.json is here")
        return values
    rows = run.store.rows(category)
    for metric in metrics:
        try:
            values[metric] = _legacy(metric, rows, run.store)
        except (ScoringInputError, TrackInputError) as error:
            _note(run, f"no {metric} of {category}: {error}")
    return values


def _legacy(metric: str, rows: Sequence[Row], store: PredictionStore) -> float:
    if metric.startswith("legacy_minmax_"):
        by_name = transductive_image_scores(rows)
        known = [row for row in rows if row.label is not None]
        scores = np.array([by_name[row.name] for row in known])
        labels = np.array([bool(row.label) for row in known])
        if metric == "legacy_minmax_auroc_cls":
            return auroc(scores, labels)
        return f1_max(scores, labels).value if metric == "legacy_minmax_f1_cls" else average_precision(scores, labels)
    pairs = [(store.read_map(row), mask) for row in rows if (mask := store.read_mask(row)) is not None]
    maps, masks = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return legacy_pro(maps, masks) if metric == "legacy_pro" else legacy_region_f1(maps, masks).value


def _note(run: Finished, text: str) -> None:
    if text not in run.notes:
        run.notes.append(text)


def _time(seconds: float) -> str:
    """Rounded to what an estimate is worth."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"
