"""What a run's own thresholds decide on its test images: false alarms and recall, with the counts behind both."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.table_text import markdown_table
from tracks.decide.kept_thresholds import KeptThresholds
from tracks.decide.threshold import DEFECT, UNDECIDED, Threshold
from tracks.run.store import PredictionStore, Row

COUNTS = ("normal", "false_alarms", "anomalous", "found", "undecided")
JUDGED_SCORE = "the model's own image score, computed from its image and the references alone"
COLUMNS = ("category", "threshold", "false alarms", "of normal", "%", "found", "of anomalous", "%", "undecided")


def decisions(store: PredictionStore, rows: Mapping[str, Sequence[Row]] | None = None) -> dict[str, Any]:
    """The content of `decision` in results.json: each category judged by its own threshold, and all of them pooled.

    `rows` are those that count, by category; all of the store if None. Thresholds were fixed before any test image
    was seen. A category without one says why in `none_because`, has no counts and is left out of `pooled`. Shares
    are in [0, 1], None where they have no image; an undecided image is neither a false alarm nor found. `remarks` are
    what a reader should know first. `target_rate` is None where no threshold was fitted to reach one.
    """
    kept = KeptThresholds(store.folder)
    by_category = {name: store.rows(name) for name in store.categories} if rows is None else rows
    categories = {name: _judged(kept.threshold(name), store, counted) for name, counted in by_category.items()}
    return {
        "target_rate": kept.target_rate if any(map(kept.is_fitted, categories)) else None,
        "image_score": JUDGED_SCORE,
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
