"""Which of our experiments answer which rows of a published table (eval/published), and why ours may differ.

    answers_to("april_gan/9").answers[0].experiments   # ("april_gan_visa",)

All of it stands in answers.yaml beside this file.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


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
class AnsweredColumn:
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
    columns: Mapping[str, AnsweredColumn]
    where: Mapping[str, str]
    by: str | None = None
    mean: str | None = None


@dataclass(frozen=True)
class TableAnswers:
    """All answers to one table, the known reasons of a gap by a short name, and why rows have no answer."""

    answers: tuple[Answer, ...]
    reasons: Mapping[str, str]
    unanswered: str | None


def answers_to(table: str) -> TableAnswers:
    """What of ours answers a published table, by its name; nothing where answers.yaml does not name it."""
    everything = _read()
    entry = everything["tables"].get(table, {})
    return TableAnswers(
        answers=tuple(_answer(fields) for fields in entry.get("answers", ())),
        reasons={reason: everything["reasons"][reason] for reason in entry.get("reasons", ())},
        unanswered=entry.get("unanswered"),
    )


def experiment(name: str) -> Experiment:
    """What is known of a set-up that answers.yaml names; KeyError for another."""
    return Experiment(name, **_read()["experiments"][name])


def group(name: str) -> tuple[str, ...] | None:
    """The categories of a named group as <data set>/<category>, with * for all of a set; None if it is no group."""
    members = _read()["groups"].get(name)
    return tuple(members) if members is not None else None


@functools.cache
def _read() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8")))


def _answer(fields: Mapping[str, Any]) -> Answer:
    columns = {
        name: AnsweredColumn(tuple(column["ours"]), column.get("over")) for name, column in fields["columns"].items()
    }
    lists = {key: tuple(fields.get(key, default)) for key, default in (("seeds", (0,)), ("settings", ()))}
    return Answer(
        tuple(fields["experiments"]), fields["shots"], **lists, columns=columns, where=fields.get("where", {}),
        by=fields.get("by"), mean=fields.get("mean"),
    )  # fmt: skip
