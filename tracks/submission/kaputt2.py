"""The format of the VAND 4.0 retail track (Kaputt 2): one csv with a score for each capture, zipped.

    predictions.csv      header `capture_id,pred`; pred in [0, 1], higher = more likely a defect; each capture once

Source: the track's kit. Assumed, as no source states it: any name of the csv is taken (`csv_name`), and the image of a
capture is found in `query-test.parquet` by the file name in `image_column`. Without that table a file's stem is its
capture_id, and whether all captures are there cannot be told.
"""

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from tracks.command.paths import below
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row
from tracks.submission.base import Problem, Range, checked_range
from tracks.submission.contents import FAULTS, members, read_table, wrong_row
from tracks.submission.runs import StoredImage, check_same_method, scale, stored_images

HEADER = ("capture_id", "pred")
ID = HEADER[0]
SHOWN = 5
"""How many lines of one kind of problem are named one by one."""


@dataclass(frozen=True)
class Options:
    """What the format leaves open.

    `ids` is query-test.parquet (or the same table as .csv); `image_column` of it names the images that the run was
    made on. `score_range` are the scores that become 0 and 1; null for the smallest and largest of those submitted,
    which are statistics of the test set and leave every ranking as it is.
    """

    ids: str | None = None
    image_column: str = "query_crop"
    csv_name: str = "predictions.csv"
    score_range: Range | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "score_range", checked_range("kaputt2.score_range", self.score_range, or_null=True))
        if not self.csv_name.endswith(".csv") or "/" in self.csv_name:
            raise TrackInputError(f"expected kaputt2.csv_name to be a name ending in .csv, got {self.csv_name!r}")


class Submission:
    """The scores of one or several runs, ready to be written."""

    suffix = ".zip"

    def __init__(self, stores: Sequence[PredictionStore], options: Options) -> None:
        """Find the capture of each image.

        Raises:
            TrackInputError: unlike runs, a table that cannot be read, an image that is not in it or a capture twice.
        """
        check_same_method(stores)
        self.options = options
        captures = read_captures(Path(options.ids).expanduser(), options.image_column) if options.ids else None
        self.images = stored_images(stores, lambda _, row: _capture(row, captures, options))
        self.ids = sorted(set(captures.values())) if captures is not None else None

    @property
    def record(self) -> dict[str, object]:
        """What was done to the numbers, for the reader of a result."""
        if self.options.score_range is None:
            scores = "transductive: the model's, by the smallest and largest of the whole test set"
        else:
            scores = f"the model's, {self.options.score_range[0]:g} to {self.options.score_range[1]:g} as 0 to 1"
        return {"format": "kaputt2", "scores": scores, "captures": self.options.ids or "the stems of the file names"}

    def write(self, folder: Path) -> list[str]:
        """Write the csv into `folder`; returns what the user should know.

        Raises:
            TrackInputError: a score that is not finite, or outside the range, where cutting would make ties.
        """
        scores = [image.row.image_score for image in self.images]
        bounds = self.options.score_range or (min(scores), max(scores))
        with below(folder, self.options.csv_name).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(HEADER)
            for image in self.images:
                table.writerow((image.target, f"{_scaled(image, bounds):.9g}"))
        return self._remarks()

    def check(self, archive: Path) -> list[Problem]:
        """What is wrong with the archive, by the captures of the table (or those of the runs)."""
        return validate(archive, self.ids if self.ids is not None else [image.target for image in self.images])

    def _remarks(self) -> list[str]:
        if self.ids is None:
            return [
                "without query-test.parquet (kaputt2.ids) it is not known whether these are all captures, nor whether "
                "the file names are their ids"
            ]
        lacking = sorted(set(self.ids) - {image.target for image in self.images})
        return [f"{len(lacking)} of {len(self.ids)} captures are in no run, {lacking[0]} first"] if lacking else []


def read_captures(path: Path, image_column: str) -> dict[str, str]:
    """The capture_id of each image's file name, by a table with the columns capture_id and `image_column`.

    Raises:
        TrackInputError: the table cannot be read, lacks a column, or gives one file name two captures.
    """
    try:
        read = pd.read_csv if path.suffix == ".csv" else pd.read_parquet
        table = read(path, dtype=str) if path.suffix == ".csv" else read(path)
    except ImportError as error:
        raise TrackInputError(
            f"expected a reader of parquet files for {path}, got none ({error}); install pyarrow, or give the same "
            "table as a .csv"
        ) from error
    except (OSError, ValueError) as error:
        raise TrackInputError(
            f"expected the table of the captures at {path}, got: {error}; name query-test.parquet or a .csv of it with "
            "ARGS=kaputt2.ids=file"
        ) from error
    lacking = [column for column in (ID, image_column) if column not in table.columns]
    if lacking:
        raise TrackInputError(
            f"expected the columns {ID} and {image_column} in {path}, got {', '.join(map(str, table.columns))}; choose "
            "the column of the images with ARGS=kaputt2.image_column=name"
        )
    captures: dict[str, str] = {}
    for capture, image in zip(table[ID].astype(str), table[image_column].astype(str), strict=True):
        name = PurePosixPath(image.replace("\\", "/")).name
        if captures.setdefault(name, capture) != capture:
            raise TrackInputError(
                f"expected one capture for each file name in {path}, got {captures[name]} and {capture} for {name}; "
                "choose another kaputt2.image_column"
            )
    return captures


def _capture(row: Row, captures: dict[str, str] | None, options: Options) -> str:
    path = PurePosixPath(row.name)
    if captures is None:
        return path.stem
    if path.name not in captures:
        raise TrackInputError(
            f"expected {row.name} among the images of {options.ids} (column {options.image_column}), got no such file "
            "name; run the track on the images of that column, or choose another with kaputt2.image_column"
        )
    return captures[path.name]


def _scaled(image: StoredImage, bounds: Range) -> float:
    score = float(scale(np.asarray(image.row.image_score), bounds, image, "image score"))
    if not 0 <= score <= 1:
        raise TrackInputError(
            f"expected the image score of {image.row.name} within {list(bounds)}, got {image.row.image_score:.6g}; set "
            "ARGS='kaputt2.score_range=[low,high]' to what the model's scores reach or, transductive, "
            "kaputt2.score_range=null"
        )
    return score


def validate(path: Path, ids: Collection[str]) -> list[Problem]:
    """Everything wrong with the submission at `path` (a zip or a folder); `ids` are all captures of the test set.

    Kinds of problem: unreadable, link, folder, extra, missing, encoding, header, columns, number, range, unknown,
    duplicate; a `missing` names the file, or the captures that the file lacks.
    """
    tables: dict[str, bytes] = {}
    problems = []
    try:
        for member in members(path):
            if member.wrong is not None:
                problems.append(Problem(member.wrong[0], member.name, member.wrong[1]))
            elif member.content is None or "/" in member.name:
                problems.append(Problem("folder", member.name, "expected one csv at the top and no folder"))
            elif not member.name.endswith(".csv") or tables:
                problems.append(Problem("extra", member.name, "expected one csv and nothing else"))
            else:
                tables[member.name] = member.content
    except FAULTS as error:
        return [Problem("unreadable", str(path), f"expected a zip or a folder, got: {error}")]
    if not tables and not problems:
        problems.append(Problem("missing", str(path), "expected one csv, got none"))
    return problems + [problem for name, content in tables.items() for problem in _check_table(name, content, ids)]


def _check_table(name: str, content: bytes, ids: Collection[str]) -> list[Problem]:
    rows, unread = read_table(content, HEADER)
    if unread is not None:
        return [Problem(unread[0], name, unread[1])]
    wrong: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if (found := wrong_row(row, 0, 1)) is not None:
            wrong.setdefault(found[0], []).append(f"line {number}: {found[1]}")
    captures = Counter(row[0] for row in rows if row)
    wrong |= {
        kind: listed
        for kind, listed in {
            "unknown": [f"no capture {name!r} in the test set" for name in sorted(captures.keys() - set(ids))],
            "missing": [f"no line for capture {name!r}" for name in sorted(set(ids) - captures.keys())],
            "duplicate": [f"{times} lines for {name!r}" for name, times in captures.items() if times > 1],
        }.items()
        if listed
    }
    return [problem for kind, texts in wrong.items() for problem in _some(kind, name, texts)]


def _some(kind: str, name: str, texts: list[str]) -> list[Problem]:
    """A problem for each of the first texts, one more that counts the rest."""
    found = [Problem(kind, name, text) for text in texts[:SHOWN]]
    more = len(texts) - SHOWN
    return [*found, Problem(kind, name, f"{more} more like these")] if more > 0 else found
