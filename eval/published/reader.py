"""Published tables by name: what the papers print, and where it stands.

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
class PublishedRow:
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
    rows: tuple[PublishedRow, ...]
    left_out: tuple[str, ...]

    def matching(self, words: Mapping[str, str]) -> list[PublishedRow]:
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
        left_out=tuple(entry.get("left_out", ())),
    )


@functools.cache
def _index() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "index.yaml").read_text(encoding="utf-8")))


def _read(path: Path, figures: tuple[str, ...]) -> Iterable[PublishedRow]:
    """The rows of a CSV file; columns that are neither figures nor their deviations are words."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        header = list(reader.fieldnames or ())
        if missing := [column for column in figures if column not in header]:
            raise ScoringInputError(f"Expected the columns of the index in {path}, got none called {missing[0]!r}.")
        deviations = [column + DEVIATION for column in figures if column + DEVIATION in header]
        words = [column for column in header if column not in figures and column not in deviations]
        for line in reader:
            yield PublishedRow(
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
