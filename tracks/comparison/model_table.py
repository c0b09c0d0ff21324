"""The table of `make compare`: a row for each setting and model, the best of a setting bold, published rows beside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.published.reader import load
from eval.table_text import csv_table, markdown_table
from eval.tables import COLUMNS, METRICS
from models.base import INDUCTIVE, ZERO_SHOT
from tracks.comparison.gather import METRIC_COLUMNS, gather, metric_cells
from tracks.comparison.plan import Outcome, setting_of
from tracks.comparison.published import Published, source_of

MEGABYTE = 1024**2
COSTS = {
    "predict_images_per_second": "images/s predict",
    "predict_images_per_cpu_second": "images/s CPU",
    "images_per_second": "images/s run",
    "bank_bytes": "bank MB",
    "peak_memory_mb": "peak MB",
    "gpu_memory_mb": "GPU MB",
}
"""Columns of cost: ids and names shown."""

LABELS = (
    "setting", "own_references", "method", "backbone", "generator", "refiner", "saliency_features", "windows",
    "channels", "coreset", "members", "adapter_trained_on", "generator_trained_on",
)  # fmt: skip
"""What of a run's protocol stands below the table; table.json has all of it."""

SCORED = {"resolution": "Maps scored at", "mask_rule": "masks:", "pro": "PRO:", "region_f1": "region F1:"}
"""What of a protocol is alike for all models, and how it is introduced."""

HOW_TO_READ = (
    "Percent; bold: the best of ours in a setting; ±: sample standard deviation over the seeds; F1 floor: calling "
    "everything anomalous.",
    "images/s: of the model's `predict` alone by the clock, the same by processor time of all its threads (the "
    "better guide on a busy machine without GPU), and of the whole run by the clock, with weights, references, images, "
    "scores and files. Bank: what `fit` kept, mean over categories. Peak memory: of the run's own process, scoring "
    "included.",
)


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row for each setting and model that has a finished seed: as `gather` gives it, its cost, its folders."""
    runs = [
        {**each.finished.results, "model": each.run.model, "shots": each.run.shots, "finished": each.finished}
        for each in outcomes if each.finished is not None
    ]  # fmt: skip
    return [
        {
            **row,
            "setting": _setting(row),
            "cost": cost_of([run["finished"].cost for run in group]),
            "runs": [str(run["finished"].folder) for run in group],
        }
        for row, group in gather(runs, lambda run: (run["shots"], run["model"]))
    ]


def _setting(row: Mapping[str, Any]) -> str:
    """Shots, and how images are scored where that is not each by itself: unlike rows share no best."""
    scored = row["protocol"].get("setting", INDUCTIVE)
    return setting_of(row["shots"]) + (f", {scored}" if scored != INDUCTIVE else "")


def cost_of(costs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Rates over all images of the runs, the mean bank of a category, the largest memory; None if not measured."""
    entries = [entry for cost in costs for entry in cost.get("categories", {}).values()]
    images = sum(entry["images"] for entry in entries)
    banks = [entry["bank_bytes"] for entry in entries if entry["bank_bytes"] is not None]
    peaks = {
        key: max((cost[key] for cost in costs if cost.get(key)), default=None)
        for key in ("peak_memory_mb", "gpu_memory_mb")
    }
    return {
        "predict_images_per_second": _rate(images, sum(entry["predict_seconds"] for entry in entries)),
        "predict_images_per_cpu_second": _rate(images, sum(entry["predict_cpu_seconds"] for entry in entries)),
        "images_per_second": _rate(images, sum(entry["seconds"] for entry in entries)),
        "bank_bytes": math.fsum(banks) / len(banks) if banks else None,
        **peaks,
    }


def to_markdown(rows: Sequence[Mapping[str, Any]], beside: Sequence[Published]) -> str:
    """Percent; in each setting our rows, each with the published ones of its model below it."""
    costs = [key for key in COSTS if any(row["cost"][key] for row in rows)]
    numbers = {name: number + 1 for number, name in enumerate(dict.fromkeys(each.table for each in beside))}
    lines = []
    for shots in dict.fromkeys(row["shots"] for row in rows):
        here = [row for row in rows if row["shots"] == shots]
        for row in here:
            best = _best([each for each in here if each["setting"] == row["setting"]])
            cells = [_shown(row["mean"][metric], best.get(metric)) for metric in COLUMNS]
            lines.append([row["setting"], row["model"], *cells, *(_cost(key, row["cost"][key]) for key in costs)])
            for each in beside:
                if (each.shots, each.model) == (shots, row["model"]):
                    name = f"*{each.model}, published [{numbers[each.table]}]*"
                    printed = [_printed(each, metric) for metric in COLUMNS]
                    lines.append([row["setting"], name, *printed, *[""] * len(costs)])
    return markdown_table(["setting", "model", *COLUMNS.values(), *(COSTS[key] for key in costs)], lines, left=(0, 1))


def footnotes(rows: Sequence[Mapping[str, Any]], beside: Sequence[Published], notes: Sequence[str]) -> str:
    """What must be known to read the table, a line each."""
    lines = [*HOW_TO_READ, *notes]
    for number, name in enumerate(dict.fromkeys(each.table for each in beside)):
        of_part = sorted({each.note for each in beside if each.table == name and each.note})
        told = f" ({'; '.join(of_part)})" if of_part else ""
        lines.append(f"[{number + 1}] published, with the paper's weights and metrics: {source_of(load(name))}{told}")
    for model in dict.fromkeys(row["model"] for row in rows):
        protocol = next(row["protocol"] for row in rows if row["model"] == model)
        said = [f"{key} {protocol[key]}" for key in LABELS if key in protocol]
        lines.append(f"{model}: {'; '.join(said)}")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def to_csv(rows: Sequence[Mapping[str, Any]], beside: Sequence[Published]) -> str:
    """Fractions in full precision, ours and published; `<id>_std` beside each metric; cost in its own units."""
    lines = [
        [
            row["setting"], row["shots"], row["model"], "ours",
            " ".join(map(str, row["seeds"])) if row["shots"] else "", *metric_cells(row["mean"]),
            *(row["cost"][key] for key in COSTS),
        ]
        for row in rows
    ]  # fmt: skip
    ours = {(row["shots"], row["model"]): row["setting"] for row in rows}
    for each in beside:
        pairs = [(each.figures.get(metric), each.deviations.get(metric)) for metric in COLUMNS]
        values = [None if value is None else value / 100 for pair in pairs for value in pair]
        lines.append(
            [
                ours.get((each.shots, each.model), setting_of(each.shots)),
                each.shots,
                each.model,
                each.table,
                "",
                *values,
                *[""] * len(COSTS),
            ]
        )
    return csv_table(["setting", "shots", "model", "source", "seeds", *METRIC_COLUMNS, *COSTS], lines)


def summary(
    data: str, words: Sequence[str], categories: Sequence[str], outcomes: Sequence[Outcome],
    rows: Sequence[Mapping[str, Any]], beside: Sequence[Published], notes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The content of table.json."""
    known = [each.finished.results for each in outcomes if each.finished is not None]
    protocol = known[0]["protocol"] if known else {}
    alone = [
        f"{row['setting']} {row['model']}: seed {row['seeds'][0]} alone: {row['alone_because']}"
        for row in rows if "alone_because" in row
    ]  # fmt: skip
    scored = [f"{label} {protocol[key]}" for key, label in SCORED.items() if key in protocol]
    return {
        "title": f"{data} ({', '.join(categories)}), {' '.join(words)}",
        "data": data,
        "categories": list(categories),
        "settings": list(words),
        "notes": [note for note in (seeds_note(rows), "; ".join(scored), *notes, *checks(outcomes), *alone) if note],
        "rows": list(rows),
        "published": [asdict(each) for each in beside],
        "failed": [
            {"model": each.run.model, "shots": each.run.shots, "seed": each.run.seed, "overrides": list(each.run.words),
             "folder": str(each.run.out), "error": each.error, "crashed": each.crashed}
            for each in outcomes if each.error
        ],
    }  # fmt: skip


def checks(outcomes: Sequence[Outcome]) -> list[str]:
    """What the runs tell of themselves: whether all had the same references and images, and which have no result."""
    notes: list[str] = []
    first: dict[tuple[int, int], tuple[Outcome, Any]] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        run = outcome.run
        if outcome.finished is not None:
            seen = (outcome.finished.references, outcome.finished.results["images"])
            other, expected = first.setdefault((run.shots, run.seed), (outcome, seen))
            if seen != expected:
                notes.append(f"NOT THE SAME: {run.name} had other references or images than {other.run.name}.")
        elif outcome.error:
            seed = f" seed {run.seed}" if run.shots else ""
            failed.setdefault((run.model, outcome.error), []).append(setting_of(run.shots) + seed)
    return notes + [f"No result of {model} ({', '.join(which)}): {why}" for (model, why), which in failed.items()]


def seeds_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often each setting was run."""
    seeds = sorted({seed for row in rows if row["shots"] for seed in row["seeds"]})
    few = (
        f" Few-shot: references drawn by seeds {', '.join(map(str, seeds))}, the same for all models." if seeds else ""
    )
    zero = any(row["setting"].startswith(ZERO_SHOT) for row in rows)
    once = "Zero-shot: run once, since the seed draws references alone." if zero else ""
    return (once + few).strip()


def _rate(images: int, seconds: float) -> float | None:
    return images / seconds if images and seconds else None


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The highest mean of each metric; nothing to compare where there is one row."""
    means = {metric: [row["mean"][metric]["mean"] for row in rows if row["mean"][metric]] for metric in METRICS}
    return {metric: max(values) for metric, values in means.items() if len(values) > 1}


def _shown(value: Mapping[str, Any] | None, best: float | None) -> str:
    if value is None:
        return ""
    text = f"{100 * value['mean']:.1f}" + ("" if value["std"] is None else f" ± {100 * value['std']:.1f}")
    return f"**{text}**" if value["mean"] == best else text


def _printed(each: Published, metric: str) -> str:
    if metric not in each.figures:
        return ""
    std = each.deviations.get(metric)
    return f"*{each.figures[metric]:.1f}" + ("" if std is None else f" ± {std:.1f}") + "*"


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key == "bank_bytes":
        return f"{value / MEGABYTE:.2f}"
    return f"{value:.0f}" if key.endswith("_mb") or value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"
