"""Published tables by name: what the papers print, where it stands, and which runs of ours answer it.

    load("april_gan/9").cell("AUROC-segm", Object="candle")   # 97.8

The figures stand in CSV files beside this one, the rest in index.yaml. All figures are in percent.
"""

import csv
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.errors import ScoringInputError

FOLDER = Path(__file__).resolve().parent
DEVIATION = " std"
"""Ends the name of the column that holds the deviation of the column before it."""


@dataclass(frozen=True)
class Source:
    """Where figures were printed; `arxiv` is the paper's number there, None for what is no such paper."""

    name: str
    title: str
    authors: str
    arxiv: str | None


@dataclass(frozen=True)
class Experiment:
    """A set-up of conf/experiment: its model and data set, how many images it scores, rough seconds for each."""

    name: str
    model: str
    data: str
    images: int
    gpu_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Column:
    """What of ours answers a column: metric ids, averaged `over` a data set, a group, or all categories (None)."""

    ours: tuple[str, ...]
    over: str | None = None


@dataclass(frozen=True)
class Answer:
    """The runs that answer rows of a table.

    The rows are those whose words are `where`; or, if `by` names a column, those that hold a category there, `mean`
    being the word for all of them.
    """

    experiments: tuple[str, ...]
    shots: int
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    columns: Mapping[str, Column]
    where: Mapping[str, str]
    by: str | None = None
    mean: str | None = None


@dataclass(frozen=True)
class Row:
    """One row as printed: words by column, figures in percent and their deviations (None where blank)."""

    words: Mapping[str, str]
    figures: Mapping[str, float | None]
    deviations: Mapping[str, float | None]


@dataclass(frozen=True)
class PublishedTable:
    """One published table; `number` is its number in the paper, None elsewhere. The other texts: see index.yaml."""

    name: str
    source: Source
    number: int | None
    caption: str
    data: tuple[str, ...]
    track: str
    shots: tuple[int, ...]
    metrics: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    reasons: Mapping[str, str]
    left_out: tuple[str, ...]
    unanswered: str | None
    answers: tuple[Answer, ...]

    @property
    def num_figures(self) -> int:
        """How many figures it holds, deviations and ranks not counted."""
        return sum(value is not None for row in self.rows for value in row.figures.values())

    def matching(self, words: Mapping[str, str]) -> list[Row]:
        """The rows that have all these words.

        Raises:
            ScoringInputError: a column of words that the table does not have.
        """
        for column in words:
            if self.rows and column not in self.rows[0].words:
                raise _unknown(f"a column of words of {self.name}", column, self.rows[0].words)
        return [row for row in self.rows if all(row.words[column] == word for column, word in words.items())]

    def cell(self, column: str, /, **words: str) -> float | None:
        """One figure in percent, None where the table is blank; `words` pick exactly one row.

        Raises:
            ScoringInputError: no such column, or none or several such rows.
        """
        if column not in self.columns:
            raise _unknown(f"a column of figures of {self.name}", column, self.columns)
        rows = self.matching(words)
        if len(rows) != 1:
            known = "; ".join(", ".join(row.words.values()) for row in self.rows)
            raise ScoringInputError(
                f"Expected words that pick one row of {self.name}, got {words}, which picks {len(rows)}; rows: {known}."
            )
        return rows[0].figures[column]


def list_tables() -> tuple[str, ...]:
    """The names of all tables, in the index's order."""
    return tuple(_index()["tables"])


@functools.cache
def load(name: str) -> PublishedTable:
    """A table by name, for example april_gan/9.

    Raises:
        ScoringInputError: no such table, or a CSV file that does not fit the index.
    """
    index = _index()
    if name not in index["tables"]:
        raise _unknown("a published table", name, index["tables"])
    entry = index["tables"][name]
    figures = tuple(entry["figures"])
    return PublishedTable(
        name=name,
        source=Source(entry["source"], **index["sources"][entry["source"]]),
        number=entry["number"],
        caption=entry["caption"],
        data=tuple(entry["data"]),
        track=entry["track"],
        shots=tuple(entry["shots"]),
        metrics=entry["metrics"],
        columns=figures,
        rows=tuple(_read(FOLDER / entry["file"], figures)),
        reasons={reason: index["reasons"][reason] for reason in entry["reasons"]},
        left_out=tuple(entry.get("left_out", ())),
        unanswered=entry.get("unanswered"),
        answers=tuple(_answer(fields) for fields in entry.get("answers", ())),
    )


def experiment(name: str) -> Experiment:
    """What is known of a set-up of conf/experiment.

    Raises:
        ScoringInputError: one that the index does not name.
    """
    experiments = _index()["experiments"]
    if name not in experiments:
        raise _unknown("an experiment of the published tables", name, experiments)
    return Experiment(name, **experiments[name])


def group(name: str) -> tuple[str, ...] | None:
    """The categories of a named group as <data set>/<category>, with * for all of a set; None if it is no group."""
    members = _index()["groups"].get(name)
    return tuple(members) if members is not None else None


@functools.cache
def _index() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "index.yaml").read_text(encoding="utf-8")))


def _answer(fields: Mapping[str, Any]) -> Answer:
    columns = {name: Column(tuple(column["ours"]), column.get("over")) for name, column in fields["columns"].items()}
    return Answer(
        experiments=tuple(fields["experiments"]),
        shots=fields["shots"],
        seeds=tuple(fields.get("seeds", (0,))),
        settings=tuple(fields.get("settings", ())),
        columns=columns,
        where=fields.get("where", {}),
        by=fields.get("by"),
        mean=fields.get("mean"),
    )


def _read(path: Path, figures: tuple[str, ...]) -> Iterable[Row]:
    """The rows of a CSV file; columns that are neither figures nor their deviations are words."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        header = list(reader.fieldnames or ())
        if missing := [column for column in figures if column not in header]:
            raise ScoringInputError(f"Expected the columns of the index in {path}, got none called {missing[0]!r}.")
        deviations = [column + DEVIATION for column in figures if column + DEVIATION in header]
        words = [column for column in header if column not in figures and column not in deviations]
        for line in reader:
            yield Row(
                words={column: line[column] for column in words},
                figures={column: _number(line[column], path, column) for column in figures},
                deviations={
                    column.removesuffix(DEVIATION): _number(line[column], path, column) for column in deviations
                },
            )


def _number(text: str | None, path: Path, column: str) -> float | None:
    """A figure; None for a blank."""
    if text == "":
        return None
    try:
        value = float(text or "missing")
    except ValueError as error:
        raise ScoringInputError(f"Expected a number or a blank under {column!r} in {path}, got {text!r}.") from error
    if not math.isfinite(value):
        raise ScoringInputError(f"Expected a finite number under {column!r} in {path}, got {text!r}.")
    return value


def _unknown(kind: str, got: str, known: Iterable[str]) -> ScoringInputError:
    return ScoringInputError(f"Expected {kind}, got {got!r}; there are {', '.join(known)}.")
