"""Reads a CSIG submission back, zipped or as a folder, and names everything that is wrong with it."""

import csv
import io
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import PIL.Image

from tracks.submission.contents import Problem, Wrong, check_contents

TABLE, MASKS = "submission.csv", "predicted_masks"
HEADER = ("group_folder", "anomaly_score")
SIDE, VIEWS = 448, 5


def mask_file(sample: str, view: int) -> str:
    """Where the map of a view goes."""
    return f"{MASKS}/{sample}/{view}_mask.png"


def validate(path: Path, samples: Collection[str], size: int = SIDE, views: int = VIEWS) -> list[Problem]:
    """Everything wrong with the submission at `path` (a zip or a folder); an empty list if it is right.

    `samples` are those of the test set, "<category>/<sample>". A csv with or without a byte-order mark is right, as for
    the kit's own reader. Kinds of problem: unreadable, link, extra, duplicate, missing, dtype, shape, encoding, header,
    columns, number, unknown, lacking (a sample without a line), twice (a sample with several).
    """
    expected = [TABLE, *(mask_file(sample, view) for sample in samples for view in range(views))]
    wrong_lines: list[Problem] = []

    def check(name: str, content: bytes) -> Wrong | None:
        if name != TABLE:
            return _check_mask(content, size)
        wrong_lines.extend(Problem(kind, TABLE, text) for kind, text in _check_table(content, samples))
        return None

    return check_contents(path, expected, check) + wrong_lines


def _check_mask(content: bytes, size: int) -> Wrong | None:
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode, shape = image.mode, np.asarray(image).shape
    except Exception as error:  # a damaged file makes Pillow raise whatever its bytes lead it into
        return "unreadable", f"expected a PNG, got: {error}"
    if mode != "L":
        return "dtype", f"expected 8-bit grey, got mode {mode}"
    return None if shape == (size, size) else ("shape", f"expected ({size}, {size}), got {shape}")


def _check_table(content: bytes, samples: Collection[str]) -> list[Wrong]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [("encoding", f"expected UTF-8, got: {error}")]
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return [("unreadable", f"expected a csv, got: {error}")]
    if tuple(header) != HEADER:
        return [("header", f"expected {','.join(HEADER)}, got {','.join(header)!r}")]
    wrong = [(found[0], f"line {n}: {found[1]}") for n, row in enumerate(rows, start=2) if (found := _check_row(row))]
    named = Counter(row[0] for row in rows if row)
    wrong += [("unknown", f"no sample {name!r} in the test set") for name in sorted(named.keys() - set(samples))]
    wrong += [("lacking", f"no line for {name!r}") for name in sorted(set(samples) - named.keys())]
    return wrong + [("twice", f"{times} lines for {name!r}") for name, times in named.items() if times > 1]


def _check_row(row: list[str]) -> Wrong | None:
    if len(row) != len(HEADER):
        return "columns", f"expected two values, got {len(row)}"
    try:
        finite = math.isfinite(float(row[1]))
    except ValueError:
        finite = False
    return None if finite else ("number", f"expected a finite number, got {row[1][:40]!r}")
