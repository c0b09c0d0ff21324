"""A comparison of two runs as Markdown tables for people; the numbers are those of compare.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.table_text import markdown_table
from eval.tables import METRICS
from eval.uncertainty.paired import A_BETTER, B_BETTER

Results = Mapping[str, Any]


def tables(results: Results, metrics: Sequence[str], details: bool) -> str:
    """The means, then a row for each category: of all metrics together, or with `details` a table for each."""
    parts = [_means(results, metrics)]
    if details:
        parts += [f"{METRICS[metric]}\n\n" + _one_metric(results, metric) for metric in metrics]
    else:
        parts.append("A - B by category, in points\n\n" + _all_metrics(results, metrics))
    return "\n".join(parts)


def header(results: Results) -> str:
    """What is compared, and what differs between the runs besides the predictions."""
    lines = [f"{run}: {results[key]['folder']}" for run, key in (("A", "a"), ("B", "b"))]
    lines += [f"differs: {key}: A {a}, B {b}" for key, (a, b) in results["differs"].items()]
    lines += ["differs: nothing that run.json states"] if not results["differs"] else []
    return "\n".join(lines + [f"note: {note}" for note in results["notes"]]) + "\n"


def footer(results: Results) -> str:
    """How to read the tables."""
    number, percent = len(results["categories"]), f"{100 * results['level']:g} %"
    text = (
        f"Points are percent. Intervals ({percent}) and p-values come from {results['bootstrap']} draws of the test "
        "images with replacement, the same for both runs, anomalous and normal ones apart. They say how far other "
        "images of these categories would move a difference, not how far another seed or other references would. "
    )
    if number > 1:
        wrong = f"{100 * (1 - results['level']):g} %"
        text += (
            f"A verdict on one of the {number} categories uses the p-value adjusted by Holm's rule, so noise alone "
            f"marks a category in at most {wrong} of such tables, for each metric; means use the p-value as it is. "
        )
    return text + "Several metrics are several tests: of many, some differ by chance.\n"


def _means(results: Results, metrics: Sequence[str]) -> str:
    rows = [
        [METRICS[metric], *_full_row(results["mean"][metric]), _verdict(results["mean"][metric])]
        for metric in metrics
        if results["mean"].get(metric)
    ]
    columns = ["mean over categories", "A", "B", "A - B", _interval_name(results), "p", "verdict"]
    return markdown_table(columns, rows, left=(0, 6))


def _one_metric(results: Results, metric: str) -> str:
    rows = []
    for name, category in results["categories"].items():
        if difference := category["metrics"].get(metric):
            adjusted = _p_value(difference["p_adjusted"])
            rows.append([name, str(category["images"]), *_full_row(difference), adjusted, _verdict(difference)])
        else:
            rows.append(
                [name, str(category["images"]), "", "", "", "", "", "", category["blank_because"].get(metric, "")]
            )
    columns = ["category", "images", "A", "B", "A - B", _interval_name(results), "p", "p (Holm)", "verdict"]
    return markdown_table(columns, rows, left=(0, 8))


def _all_metrics(results: Results, metrics: Sequence[str]) -> str:
    rows = [
        [name, str(category["images"]), *(_cell(category["metrics"].get(metric)) for metric in metrics)]
        for name, category in results["categories"].items()
    ]
    return markdown_table(["category", "images", *(METRICS[metric] for metric in metrics)], rows, left=(0,))


def _cell(difference: Mapping[str, Any] | None) -> str:
    """The difference with its interval, and who is better where that is more than noise."""
    if not difference:
        return ""
    text = f"{_points(difference['difference'])} {_interval(difference)}".strip()
    better = {A_BETTER: "A", B_BETTER: "B"}.get(difference["verdict"])
    return f"**{text} {better}**" if better else text


def _full_row(difference: Mapping[str, Any]) -> list[str]:
    return [
        f"{100 * difference['a']:.1f}", f"{100 * difference['b']:.1f}", _points(difference["difference"]),
        _interval(difference), _p_value(difference["p_value"]),
    ]  # fmt: skip


def _verdict(difference: Mapping[str, Any]) -> str:
    verdict = str(difference["verdict"])
    return f"**{verdict}**" if verdict in (A_BETTER, B_BETTER) else verdict


def _interval_name(results: Results) -> str:
    return f"{100 * results['level']:g} % interval"


def _interval(difference: Mapping[str, Any]) -> str:
    return "" if difference["low"] is None else f"[{_points(difference['low'])}, {_points(difference['high'])}]"


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # adding zero turns -0.0 into 0.0


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
