"""A run's own thresholds, kept with it, and what they decide on its test images: false alarms, recall, their counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.table_text import markdown_table
from models.base import TRANSDUCTIVE, AnomalyModel
from models.disk import write_atomically
from models.own_references import OWN
from tracks.decide.threshold import DEFECT, UNDECIDED, Threshold, leave_one_out
from tracks.decide.threshold_fit import fit_threshold, owners
from tracks.decide.threshold_folder import folder_threshold
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row

THRESHOLDS_FILE = "thresholds.json"
NOT_KEPT = (
    "the run folder keeps neither scores of references nor a threshold of the weights for it; give the command of the "
    "run again"
)
COUNTS = ("normal", "false_alarms", "anomalous", "found", "undecided")
JUDGED_SCORE = "the model's own image score, computed from its image and the references alone"
JUDGED_TOGETHER = "the model's own image score, computed from all test images of the category"
COLUMNS = ("category", "threshold", "false alarms", "of normal", "%", "found", "of anomalous", "%", "undecided")


class KeptThresholds:
    """The basis of each category's threshold: scores of its references, a known threshold, or why there is none.

    Thresholds are fitted when they are asked for, so another target rate needs no model either. `target_rate` in
    (0, 1) is kept with the run; None takes the one that the run was made with.

    Raises:
        TrackInputError: the file is there but is no JSON of ours.
    """

    def __init__(self, folder: Path, target_rate: float | None = None):
        self._path = folder / THRESHOLDS_FILE
        kept = _read_kept(self._path)
        self.target_rate: float | None = kept["target_rate"] if target_rate is None else target_rate
        self._categories: dict[str, dict[str, Any]] = kept["categories"]
        if self.target_rate != kept["target_rate"]:
            self._write()

    def __contains__(self, category: str) -> bool:
        return category in self._categories

    def keep_fitted(self, category: str, model: AnomalyModel, names: Sequence[str] | None = None) -> None:
        """Keep the leave-one-out image scores of the references that `model` was fitted to, or why there are none.

        `names` are those of the references; the ones that score like defects are listed for the reader of the file.
        """
        try:
            prediction = leave_one_out(model, category)
            basis: dict[str, Any] = {"reference_scores": prediction.image_scores.tolist()}
            basis["probabilities"] = model.scores_are_probabilities
            if (of := owners(prediction)) != list(range(len(of))):
                basis["references"] = of
            if names is not None:
                basis["names"] = list(names)
            if (of_pixels := model.map_threshold(category)) is not None:
                basis["map_threshold"] = of_pixels
            basis["odd_references"] = list(_fitted(basis, 0.05).odd_references)  # refuses scores that are not finite
        except TrackInputError as error:
            basis = {"none_because": str(error)}
        self._keep(category, basis)

    def take(self, folder: Path) -> None:
        """Take over what another folder of the same run keeps of categories that this one does not know."""
        for category, basis in _read_kept(folder / THRESHOLDS_FILE)["categories"].items():
            self._categories.setdefault(category, basis)
        self._write()

    def keep_known(self, category: str, threshold: Threshold) -> None:
        """Keep a threshold that needs no fit."""
        self._keep(category, {"known": asdict(threshold)})

    def keep_photos(self, category: str, rows: Sequence[Row], probabilities: bool) -> None:
        """Keep the image scores of all test images, which give the threshold where they were scored together."""
        basis: dict[str, Any] = {"photo_scores": [row.image_score for row in rows], "probabilities": probabilities}
        if taken := {number: row.name for number, row in enumerate(rows) if row.scalars.get(OWN)}:
            basis["taken"] = taken
        try:
            _of_photos(basis, 0.05)
        except TrackInputError as error:
            basis = {"none_because": str(error)}
        self._keep(category, basis)

    def threshold(self, category: str) -> Threshold | str:
        """The threshold of a category, or the reason why there is none."""
        basis = self._categories.get(category, {"none_because": NOT_KEPT})
        if "known" in basis:
            lists = {key: tuple(value) for key, value in basis["known"].items() if isinstance(value, list)}
            return Threshold(**{**basis["known"], **lists})
        if "reference_scores" in basis:
            assert self.target_rate is not None
            return _fitted(basis, self.target_rate)
        if "photo_scores" in basis:
            assert self.target_rate is not None
            return _of_photos(basis, self.target_rate)
        return str(basis["none_because"])

    def map_threshold(self, category: str) -> float | None:
        """The value above which the model calls a pixel of a category's maps a defect, if it has learnt one."""
        return self._categories.get(category, {}).get("map_threshold")

    def is_fitted(self, category: str) -> bool:
        """Whether the threshold of a category is one that was fitted, on references or on the photos themselves."""
        return not {"reference_scores", "photo_scores"}.isdisjoint(self._categories.get(category, {}))

    def _keep(self, category: str, basis: dict[str, Any]) -> None:
        if self._categories.get(category) != basis:
            self._categories[category] = basis
            self._write()

    def _write(self) -> None:
        content = {"target_rate": self.target_rate, "categories": self._categories}
        write_atomically(self._path, json.dumps(content, indent=2) + "\n")


def decisions(store: PredictionStore, rows: Mapping[str, Sequence[Row]] | None = None) -> dict[str, Any]:
    """The content of `decision` in results.json: each category judged by its own threshold, and all of them pooled.

    `rows` are those that count, by category; all of the store if None. Thresholds were fixed before any test image was
    seen, but for images scored together, which give their own. A category without one says why in `none_because`, has
    no counts and is left out of `pooled`. Shares are in [0, 1], None where they have no image; an undecided image is
    neither a false alarm nor found. `remarks` are what a reader should know first. `target_rate` is None where no
    threshold was fitted to reach one.
    """
    kept = KeptThresholds(store.folder)
    together = (store.settings.get("protocol") or {}).get("setting") == TRANSDUCTIVE
    by_category = {name: store.rows(name) for name in store.categories} if rows is None else rows
    categories = {name: _judged(kept.threshold(name), store, counted) for name, counted in by_category.items()}
    return {
        "target_rate": kept.target_rate if any(map(kept.is_fitted, categories)) else None,
        "image_score": JUDGED_TOGETHER if together else JUDGED_SCORE,
        "categories": categories,
        "pooled": pooled(categories),
    }


def pooled(categories: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all categories that have a threshold, added up, and their shares."""
    known = [category for category in categories.values() if category["threshold"] is not None]
    counts = {key: sum(category.get(key, 0) for category in known) for key in COUNTS}  # older runs count fewer
    return {"categories": len(known), **counts, **_shares(counts)}


def labels_and_scores(store: PredictionStore, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) bool and image scores (N,) of the labelled images; a mask labels an image that has no label."""
    labelled = [(label, row.image_score) for row in rows if (label := _label(store, row)) is not None]
    labels, scores = zip(*labelled, strict=True) if labelled else ((), ())
    return np.array(labels, dtype=bool), np.array(scores, dtype=np.float64)


def decision_lines(decision: Mapping[str, Any]) -> str:
    """What happened, and by which rule, in a line or two for the end of a run."""
    categories, total = decision["categories"], decision["pooled"]
    lines = []
    if total["categories"]:
        undecided = f", undecided {total['undecided']}" if total["undecided"] else ""
        target = "" if decision["target_rate"] is None else f"; target {decision['target_rate']:.1%}"
        lines.append(
            f"decided by threshold: false alarms {percent(total['false_alarm_rate'])} ({total['false_alarms']} of "
            f"{total['normal']} normal images{target}), recall {percent(total['recall'])} ({total['found']} of "
            f"{total['anomalous']} anomalous images){undecided}"
        )
    for source, members in grouped(categories, "source").items():
        values = sorted({f"{categories[name]['threshold']:.4f}" for name in members}, key=float)
        span = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
        lines.append(f"threshold{'s' if len(values) > 1 else ''} {span}: {source}")
    for reason, members in grouped(categories, "none_because").items():
        lines.append(f"no threshold for {', '.join(members)}: {reason}")
    lines += [f"{name}: {remark}" for name, entry in categories.items() for remark in entry.get("remarks", ())]
    return "\n".join(lines)


def decision_table(decision: Mapping[str, Any]) -> str:
    """A pipe table with a row per category and `pooled`; blank where there is no threshold, or no such image."""
    rows = [*decision["categories"].items(), ("pooled", {"threshold": None, **decision["pooled"]})]
    return markdown_table(COLUMNS, [_cells(name, entry) for name, entry in rows])


def grouped(categories: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, list[str]]:
    """Names of categories by what they say under `key`."""
    groups: dict[str, list[str]] = {}
    for name, entry in categories.items():
        if key in entry:
            groups.setdefault(entry[key], []).append(name)
    return groups


def _judged(threshold: Threshold | str, store: PredictionStore, rows: Sequence[Row]) -> dict[str, Any]:
    """A category's entry."""
    if isinstance(threshold, str):
        empty = dict.fromkeys((*COUNTS, "false_alarm_rate", "recall"))
        return {"threshold": None, "none_because": threshold, **empty}
    labels, scores = labels_and_scores(store, rows)
    verdicts = np.array([threshold.verdict(float(score)) for score in scores], dtype=object)
    called = verdicts == DEFECT
    counts = {
        "normal": int(np.sum(~labels)),
        "false_alarms": int(np.sum(called & ~labels)),
        "anomalous": int(np.sum(labels)),
        "found": int(np.sum(called & labels)),
        "undecided": int(np.sum(verdicts == UNDECIDED)),
    }
    return {
        "threshold": threshold.value,
        "source": threshold.source,
        "expected_false_alarm_rate": threshold.false_alarm_rate,
        "highest_reference": threshold.highest_normal,
        "odd_references": list(threshold.odd_references),
        "remarks": [*threshold.remarks, *_contradiction(threshold, rows)],
        **counts,
        **_shares(counts),
    }


def _contradiction(threshold: Threshold, rows: Sequence[Row]) -> list[str]:
    why = threshold.contradiction([row.image_score for row in rows])
    return [why] if why else []


def _shares(counts: Mapping[str, int]) -> dict[str, float | None]:
    return {
        "false_alarm_rate": counts["false_alarms"] / counts["normal"] if counts["normal"] else None,
        "recall": counts["found"] / counts["anomalous"] if counts["anomalous"] else None,
    }


def _label(store: PredictionStore, row: Row) -> int | None:
    """As the scorer takes it."""
    if row.label is not None or not row.has_mask:
        return row.label
    mask = store.read_mask(row)
    return None if mask is None else int(mask.any())


def _cells(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    value = "" if entry["threshold"] is None else f"{entry['threshold']:.4f}"
    counts = {key: "" if entry[key] is None else str(entry[key]) for key in COUNTS}
    alarms, recall = (percent(entry[key], "", "") for key in ("false_alarm_rate", "recall"))
    shown = (counts["false_alarms"], counts["normal"], alarms, counts["found"], counts["anomalous"], recall)
    return name, value, *shown, counts["undecided"]


def percent(share: float | None, unit: str = "%", blank: str = "none") -> str:
    """A share in percent with one decimal; `blank` where there is none."""
    return blank if share is None else f"{100 * share:.1f}{unit}"


def _fitted(basis: dict[str, Any], target_rate: float) -> Threshold:
    return fit_threshold(
        basis["reference_scores"], target_rate, bool(basis.get("probabilities")),
        references=basis.get("references"), names=basis.get("names"),
    )  # fmt: skip


def _of_photos(basis: dict[str, Any], target_rate: float) -> Threshold:
    taken = {int(number): name for number, name in basis.get("taken", {}).items()}  # JSON made texts of the numbers
    return folder_threshold(basis["photo_scores"], target_rate, basis["probabilities"], taken)


def _read_kept(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"target_rate": None, "categories": {}}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {"target_rate": kept["target_rate"], "categories": dict(kept["categories"])}
    except (ValueError, KeyError, TypeError) as error:
        raise TrackInputError(
            f"expected the thresholds of a run as JSON in {path}, got {error!r}; delete the file and give the command "
            "of the run again"
        ) from error
