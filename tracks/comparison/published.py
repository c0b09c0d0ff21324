"""What the papers print for the models that `make compare` runs; which row is which model's says answers.yaml.

A figure is a mean over a whole data set. For part of it there are figures only where the paper has them by category.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eval.published.reader import PublishedRow, PublishedTable, load
from tracks.comparison.answers import Answer, answers_to, experiment

MEANS = ("april_gan/3", "april_gan/4", "saa_extended/1")
"""Tables of means over data sets; the first that knows a model counts."""
BY_CATEGORY = (*(f"april_gan/{number}" for number in range(5, 13)), "reruns/saa_plus_mvtec", "reruns/saa_plus_visa")
REGION_NOTE = "the paper's region F1 may count several regions for one"


@dataclass(frozen=True)
class Published:
    """Figures of one method in one setting: percent by metric id, deviations where printed, and which table says so."""

    model: str
    shots: int
    table: str
    figures: dict[str, float]
    deviations: dict[str, float] = field(default_factory=dict)
    note: str = ""


def published(data: str, categories: Sequence[str], models: Sequence[str], shots: Sequence[int]) -> list[Published]:
    """All figures of these models on these categories of a data set, each from the first table that has them."""
    whole = set(categories) == (_all_categories(data) or set(categories))
    found: dict[tuple[str, int], Published] = {}
    for name in MEANS if whole else BY_CATEGORY:
        for each in _of_table(load(name), data, () if whole else categories):
            earlier = found.setdefault((each.model, each.shots), each)
            if earlier is not each and earlier.table == name:  # another row of the same table, for other metrics
                earlier.figures.update(each.figures)
                earlier.deviations.update(each.deviations)
    return [each for each in found.values() if each.model in models and each.shots in shots]


def source_of(table: PublishedTable) -> str:
    """Where a table stands, in words."""
    return f"{table.name} ({paper_of(table)}): {table.caption}; {table.metrics}"


def paper_of(table: PublishedTable) -> str:
    """The paper, and the table's number in it."""
    where = f"arXiv {table.source.arxiv}" if table.source.arxiv else table.source.title
    return where + (f", Table {table.number}" if table.number else "")


def _all_categories(data: str) -> set[str]:
    """The categories behind a published mean; empty where no table has figures by category."""
    for name in BY_CATEGORY:
        for answer in answers_to(name).answers:
            if answer.by and experiment(answer.experiments[0]).data == data:
                return {row.words[answer.by] for row in load(name).rows} - {answer.mean or ""}
    return set()


def _of_table(table: PublishedTable, data: str, categories: Sequence[str]) -> Iterator[Published]:
    """The figures of a table row by row: of a data set as a whole, or means over `categories` where there are any."""
    ours = answers_to(table.name)
    answers = [each for each in ours.answers if data in {experiment(name).data for name in each.experiments}]
    if categories:
        found = [(_rows_of(table, answer, categories), answer) for answer in answers]
        several = len(categories) > 1
        note = f"mean over {len(categories)} of its categories" if several else f"its category {categories[0]}"
    else:
        found = [([row], answer) for row in table.rows for answer in answers if row in table.matching(answer.where)]
        note = REGION_NOTE if "region_f1" in ours.reasons else ""
    for rows, answer in found:
        columns = _columns(answer, data)
        figures = {metric: value for column, metric in columns.items() if (value := _mean(rows, column)) is not None}
        spread = {} if categories else rows[0].deviations
        stds = {metric: std for column, metric in columns.items() if (std := spread.get(column)) is not None}
        if figures:
            yield Published(experiment(answer.experiments[0]).model, answer.shots, table.name, figures, stds, note)


def _rows_of(table: PublishedTable, answer: Answer, categories: Sequence[str]) -> list[PublishedRow]:
    """The rows of these categories, none where the table lacks one of them."""
    rows = {row.words[answer.by]: row for row in table.rows} if answer.by else {}
    return [rows[name] for name in categories] if set(categories) <= set(rows) else []


def _columns(answer: Answer, data: str) -> dict[str, str]:
    """The columns about one data set, each with the first of our metrics that answers it."""
    alone = {experiment(name).data for name in answer.experiments} == {data}
    return {name: of.ours[0] for name, of in answer.columns.items() if of.over == data or (alone and of.over is None)}


def _mean(rows: Sequence[PublishedRow], column: str) -> float | None:
    values = [value for row in rows if (value := row.figures[column]) is not None]
    return sum(values) / len(values) if values and len(values) == len(rows) else None
