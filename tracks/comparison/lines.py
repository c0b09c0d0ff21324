"""A published table beside ours: one line for each figure of the paper and each metric of ours, and how they print."""

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

from eval.published.reader import PublishedRow, PublishedTable
from eval.table_text import csv_table, markdown_table
from eval.tables import mean_std
from tracks.comparison.answers import Answer, AnsweredColumn, Need, answers_to, experiment, group
from tracks.comparison.finished import LEGACY, Scores
from tracks.datasets.registry import registry

MEAN_ROW = "mean"


@dataclass(frozen=True)
class Line:
    """One figure of the paper and ours, in percent; `row` is its words in the paper, `ours` is None if not known.

    Deviations are over seeds (n - 1). `within` says whether the difference is at most the tolerance or twice the
    paper's deviation, whichever is larger.
    """

    row: str
    column: str
    metric: str
    paper: float
    paper_std: float | None
    ours: float | None
    ours_std: float | None
    difference: float | None
    within: bool | None


def lines_of(table: PublishedTable, scores: Mapping[Need, Scores], tolerance: float) -> list[Line]:
    """The lines of all rows that some of these runs answer, in the paper's order; tolerance in percentage points."""
    found: list[tuple[int, int, Line]] = []
    for answer in answers_to(table.name).answers:
        seeds = _by_seed(answer, scores)
        if not seeds:
            continue
        sets = sorted({experiment(name).data for name in answer.experiments})
        for row, category in _rows(table, answer):
            label = category or ", ".join(row.words.values())
            for name, column in answer.columns.items():
                members = [category] if category not in (None, MEAN_ROW) else _members(column, sets)
                order = (table.rows.index(row), table.columns.index(name))
                found += [(*order, line) for line in _lines(label, name, row, column.ours, seeds, members, tolerance)]
    return [line for *_, line in sorted(found, key=lambda placed: placed[:2])]


def _by_seed(answer: Answer, scores: Mapping[Need, Scores]) -> list[Scores]:
    """For each seed that was run, the scores of all experiments of an answer together."""
    merged: dict[int, dict[str, Mapping[str, float | None]]] = {}
    for need, found in scores.items():
        if (need.shots, need.settings) == (answer.shots, answer.settings) and need.experiment in answer.experiments:
            merged.setdefault(need.seed, {}).update(found)
    return [merged[seed] for seed in sorted(merged)]


def _rows(table: PublishedTable, answer: Answer) -> Iterator[tuple[PublishedRow, str | None]]:
    """The rows of an answer, with their category; MEAN_ROW for the row of means, None where the words say it all."""
    for row in table.matching(answer.where):
        word = row.words[answer.by] if answer.by else None
        yield row, MEAN_ROW if answer.mean and word == answer.mean else word


def _lines(
    label: str, name: str, row: PublishedRow, metrics: Sequence[str], seeds: Sequence[Scores], members: Sequence[str],
    tolerance: float,
) -> Iterator[Line]:  # fmt: skip
    paper, paper_std = row.figures[name], row.deviations.get(name)
    if paper is None:
        return
    allowed = max(tolerance, 2 * (paper_std or 0.0))
    for metric in metrics:
        means = [_mean(scores, metric, members) for scores in seeds]
        known = mean_std([None if mean is None else 100 * mean for mean in means]) or {"mean": None, "std": None}
        difference = None if known["mean"] is None else known["mean"] - paper
        within = None if difference is None else abs(difference) <= allowed + 1e-9
        yield Line(label, name, metric, paper, paper_std, known["mean"], known["std"], difference, within)


def _members(column: AnsweredColumn, sets: Sequence[str]) -> list[str]:
    """What a mean is over, as <data set>/<category> with * for all of a set."""
    members = group(column.over) if column.over else None
    return list(members) if members else [f"{data}/*" for data in ([column.over] if column.over else sets)]


def _mean(scores: Scores, metric: str, members: Sequence[str]) -> float | None:
    """The mean of a metric over members, as a fraction; None unless every category of theirs has it."""
    names: list[str] = []
    for member in members:
        data, _, category = member.rpartition("/")
        fitting = fnmatch.filter(scores, member if data else f"*/{category}")
        if len(fitting) != (registry()[data].categories if category == "*" else 1):
            return None
        names += fitting
    values = [value for name in names if (value := scores[name].get(metric)) is not None]
    return math.fsum(values) / len(values) if values and len(values) == len(names) else None


def to_markdown(lines: Sequence[Line]) -> str:
    """A row for each of the paper's, a column for each figure and metric: paper, ours, difference.

    A difference beyond the tolerance has an asterisk.
    """
    columns = list(dict.fromkeys((line.column, line.metric) for line in lines))
    cells = {(line.row, line.column, line.metric): _cell(line) for line in lines}
    return markdown_table(
        ["paper → ours (difference)", *(f"{column}: {metric}" for column, metric in columns)],
        [
            [row, *(cells.get((row, *column), "") for column in columns)]
            for row in dict.fromkeys(line.row for line in lines)
        ],
    )


def _cell(line: Line) -> str:
    paper = f"{line.paper:.2f}".removesuffix("0")
    if line.ours is None or line.difference is None:
        return f"{paper} → none"
    return f"{paper} → {line.ours:.1f} ({line.difference:+.1f}{'' if line.within else '*'})"


def summary(lines: Sequence[Line], tolerance: float) -> str:
    """How many figures lie within the tolerance, legacy variants counted by themselves."""
    texts = []
    for kind, chosen in (
        ("figures", [line for line in lines if not line.metric.startswith(LEGACY)]),
        ("figures by the paper's own (legacy) variant", [line for line in lines if line.metric.startswith(LEGACY)]),
    ):
        known = [line for line in chosen if line.within is not None]
        if chosen:
            none = f", {len(chosen) - len(known)} are not known" if len(known) < len(chosen) else ""
            texts.append(
                f"{sum(bool(line.within) for line in known)} of {len(known)} {kind} within the tolerance{none}"
            )
    return "; ".join(texts) + f" ({tolerance:g} points, or twice the paper's deviation where that is more; * beyond it)"


def to_csv(lines: Iterable[Line]) -> str:
    """The lines as comma-separated values, percent, in full precision."""
    return csv_table([one.name for one in fields(Line)], map(astuple, lines))
