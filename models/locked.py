"""One process at a time: the lock on a run folder, a training cache or a download."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


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
