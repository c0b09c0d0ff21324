"""What the tables of a report say where it takes more than a look into a dictionary."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from eval.tables import COLUMNS, count_averaged, mean_over_categories
from tracks.decide.decision import grouped
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.report_page.html import percent, plural, significant
from tracks.report_page.scored_run import ScoredCategory, ScoredRun

LEVELS = {"cls": "images (cls)", "seg": "pixels (seg)", "region": "regions", "": "both"}
"""What a metric ranks, by the word in its id; "" for several."""
LEVEL_OF_KIND = {"image": "cls", "pixel": "seg", "region": "region"}
"""The levels of a recall by kind of defect, and of the precision beside it."""


def results_columns() -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
    """The headings of groups with their widths, and those of the columns below, (metric, heading)."""
    levels = [(_level(metric), metric, shown) for metric, shown in COLUMNS.items()]
    groups = [(LEVELS[level], len(list(of))) for level, of in groupby(levels, key=lambda entry: entry[0])]
    return groups, [(metric, shown.removesuffix(f" {level}")) for level, metric, shown in levels]


def _level(metric: str) -> str:
    return next((level for level in LEVELS if level and level in metric.split("_")), "")


def blanks(run: ScoredRun) -> list[tuple[Mapping[str, str], Mapping[str, float | None]]]:
    """A pair for each category and for their mean: why each metric that is blank is so, and all metrics."""
    rows: list[tuple[Mapping[str, str], Mapping[str, float | None]]] = [
        ({metric: c.scores.reasons.get(metric, "not computed") for metric in COLUMNS}, c.scores.metrics)
        for c in run.categories
    ]
    return [*rows, (dict.fromkeys(COLUMNS, "no category has it"), mean_over_categories(run.tables))]


def numbered_reasons(run: ScoredRun) -> dict[str, int]:
    """Why cells of the results are blank, each reason with its number, in the order in which they come up."""
    said = [why[metric] for why, metrics in blanks(run) for metric in COLUMNS if metrics.get(metric) is None]
    return {reason: number for number, reason in enumerate(dict.fromkeys(said), start=1)}


def fewer(run: ScoredRun) -> str:
    """Which means are over fewer than all categories; empty if none."""
    counts, total = count_averaged(run.tables), len(run.categories)
    over: dict[int, list[str]] = {}
    for metric, shown in COLUMNS.items():
        over.setdefault(counts[metric], []).append(shown)
    return " ".join(
        f"{', '.join(shown)}: mean over {n} of {total} categories." for n, shown in over.items() if n < total
    )


def decision_notes(decision: Mapping[str, Any]) -> list[str]:
    """The target, the rule behind each threshold, and why some category has none; takes `decisions`."""
    categories, target = decision["categories"], decision["target_rate"]
    said = [] if target is None else [f"Target: at most {target:.1%} false alarms."]
    for source, members in grouped(categories, "source").items():
        said.append(f"Threshold of {_named(members, categories)}: {source}.")
    for reason, members in grouped(categories, "none_because").items():
        said.append(f"No threshold for {_named(members, categories)}: {reason}.")
    return said + [f"{name}: {remark}." for name, entry in categories.items() for remark in entry.get("remarks", ())]


def _named(members: list[str], categories: Mapping[str, Any]) -> str:
    return "all categories" if len(members) == len(categories) > 1 else ", ".join(members)


def own_recall(category: ScoredCategory, kind: str) -> float | None:
    """The share of the images with a kind of defect that the run's own threshold finds; None without such an image."""
    verdicts = [category.verdicts.get(row.name) for row in category.rows if row.label == 1 and row.defect_type == kind]
    return verdicts.count(DEFECT) / len(verdicts) if verdicts else None


def own_precision(category: ScoredCategory) -> float | None:
    """The share of anomalous images among the labelled ones called defects by the run's own threshold; None if none."""
    called = [row for row in category.rows if row.label is not None and category.verdicts.get(row.name) == DEFECT]
    return sum(row.label == 1 for row in called) / len(called) if called else None


def summary(category: ScoredCategory) -> str:
    """How many images there are, of what size their maps, and both F1-max with their floors."""
    if not category.rows:
        return "The store holds no prediction of it."
    scores = category.scores
    counts = [plural(scores.num_images, "image"), f"{scores.num_anomalous:,} anomalous"]
    if scores.num_unlabelled:
        counts.append(f"{scores.num_unlabelled:,} with neither label nor mask, which no number counts")
    numbers = [
        f"{shown} {percent(scores.metrics.get(metric))} (floor {percent(scores.metrics.get(f'{metric}_floor'))})"
        for metric, shown in (("f1_cls", "F1-max of the images"), ("f1_seg", "F1-max of the pixels"))
        if scores.metrics.get(metric) is not None
    ]
    ends = f" {'; '.join(numbers)}." if numbers else ""
    return f"{', '.join(counts)}; maps of {category.map_sizes}.{ends}"


def tally(category: ScoredCategory, label: int) -> str:
    """How many images of a label the run's own threshold gets wrong, and how many that of F1-max does."""
    rows = [row for row in category.rows if row.label == label]
    kind = "anomalous" if label else "normal"
    if not rows:
        return f"There is no {kind} image."
    images = plural(len(rows), f"{kind} image")
    verdicts = [category.verdicts[row.name] for row in rows if row.name in category.verdicts]
    own = f"{images}; the run has no threshold of its own."
    if verdicts:
        wrong, undecided = verdicts.count(GOOD if label else DEFECT), verdicts.count(UNDECIDED)
        called = "missed" if label else "called defects"
        unsure = f", {undecided:,} undecided" if undecided else ""
        own = f"{wrong:,} of {images} {called} by the run's own threshold{unsure}."
    if category.threshold is None:
        return own
    wrong = sum((row.image_score < category.threshold) == bool(label) for row in rows)
    side = ("lies" if wrong == 1 else "lie") + " below" if label else "reaches" if wrong == 1 else "reach"
    return f"{own} {wrong:,} {side} the F1-max threshold, {significant(category.threshold)}, chosen with the labels."


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """The values of a table of keys: texts as they are, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def kinds_found(category: ScoredCategory) -> Sequence[str]:
    """At which levels the recall of some kind of defect is known: of "image", "pixel", "region"."""
    by_type = category.scores.recall_by_type.values()
    return [level for level in LEVEL_OF_KIND if any(kind.get(level) is not None for kind in by_type)]
