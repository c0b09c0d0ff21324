"""The verdict on a photo, and the lists of them: predictions.csv and predictions.jsonl."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.disk import replaced
from tracks.decide.threshold import UNDECIDED, Threshold

UNREADABLE = "unreadable"
UNSURE = "unsure: between the threshold and the highest reference"
TAKEN = "taken as a reference"
PENDING = "the threshold comes from all photos, once they are scored"
CSV_FILE = "predictions.csv"
COLUMNS = ("file", "score", "verdict", "threshold", "map", "overlay", "note", "milliseconds")
JSON_FILE = "predictions.jsonl"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""By which Excel knows UTF-8."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one photo; the files are relative to the output folder, `score` is None if unreadable.

    `photo_file` is a copy for browsers of a photo that they do not show as it is.

    `own_reference` says that the model took the photo as a reference of the others.

    `milliseconds` is the model's time, `regions` where a defect is: see `find_regions`.
    """

    name: str
    verdict: str
    score: float | None = None
    map_file: str = ""
    overlay_file: str = ""
    thumb_file: str = ""
    photo_file: str = ""
    note: str = ""
    milliseconds: float | None = None
    regions: tuple[dict[str, Any], ...] = ()
    own_reference: bool = False

    def __str__(self) -> str:
        score = " " * 6 if self.score is None else f"{self.score:.4f}"
        note = f"  ({self.note})" if self.note and self.score is not None else ""  # a broken file's is long
        line = f"{score}  {self.verdict:<10}  {self.name}{note}"
        return line.encode(errors="replace").decode()  # a name that is no valid Unicode must not stop the run

    def by(self, threshold: Threshold | None) -> "Verdict":
        """The same photo judged by a threshold; undecided without one."""
        if self.score is None:
            return self
        verdict, note = UNDECIDED, PENDING
        if threshold is not None:
            verdict = threshold.verdict(self.score)
            unsure = threshold.is_unsure(self.score) and not threshold.undecided
            note = "; ".join([TAKEN] * self.own_reference + [UNSURE] * unsure)
        return self if (verdict, note) == (self.verdict, self.note) else replace(self, verdict=verdict, note=note)


def write_csv(path: Path, verdicts: Iterable[Verdict], threshold: Threshold) -> None:
    """Write predictions.csv, row by row."""
    with replaced(path) as part, part.open("wb") as file:
        file.write(BYTE_ORDER_MARK + csv_line(COLUMNS))
        file.writelines(csv_line(cells(verdict, threshold)) for verdict in verdicts)


def csv_line(cells: Iterable[str]) -> bytes:
    """One row; a file name that is no valid Unicode comes out as the bytes it has."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode("utf-8", "surrogateescape")


def cells(verdict: Verdict, threshold: Threshold | None) -> list[str]:
    """The values of `COLUMNS`; nine digits give a float32 back exactly, so the verdict follows from them."""
    score = "" if verdict.score is None else f"{verdict.score:.9g}"
    value = "" if threshold is None else f"{threshold.value:.9g}"
    time = "" if verdict.milliseconds is None else f"{verdict.milliseconds:g}"
    return [verdict.name, score, verdict.verdict, value, verdict.map_file, verdict.overlay_file, verdict.note, time]


def write_json_lines(path: Path, verdicts: Iterable[Verdict], threshold: Threshold) -> None:
    """Write predictions.jsonl: an object a photo, a line each; names that are no valid Unicode as escapes."""
    with replaced(path) as part, part.open("wb") as file:
        file.writelines(json.dumps(_said(verdict, threshold)).encode() + b"\n" for verdict in verdicts)


def _said(verdict: Verdict, threshold: Threshold) -> dict[str, Any]:
    return {
        "file": verdict.name, "score": verdict.score, "verdict": verdict.verdict, "threshold": threshold.value,
        "milliseconds": verdict.milliseconds, "regions": list(verdict.regions), "note": verdict.note,
    }  # fmt: skip
