"""Finished runs: read by their folder, found by their settings, and what they scored, legacy metrics too."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval.errors import ScoringInputError
from eval.legacy import legacy_pro, legacy_region_f1
from eval.ranking.curves import auroc, average_precision, f1_max
from tracks.command.names import missing_path
from tracks.errors import TrackInputError
from tracks.run.cost import read_cost
from tracks.run.resize import MASK_RULES
from tracks.run.scoring import transductive_image_scores
from tracks.run.store import SETTINGS_FILE, PredictionStore, Row

Scores = Mapping[str, Mapping[str, float | None]]
"""Metrics as fractions by <data set>/<category>."""
LEGACY = "legacy_"
"""Begins the names of metrics that are computed from a store for published tables alone."""


@dataclass
class FinishedRun:
    """A run that is finished: its folder and its results.json; `notes` are what a reader of its figures should know."""

    folder: Path
    results: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def store(self) -> PredictionStore | None:
        """Its maps and settings; None where results.json stands alone."""
        return PredictionStore(self.folder) if (self.folder / SETTINGS_FILE).is_file() else None

    @cached_property
    def cost(self) -> Mapping[str, Any]:
        """As `tracks.run.cost.read_cost` gives it."""
        return read_cost(self.folder)

    @property
    def references(self) -> Mapping[str, Sequence[str]] | None:
        """Names of the references by category; None if unknown."""
        return self.store.settings.get("references") if self.store else None

    def scores(self, metrics: Iterable[str]) -> dict[str, dict[str, float | None]]:
        """The wanted metrics of each category, as fractions; None, and a note, for what it does not have."""
        wanted = list(dict.fromkeys(metrics))
        legacy = [metric for metric in wanted if metric.startswith(LEGACY)]
        if legacy and self.store is None:
            self._note(f"no {', '.join(legacy)}: they need the maps, and only results.json is here")
        return {
            f"{self.results['data']}/{category}": {
                metric: self._legacy(metric, category) if metric in legacy else table.get(metric) for metric in wanted
            }
            for category, table in self.results["categories"].items()
        }

    def _legacy(self, metric: str, category: str) -> float | None:
        if self.store is None:
            return None
        try:
            return _legacy_score(metric, self.store.rows(category), self.store)
        except (ScoringInputError, TrackInputError) as error:
            self._note(f"no {metric} of {category}: {error}")
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def read_run(path: Path) -> FinishedRun:
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
    return FinishedRun(file.parent, results)


def finished_in(folder: Path) -> FinishedRun | None:
    """The run of a folder, None unless it is finished."""
    try:
        return read_run(folder)
    except TrackInputError:
        return None


def find_run(track_folder: Path, wanted: Mapping[str, Any]) -> FinishedRun | None:
    """The latest finished run below <outputs>/<track> whose `signature` is the wanted one, wherever its data lay."""
    found: list[tuple[float, Path]] = []
    for path in track_folder.glob(f"*/{SETTINGS_FILE}"):
        results = path.parent / "results.json"
        if path.parent.is_symlink() or not results.is_file():
            continue
        try:
            if signature(json.loads(path.read_text(encoding="utf-8"))) == wanted:
                found.append((results.stat().st_mtime, path.parent))
        except (ValueError, KeyError, TypeError):
            continue
    return read_run(max(found)[1]) if found else None


def signature(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run.json makes two runs the same, but for where the data lie, which code made it and on what machine.

    A run of before a setting has the value that there was then.
    """
    config, protocol = settings["config"], settings["protocol"]
    data = {key: value for key, value in config["data"].items() if key != "root"}
    return {
        "model": config["model"],
        "data": {**data, "categories": data.get("categories") or None},
        "shots": settings["shots"],
        "seed": settings["seed"],
        "resolution": protocol["resolution"],
        "map_precision": protocol.get("map_precision", "float16"),
        "mask_resize": protocol.get("mask_resize", MASK_RULES["bilinear"]),
        "image_score": settings.get("image_score", "model"),
        "categories": list(settings.get("chosen_categories", ())),
    }


def _legacy_score(metric: str, rows: Sequence[Row], store: PredictionStore) -> float:
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
