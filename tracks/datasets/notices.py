"""What is odd about files: refused; or said when it is first met, counted, and summed up at the end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

_met: dict[str, set[Path]] = {}
_earlier: dict[str, object] = {}
_lock = Lock()  # files are decoded in threads


@dataclass
class Findings:
    """All that a reader refuses, which is the first sentence a run would end with, and all that it leaves out.

    `refused` holds the sentences; `faulty` the files of those that are about one, by what is wrong with it ("masks
    missing"); `left_out` the files that a run passes over, by what they are.
    """

    refused: list[str] = field(default_factory=list)
    faulty: dict[str, list[Path]] = field(default_factory=dict)
    left_out: dict[str, list[Path]] = field(default_factory=dict)


_gathered: ContextVar[Findings | None] = ContextVar("findings", default=None)


@contextmanager
def gathered_findings() -> Iterator[Findings]:
    """Let readers go on after what they refuse, and gather it: the doctor's way to ask a reader what is wrong."""
    token = _gathered.set(findings := Findings())
    try:
        yield findings
    finally:
        _gathered.reset(token)


def refuse(text: str, what: str | None = None, path: Path | None = None) -> None:
    """Raise a TrackInputError of this text, unless findings are gathered; `what` is wrong with the file at `path`."""
    if (findings := _gathered.get()) is None:
        raise TrackInputError(text)
    findings.refused.append(text)
    if what and path:
        findings.faulty.setdefault(what, []).append(path)


def leave_out(what: str, paths: list[Path]) -> None:
    """Note files that a run passes over where findings are gathered; `what` says in the plural what they are."""
    if (findings := _gathered.get()) is not None:
        findings.left_out.setdefault(what, []).extend(paths)


def notice(kind: str, path: Path) -> None:
    """Warn of a file if it is the first of its kind, else count it; `kind` is a sentence about any such file."""
    with _lock:
        files = _met.setdefault(kind, set())
        first = not files
        files.add(path)
    if first:
        log.warning("%s: %s", path, kind)


def met_notices() -> list[tuple[str, Path]]:
    """Kinds and files met so far in this process, and forget them: a worker's way to hand them to the run."""
    with _lock:
        found = [(kind, path) for kind, files in _met.items() for path in files]
        _met.clear()
    return found


def differs_from_earlier(what: str, value: object) -> bool:
    """Whether a value is another than the first one of its kind in this run."""
    with _lock:
        return _earlier.setdefault(what, value) != value


@contextmanager
def counted_notices() -> Iterator[None]:
    """Forget what was met before, and say at the end how many files there were of each kind that had several."""
    _met.clear()
    _earlier.clear()
    try:
        yield
    finally:
        for kind, files in _met.items():
            if len(files) > 1:
                log.warning("%s and %s more: %s", min(files), f"{len(files) - 1:,}", kind)
