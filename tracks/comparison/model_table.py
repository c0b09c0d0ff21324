"""The table of `make compare`: a row for each setting and model, the best of a setting bold, published rows beside."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.errors import ScoringInputError
from eval.published.reader import load
from eval.tables import COLUMNS, METRICS, over_seeds
from models.base import ZERO_SHOT
from tracks.comparison.cells import Outcome, setting_of
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
    "setting", "method", "backbone", "generator", "refiner", "saliency_features", "windows", "channels", "coreset",
    "members", "adapter_trained_on", "generator_trained_on",
)  # fmt: skip
"""What of a run's protocol stands below the table; table.json has all of it."""

SCORED = {"resolution": "Maps scored at", "mask_rule": "masks:", "pro": "PRO:", "region_f1": "region F1:"}
"""What of a protocol is alike for all models, and how it is introduced."""


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row for each setting and model that has a finished seed: `over_seeds` of its runs, its cost, its folders."""
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.results is not None:
            groups.setdefault((outcome.cell.shots, outcome.cell.model), []).append(outcome)
    return [
        {
            **_averaged([outcome.results for outcome in group if outcome.results is not None]),
            "setting": setting_of(shots),
            "shots": shots,
            "model": model,
            "cost": cost_of([outcome.cost or {} for outcome in group]),
            "runs": [str(outcome.cell.folder) for outcome in group],
        }
        for (shots, model), group in groups.items()
    ]


def _averaged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The runs over their seeds; the first alone, and `alone_because`, where they do not fit together."""
    try:
        return over_seeds(runs)
    except ScoringInputError as error:
        return {**over_seeds(runs[:1]), "alone_because": str(error)}


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
    """The pipe table, in percent; in each setting our rows, each with the published ones of its model below it."""
    costs = [key for key in COSTS if any(row["cost"][key] for row in rows)]
    header = ["setting", "model", *COLUMNS.values(), *(COSTS[key] for key in costs)]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    numbers = {name: number + 1 for number, name in enumerate(dict.fromkeys(each.table for each in beside))}
    for shots in dict.fromkeys(row["shots"] for row in rows):
        here = [row for row in rows if row["shots"] == shots]
        best = _best(here)
        for row in here:
            cells = [_shown(row["mean"][metric], best.get(metric)) for metric in COLUMNS]
            lines.append([row["setting"], row["model"], *cells, *(_cost(key, row["cost"][key]) for key in costs)])
            for each in beside:
                if (each.shots, each.model) == (shots, row["model"]):
                    name = f"*{each.model}, published [{numbers[each.table]}]*"
                    printed = [_printed(each, metric) for metric in COLUMNS]
                    lines.append([row["setting"], name, *printed, *[""] * len(costs)])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def footnotes(rows: Sequence[Mapping[str, Any]], beside: Sequence[Published], notes: Sequence[str]) -> str:
    """What must be known to read the table, a line each."""
    lines = [
        "Percent; bold: the best of ours in a setting; ±: sample standard deviation over the seeds; F1 floor: calling "
        "everything anomalous.",
        "images/s: of the model's `predict` alone by the clock, the same by processor time of its thread (the better "
        "guide on a busy machine without GPU), and of the whole run by the clock, with weights, references, images, "
        "scores and files. Bank: what `fit` kept, mean over categories. Peak memory: of the run's own process, scoring "
        "included.",
        *notes,
    ]
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = [metric + suffix for metric in COLUMNS for suffix in ("", "_std")]
    writer.writerow(["setting", "shots", "model", "source", "seeds", *metrics, *COSTS])
    for row in rows:
        pairs = [row["mean"][metric] or {"mean": "", "std": ""} for metric in COLUMNS]
        values = ["" if value is None else value for pair in pairs for value in (pair["mean"], pair["std"])]
        costs = ["" if row["cost"][key] is None else row["cost"][key] for key in COSTS]
        seeds = " ".join(map(str, row["seeds"])) if row["shots"] else ""
        writer.writerow([row["setting"], row["shots"], row["model"], "ours", seeds, *values, *costs])
    for each in beside:
        pairs = [(each.figures.get(metric), each.deviations.get(metric)) for metric in COLUMNS]
        values = ["" if value is None else value / 100 for pair in pairs for value in pair]
        writer.writerow([setting_of(each.shots), each.shots, each.model, each.table, "", *values, *[""] * len(COSTS)])
    return text.getvalue()


def summary(
    data: str, words: Sequence[str], categories: Sequence[str], outcomes: Sequence[Outcome],
    rows: Sequence[Mapping[str, Any]], beside: Sequence[Published], notes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The content of table.json."""
    results = next((outcome.results for outcome in outcomes if outcome.results is not None), None)
    protocol = results["protocol"] if results else {}
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
            {**asdict(outcome.cell), "folder": str(outcome.cell.folder), "error": outcome.error,
             "crashed": outcome.crashed}
            for outcome in outcomes if outcome.error
        ],
    }  # fmt: skip


def checks(outcomes: Sequence[Outcome]) -> list[str]:
    """What the runs tell of themselves: whether all had the same references and images, and which have no result."""
    notes: list[str] = []
    first: dict[tuple[int, int], Outcome] = {}
    for outcome in outcomes:
        if outcome.results is None:
            continue
        cell, seen = outcome.cell, (outcome.references, outcome.results["images"])
        other = first.setdefault((cell.shots, cell.seed), outcome)
        if other.results and seen != (other.references, other.results["images"]):
            notes.append(f"NOT THE SAME: {cell.name} had other references or images than {other.cell.name}.")
    failed: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.error:
            seed = f" seed {outcome.cell.seed}" if outcome.cell.shots else ""
            failed.setdefault((outcome.cell.model, outcome.error), []).append(outcome.cell.setting + seed)
    return notes + [f"No result of {model} ({', '.join(which)}): {why}" for (model, why), which in failed.items()]


def seeds_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often each setting was run."""
    seeds = sorted({seed for row in rows if row["shots"] for seed in row["seeds"]})
    few = (
        f" Few-shot: references drawn by seeds {', '.join(map(str, seeds))}, the same for all models." if seeds else ""
    )
    zero = any(row["setting"] == ZERO_SHOT for row in rows)
    once = "Zero-shot: run once, since the seed draws references alone." if zero else ""
    return (once + few).strip()


def _rate(images: int, seconds: float) -> float | None:
    return images / seconds if images and seconds else None


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The highest mean of each metric; nothing to compare where there is one row."""
    best = {}
    for metric in METRICS:
        means = [row["mean"][metric]["mean"] for row in rows if row["mean"][metric] is not None]
        if len(means) > 1:
            best[metric] = max(means)
    return best


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
