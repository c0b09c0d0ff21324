"""Reads a Kaputt 2 submission back and names everything that is wrong with it."""

import csv
import io
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from tracks.submission.contents import FAULTS, Problem, members

HEADER = ("capture_id", "pred")
SHOWN = 5
"""How many lines of one kind of problem are named one by one."""


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
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return [Problem("encoding", name, f"expected UTF-8, got: {error}")]
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return [Problem("unreadable", name, f"expected a csv, got: {error}")]
    if tuple(header) != HEADER:  # a byte-order mark is part of the first name, and so refused here
        return [Problem("header", name, f"expected {','.join(HEADER)}, got {','.join(header)!r}")]
    wrong: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if (found := _check_row(row)) is not None:
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


def _check_row(row: list[str]) -> tuple[str, str] | None:
    if len(row) != len(HEADER):
        return "columns", f"expected two values, got {len(row)}"
    try:
        value = float(row[1])
    except ValueError:
        return "number", f"expected a number, got {row[1][:40]!r}"
    if not math.isfinite(value):
        return "number", f"expected a finite number, got {row[1][:40]!r}"
    return None if 0 <= value <= 1 else ("range", f"expected pred in [0, 1], got {row[1][:40]!r}")


def _some(kind: str, name: str, texts: list[str]) -> list[Problem]:
    """A problem for each of the first texts, one more that counts the rest."""
    found = [Problem(kind, name, text) for text in texts[:SHOWN]]
    more = len(texts) - SHOWN
    return [*found, Problem(kind, name, f"{more} more like these")] if more > 0 else found
