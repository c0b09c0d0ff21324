"""Which of our experiments answer which rows of a published table (eval/published), why ours may differ, which runs.

    answers_to("april_gan/9").answers[0].experiments   # ("april_gan_visa",)

All of it stands in answers.yaml beside this file.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tracks.comparison.finished import FinishedRun
from tracks.errors import TrackInputError


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


@dataclass(frozen=True)
class Need:
    """One run that a table needs: an experiment with shots, a seed and further settings."""

    experiment: str
    shots: int
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model that it runs."""
        return experiment(self.experiment).model

    @property
    def data(self) -> str:
        """The data set that it runs on."""
        return experiment(self.experiment).data

    @property
    def track(self) -> str:
        """The track that it is a run of."""
        return "few_shot" if self.shots else "zero_shot"

    @property
    def words(self) -> tuple[str, ...]:
        """The settings that make a track this run."""
        return (f"experiment={self.experiment}", f"shots={self.shots}", f"seed={self.seed}", *self.settings)

    def __str__(self) -> str:
        return f"{' '.join((self.experiment, *self.settings))}, {self.shots} shots, seed {self.seed}"


def needs_of(table: str, seeds: Sequence[int] = (), only: Sequence[str] = (), models: Sequence[str] = ()) -> list[Need]:
    """Every run that a table needs, each once; `seeds` instead of its own, `only` these data sets and `models`."""
    needs = [
        Need(name, answer.shots, seed, answer.settings)
        for answer in answers_to(table).answers
        for seed in (seeds if seeds and answer.shots else answer.seeds)
        for name in answer.experiments
    ]
    return [n for n in dict.fromkeys(needs) if (not only or n.data in only) and (not models or n.model in models)]


def assign(runs: Iterable[FinishedRun], needs: Sequence[Need], name: str) -> dict[Need, FinishedRun]:
    """Which need of the table `name` each given run answers; a run stands for the set-up without further settings.

    A run of a model that the table does not know stands for the first, which is the paper's own.

    Raises:
        TrackInputError: a run that answers none.
    """
    taken: dict[Need, FinishedRun] = {}
    for run in runs:
        data, shots, seed = (run.results[key] for key in ("data", "shots", "seed"))
        fitting = [n for n in needs if (n.data, n.shots, n.settings) == (data, shots, ()) and n not in taken]
        if not fitting:
            wanted = sorted({f"{need.data} with {need.shots} shots" for need in needs})
            raise TrackInputError(
                f"expected a run that {name} can be compared with ({', '.join(wanted) or 'none'}), each once, got "
                f"{data} with {shots} shots in {run.folder}; choose another table or another run"
            )
        model = run.results.get("model")
        taken[min(fitting, key=lambda need: (need.model != model, need.seed != seed))] = run
    return taken


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
