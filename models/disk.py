"""The disk: files that are there whole or not at all, room asked for before it is needed, one process at a time."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

SPARE_BYTES = 64 << 20
"""So much stays free when a download or an archive has taken what it needs."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; what is written there takes the place of `path` when the block ends.

    A kill leaves the old content or the new; after an error (a full disk, an interrupt) the half of it is deleted.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file of bytes, or of text in UTF-8, so that a kill leaves the old content or the new.

    Of names that are no UTF-8 a .csv keeps the bytes, other texts show the escapes.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape" if path.suffix == ".csv" else "backslashreplace")
    with replaced(path) as part:
        part.write_bytes(content)


def append_line(path: Path, line: bytes) -> None:
    """Add a line, ending in a line feed, to a file; one before it that a kill cut short is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def lacking_room(folder: Path, num_bytes: int, spare_bytes: int = SPARE_BYTES) -> str:
    """What is wrong if the disk of `folder` lacks room for so many bytes and the spare ones; "" if it has room."""
    free, wanted = shutil.disk_usage(folder).free, num_bytes + spare_bytes
    return f"expected {wanted / 1e9:.2f} GB free in {folder}, got {free / 1e9:.2f} GB" if free < wanted else ""


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock` for as long as this process lives at most; waits, and says so, where another one has it.

    The file is gone afterwards; filelock sees to it that nobody goes on waiting at one that was deleted.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.warning("another process is at %s; waiting for it to end", what)
        held.acquire()
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()
