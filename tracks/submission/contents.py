"""What lies in a submission, read file by file without unpacking, and what is wrong with its names and its tables."""

import csv
import gzip
import io
import math
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
from tqdm import tqdm

from tracks.datasets.archives import StrictInfo
from tracks.submission.base import Problem

FAULTS = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, tarfile.TarError)
"""What a damaged, truncated or encrypted archive makes the standard library raise."""

Wrong = tuple[str, str]
"""(kind, text) of what is wrong with one file."""


@dataclass(frozen=True)
class Member:
    """One file or folder of a submission; `content` is None for a folder and where `wrong` says why there is none."""

    name: str
    content: bytes | None = None
    wrong: Wrong | None = None


def members(path: Path) -> Iterator[Member]:
    """Every file and folder below a folder or in a .zip or .tar.gz, in one pass, one content in memory at a time.

    Raises:
        One of `FAULTS`: the archive as a whole cannot be read (on).
    """
    if path.is_dir():
        yield from _of_folder(path)
    elif zipfile.is_zipfile(path):
        yield from _of_zip(path)
    else:
        yield from _of_tar(path)


def check_contents(
    path: Path, expected: Collection[str], check: Callable[[str, bytes], Wrong | None], inside: str | None = None
) -> list[Problem]:
    """Everything wrong with the submission at `path`: names by `expected`, each content by `check(name, content)`.

    With `inside` every name in an archive must begin with that one folder, which is then left away; "" takes whatever
    folder comes first. Kinds: unreadable, link, root, extra, duplicate, missing, and those of `check`.
    """
    wanted = set(expected)
    parents = {parent.as_posix() for name in wanted for parent in PurePosixPath(name).parents} - {"."}
    rooted = inside is not None and not path.is_dir()
    seen: Counter[str] = Counter()
    problems = []
    try:
        for member in tqdm(members(path), desc="read back", total=len(wanted), unit="file"):
            name, wrong = member.name, None
            if rooted:
                root, _, name = member.name.partition("/")
                inside = inside or root
                wrong = None if root == inside else ("root", f"expected everything below the one folder {inside}/")
            wrong = wrong or _check_member(member, name, wanted, parents, check)
            seen[name] += member.content is not None or member.wrong is not None
            if wrong is not None:
                problems.append(Problem(wrong[0], member.name, wrong[1]))
    except FAULTS as error:
        return [*problems, Problem("unreadable", str(path), f"expected a whole folder, .zip or .tar.gz, got: {error}")]
    problems += [Problem("missing", name, "no such file") for name in sorted(wanted - seen.keys())]
    return problems + [
        Problem("duplicate", name, f"{times} files of this name") for name, times in seen.items() if times > 1
    ]


def _check_member(
    member: Member, name: str, wanted: set[str], parents: set[str], check: Callable[[str, bytes], Wrong | None]
) -> Wrong | None:
    if member.wrong is not None:
        return member.wrong
    if member.content is None:
        return None if name in parents | {""} else ("extra", "a folder that belongs to no image")
    return check(name, member.content) if name in wanted else ("extra", "belongs to no image")


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink():
            yield Member(name, wrong=("link", "expected a file, got a link"))
        elif file.is_dir():
            yield Member(name)
        else:
            yield Member(name, file.read_bytes())


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.rstrip("/")
            if entry.is_dir():
                yield Member(name)
                continue
            try:
                yield Member(name, archive.read(entry))
            except FAULTS as error:
                yield Member(name, wrong=("unreadable", str(error)))


def _of_tar(path: Path) -> Iterator[Member]:
    with (
        gzip.open(path) as packed,  # tarfile's own "r|gz" neither compares checksums nor sees every truncation
        tarfile.open(fileobj=packed, mode="r|", tarinfo=StrictInfo) as archive,  # a stream: unpacked once, in any order
    ):
        for entry in archive:
            name = entry.name.removeprefix("./").rstrip("/")
            if entry.isdir():
                yield Member(name)
            elif not entry.isfile():
                yield Member(name, wrong=("link", "expected a file, got a link or a device"))
            else:
                content = archive.extractfile(entry)
                assert content is not None
                yield Member(name, content.read())
        while packed.read(1 << 20):  # to the end, where the checksum stands
            pass


def read_png(content: bytes) -> tuple[str, np.ndarray]:
    """The mode and the pixels of a PNG; a damaged one makes Pillow raise whatever its bytes lead it into."""
    with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return image.mode, np.asarray(image)


def read_table(content: bytes, header: Sequence[str], encoding: str = "utf-8") -> tuple[list[list[str]], Wrong | None]:
    """The rows of a csv below its `header`; none, and what is wrong, where it cannot be read or has another header."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        return [], ("encoding", f"expected UTF-8, got: {error}")
    try:
        found, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        return [], ("unreadable", f"expected a csv, got: {error}")
    if tuple(found) != tuple(header):  # a byte-order mark is part of the first name, unless the encoding takes it off
        return [], ("header", f"expected {','.join(header)}, got {','.join(found)!r}")
    return rows, None


def wrong_row(row: Sequence[str], low: float = -math.inf, high: float = math.inf) -> Wrong | None:
    """What is wrong with a name and a finite number in [low, high], the two values of a line."""
    if len(row) != 2:
        return "columns", f"expected two values, got {len(row)}"
    try:
        value = float(row[1])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return "number", f"expected a finite number, got {row[1][:40]!r}"
    return None if low <= value <= high else ("range", f"expected pred in [{low:g}, {high:g}], got {row[1][:40]!r}")
