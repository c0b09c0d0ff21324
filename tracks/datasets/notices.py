"""What is odd about files but does not stop a run: said when it is first met, counted, and summed up at the end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

log = logging.getLogger(__name__)

_met: dict[str, set[Path]] = {}
_earlier: dict[str, object] = {}
_lock = Lock()  # files are decoded in threads


def notice(kind: str, path: Path) -> None:
    """Warn of a file if it is the first of its kind, else count it; `kind` is a sentence about any such file."""
    with _lock:
        files = _met.setdefault(kind, set())
        first = not files
        files.add(path)
    if first:
        log.warning("%s: %s", path, kind)


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
