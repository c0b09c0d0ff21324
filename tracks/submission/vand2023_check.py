"""Reads a VAND 2023 submission back, zipped or as a folder, and names everything that is wrong with it."""

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracks.submission.contents import Problem

ARRAY = "img"
SCORE_TEXT = re.compile(r"[01]\.\d{5}")


def validate(path: Path, expected: Mapping[str, Sequence[str]], map_size: int = 400) -> list[Problem]:
    """Everything wrong with the submission at `path` (a zip or a folder); an empty list if it is right.

    `expected` maps each folder that holds `classification/` and `segmentation/`, such as
    "4shot/0/bottle/Unknown", to the stems of its images. Maps must be (map_size, map_size).
    Kinds of problem: missing, extra, duplicate, unreadable, name, dtype, shape, number, range, format.
    """
    try:
        with _opened(path) as (names, read):
            return _check_files(names, read, expected, map_size)
    except (OSError, zipfile.BadZipFile) as error:
        return [Problem("unreadable", str(path), f"expected a zip or a folder, got: {error}")]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of all files, relative with forward slashes, and a reader; nothing is unpacked to the disk."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()]
        yield names, lambda name: (path / name).read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            yield [member.filename for member in archive.infolist() if not member.is_dir()], archive.read


def _check_files(
    names: Sequence[str], read: Callable[[str], bytes], expected: Mapping[str, Sequence[str]], map_size: int
) -> list[Problem]:
    scores = {f"{folder}/classification/{stem}.txt" for folder, stems in expected.items() for stem in stems}
    maps = {f"{folder}/segmentation/{stem}.npz" for folder, stems in expected.items() for stem in stems}
    found = Counter(names)
    problems = [Problem("missing", name, "no such file") for name in sorted((scores | maps) - found.keys())]
    problems += [Problem("extra", name, "belongs to no image") for name in sorted(found.keys() - scores - maps)]
    problems += [
        Problem("duplicate", name, f"{times} files of this name") for name, times in found.items() if times > 1
    ]
    for name in tqdm(sorted(found.keys() & (scores | maps)), desc="read back", unit="file"):
        try:
            content = read(name)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            problems.append(Problem("unreadable", name, str(error)))
            continue
        found_wrong = _check_score(content) if name in scores else _check_map(content, map_size)
        if found_wrong is not None:
            problems.append(Problem(found_wrong[0], name, found_wrong[1]))
    return problems


def _check_score(content: bytes) -> tuple[str, str] | None:
    """(kind, text) of what is wrong with a score file, None if nothing is."""
    text = content.decode("ascii", errors="replace")
    try:
        value = float(text)
    except ValueError:
        return "number", f"expected one number, got {text[:40]!r}"
    if not np.isfinite(value):
        return "number", f"expected a finite number, got {text[:40]!r}"
    if not 0 <= value <= 1:
        return "range", f"expected a score in [0, 1], got {text[:40]!r}"
    if not SCORE_TEXT.fullmatch(text):
        return "format", f"expected five decimals and no newline, got {text[:40]!r}"
    return None


def _check_map(content: bytes, map_size: int) -> tuple[str, str] | None:
    """(kind, text) of what is wrong with a map file, None if nothing is."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if arrays.files != [ARRAY]:
                return "name", f"expected one array named {ARRAY!r}, got {arrays.files}"
            pixels = arrays[ARRAY]
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own for a damaged file
        return "unreadable", f"expected an .npz, got: {error}"
    if pixels.dtype != np.uint8:
        return "dtype", f"expected uint8, got {pixels.dtype}"
    if pixels.shape != (map_size, map_size):
        return "shape", f"expected ({map_size}, {map_size}), got {pixels.shape}"
    return None
