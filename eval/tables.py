"""Results as tables: Markdown for people (percent), CSV for programs (fractions), and the average over seeds.

A results dict is what a run writes to `results.json`; these functions read its `categories{name: {metric id: value}}`
and `over_seeds` also the keys that say what was run. A blank (None, or an id left out) is never averaged as 0.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.errors import ScoringInputError
from eval.table_text import csv_table, markdown_table

COLUMNS: dict[str, str] = {
    "auroc_cls": "AUROC cls",
    "f1_cls": "F1-max cls",
    "f1_cls_floor": "F1 floor cls",
    "ap_cls": "AP cls",
    "auroc_seg": "AUROC seg",
    "f1_seg": "F1-max seg",
    "f1_seg_floor": "F1 floor seg",
    "ap_seg": "AP seg",
    "pro_seg": "PRO seg",
    "f1_region": "F1-max region",
    "f1_harmonic": "F1 harmonic",
}
"""The columns of a table, ids and names shown: cls ranks images, seg ranks pixels, region counts whole defects; beside
each F1-max of a ranking stands its floor, the F1 of calling everything anomalous."""

OF_THRESHOLDS: dict[str, str] = {
    "f1_seg_learnt": "F1 seg, learnt threshold",
    "auroc_seg_low_fpr": "AUROC seg, FPR <= 0.05",
}
"""Further columns where a model has learnt a threshold of its maps: what is reported on MVTec AD 2."""

METRICS: dict[str, str] = {metric: shown for metric, shown in COLUMNS.items() if not metric.endswith("_floor")}
"""The metrics alone, in the same order."""

RUN_KEYS = ("track", "model", "weights", "data", "shots")
SAME_IN_ALL_SEEDS = (*RUN_KEYS, "protocol")

Scores = Mapping[str, Any]


def columns_of(categories: Mapping[str, Scores]) -> dict[str, str]:
    """`COLUMNS`, and those `OF_THRESHOLDS` where a category has such a threshold."""
    learnt = any(scores.get("f1_seg_learnt") is not None for scores in categories.values())
    return COLUMNS | (OF_THRESHOLDS if learnt else {})


def mean_over_categories(categories: Mapping[str, Scores]) -> dict[str, float | None]:
    """The arithmetic mean of each of `columns_of` the categories over those that have it; None where none has.

    Raises:
        ScoringInputError: for NaN or inf, naming category and metric.
    """
    return {metric: _mean(_present(categories, metric).values()) for metric in columns_of(categories)}


def count_averaged(categories: Mapping[str, Scores]) -> dict[str, int]:
    """Over how many categories the mean of each of `COLUMNS` is taken."""
    return {metric: len(_present(categories, metric)) for metric in COLUMNS}


def track_score(categories: Mapping[str, Scores]) -> float | None:
    """The track's score: the mean over categories of the harmonic mean of image and pixel F1-max."""
    return _mean(_present(categories, "f1_harmonic").values())


def to_markdown(results: Mapping[str, Any]) -> str:
    """A pipe table of one run, or of `over_seeds`: a row per category and `mean`, in percent with one decimal.

    Blanks stay blank; a line below the table says which were left out of the mean. Over seeds: mean ± sample
    standard deviation (n - 1).
    """
    categories = results["categories"]
    columns = columns_of(categories)
    rows = [[name, *_percents(scores, columns)] for name, scores in [*categories.items(), ("mean", _mean_row(results))]]
    notes = _notes(categories)
    return _pipe_table(["category"], rows, shown=columns) + ("\n" + "\n".join(notes) + "\n" if notes else "")


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A pipe table with a row for each result of `over_seeds`: what was run, then the means over its categories.

    Percent with one decimal, mean ± sample standard deviation (n - 1) over the seeds. What a row holds under `swept`,
    {setting: value}, has a column each; where the protocols of the rows differ, a last column says in what.
    """
    axes = list(dict.fromkeys(key for row in rows for key in row.get("swept") or {}))
    protocols = [row.get("protocol") or {} for row in rows]
    keys = sorted({key for protocol in protocols for key in protocol})
    unlike = [key for key in keys if len({repr(protocol.get(key)) for protocol in protocols}) > 1]
    lines = []
    for row, protocol in zip(rows, protocols, strict=True):
        run = [str(row.get(key, "")) for key in RUN_KEYS] + [str((row.get("swept") or {}).get(key, "")) for key in axes]
        run += [" ".join(str(seed) for seed in row["seeds"]), str(len(row["categories"]))]
        differs = [", ".join(f"{key} {protocol.get(key, 'not stated')}" for key in unlike)] if unlike else []
        lines.append([*run, *_percents(row["mean"]), *differs])
    return _pipe_table([*RUN_KEYS, *axes, "seeds", "categories"], lines, ["protocol"] if unlike else [])


def interval_table(results: Mapping[str, Any]) -> str:
    """A pipe table of the intervals that a results dict holds, [low, high] in percent; below it, why some are blank."""
    ends = {name: scores.get("intervals") or {} for name, scores in results["categories"].items()}
    why = {
        name: (scores.get("blank_because") or {}) | (scores.get("intervals_blank_because") or {})
        for name, scores in results["categories"].items()
    }
    ends["mean"], why["mean"] = results.get("mean_intervals") or {}, results.get("mean_intervals_blank_because") or {}
    table = _pipe_table(
        [f"{100 * results['interval_level']:g} % interval"], [[name, *_intervals(of)] for name, of in ends.items()]
    )
    return table + "".join(f"\n{note}\n" for name in ends for note in _why_blank(name, ends[name], why[name]))


def _why_blank(name: str, ends: Mapping[str, object], why: Mapping[str, str]) -> list[str]:
    """A sentence for each reason why metrics of a row have no interval."""
    blank: dict[str, list[str]] = {}
    for metric, shown in METRICS.items():
        if metric in why and ends.get(metric) is None:
            blank.setdefault(why[metric], []).append(shown)
    return [f"{name}: no interval of {', '.join(metrics)}: {reason}." for reason, metrics in blank.items()]


def _intervals(ends: Mapping[str, Sequence[float] | None]) -> list[str]:
    return [
        "" if (pair := ends.get(metric)) is None else f"{100 * pair[0]:.1f}-{100 * pair[1]:.1f}" for metric in COLUMNS
    ]


def to_csv(results: Mapping[str, Any]) -> str:
    """The same rows as comma-separated values: fractions in [0, 1] in full precision, blanks empty, ids as header.

    Over seeds each metric has a second column, `<id>_std`.
    """
    with_std, columns = "seeds" in results, columns_of(results["categories"])
    suffixes = ("", "_std") if with_std else ("",)
    rows = [
        [name, *(cell for metric in columns for cell in _fractions(scores.get(metric), with_std))]
        for name, scores in [*results["categories"].items(), ("mean", _mean_row(results))]
    ]
    return csv_table(["category", *(metric + suffix for metric in columns for suffix in suffixes)], rows)


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs that differ in their seed alone, averaged: a results dict whose values are {mean, std} or None.

    `std` is the sample standard deviation (n - 1), None for one run. Those in `mean` and `score` are of the runs'
    own means, so they say how far a whole run moves with the seed.

    Raises:
        ScoringInputError: for no run, a seed given twice, or runs that differ in anything else, blanks included.
    """
    _expect_same_but_seed(runs)
    names, columns = list(runs[0]["categories"]), columns_of(runs[0]["categories"])
    categories = {
        name: {metric: mean_std([run["categories"][name].get(metric) for run in runs]) for metric in columns}
        for name in names
    }
    means = [mean_over_categories(run["categories"]) for run in runs]
    return {
        **{key: runs[0][key] for key in SAME_IN_ALL_SEEDS if key in runs[0]},
        "seeds": [run["seed"] for run in runs],
        "categories": categories,
        "mean": {metric: mean_std([mean.get(metric) for mean in means]) for metric in columns},
        "score": mean_std([track_score(run["categories"]) for run in runs]),
    }


def _expect_same_but_seed(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        raise ScoringInputError("Expected at least one run to average over seeds, got none. Name finished runs.")
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) != len(seeds):
        raise ScoringInputError(f"Expected runs of different seeds, got seeds {seeds}. Leave the repeated ones out.")
    for run in runs[1:]:
        for key in SAME_IN_ALL_SEEDS:
            if (got := _without_seed(run.get(key))) != (expected := _without_seed(runs[0].get(key))):
                raise ScoringInputError(
                    f"Expected runs that differ in their seed alone, but {key} is {expected!r} for seed {seeds[0]} and "
                    f"{got!r} for seed {run['seed']}. Average each kind of run on its own."
                )
        if set(run["categories"]) != set(runs[0]["categories"]):
            odd = sorted(set(run["categories"]) ^ set(runs[0]["categories"]))
            raise ScoringInputError(
                f"Expected the same categories for every seed, but seeds {seeds[0]} and {run['seed']} do not share "
                f"{', '.join(odd)}. Finish the shorter run first."
            )
        if odd := sorted(set(_blanks(run)) ^ set(_blanks(runs[0]))):
            raise ScoringInputError(
                f"Expected the same blanks for every seed, as they follow from the labels and masks alone, but seeds "
                f"{seeds[0]} and {run['seed']} differ in {', '.join(odd)}. Score all runs on the same test images."
            )


def _blanks(run: Mapping[str, Any]) -> list[str]:
    """Which metric of which category a run does not have."""
    return [
        f"{metric} of {name}" for name, s in run["categories"].items() for metric in METRICS if s.get(metric) is None
    ]


def _without_seed(value: Any) -> Any:
    """A protocol without the entries that name a seed; anything else as it is."""
    return {k: v for k, v in value.items() if "seed" not in k} if isinstance(value, Mapping) else value


def _present(categories: Mapping[str, Scores], metric: str) -> dict[str, float]:
    """The value of one metric for each category that has it."""
    values = {}
    for name, scores in categories.items():
        value = scores.get(metric)
        if value is None:
            continue
        if not math.isfinite(value):
            raise ScoringInputError(
                f"Category {name}: expected {metric} as a number or blank, got {value}. "
                "Give None where a metric has no meaning, so that it is left out of the mean."
            )
        values[name] = float(value)
    return values


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def mean_std(values: Sequence[float | None]) -> dict[str, Any] | None:
    """`mean` and `std` (sample standard deviation, None for one) of the known values; None without any."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return {"mean": math.fsum(known) / len(known), "std": statistics.stdev(known) if len(known) > 1 else None}


def _mean_row(results: Mapping[str, Any]) -> Scores:
    """The row of means: kept by `over_seeds`, which alone knows the single runs; else worked out afresh."""
    return results["mean"] if "seeds" in results else mean_over_categories(results["categories"])


def _pipe_table(
    before: Sequence[str], rows: Iterable[Sequence[str]], after: Sequence[str] = (), shown: Mapping[str, str] = COLUMNS
) -> str:
    """The columns named `before`, those `shown` aligned right, then those named `after`."""
    columns = [*before, *shown.values(), *after]
    numbers = range(len(before), len(before) + len(shown))
    return markdown_table(columns, rows, left=set(range(len(columns))) - set(numbers))


def _percents(scores: Scores, columns: Iterable[str] = COLUMNS) -> list[str]:
    return [_percent(scores.get(metric)) for metric in columns]


def _percent(value: float | Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{100 * value:.1f}"
    text = f"{100 * value['mean']:.1f}"
    return text if value["std"] is None else f"{text} ± {100 * value['std']:.1f}"


def _fractions(value: float | Mapping[str, Any] | None, with_std: bool) -> list[float | str]:
    if value is None:
        return ["", ""] if with_std else [""]
    if not isinstance(value, Mapping):
        return [float(value)]
    return [value["mean"], "" if value["std"] is None else value["std"]]


def _notes(categories: Mapping[str, Scores]) -> list[str]:
    """A sentence for each group of metrics that some category lacks."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for metric, shown in METRICS.items():
        without = tuple(name for name, scores in categories.items() if scores.get(metric) is None)
        if without:
            lacking.setdefault(without, []).append(shown)
    total = len(categories)
    return [
        f"{', '.join(metrics)}: mean over {total - len(without)} of {total} categories, blank for {', '.join(without)}."
        for without, metrics in lacking.items()
    ]
