"""log.txt of a run folder: when a command began, what was logged and warned of meanwhile, how it ended."""

import logging
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path

RUN_LOG = "log.txt"
FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NEVER = logging.CRITICAL + 1
_keeping: ContextVar[MemoryHandler | None] = ContextVar("log", default=None)


@contextmanager
def kept_log() -> Iterator[None]:
    """Keep what is logged while the block lasts, for the folder that `log_into` names; without one nothing is written.

    What is on the screen stays as it is. Python's own warnings are kept too.
    """
    kept = MemoryHandler(capacity=10_000, flushLevel=NEVER)
    token, shown = _keeping.set(kept), warnings.showwarning
    logging.getLogger().addHandler(kept)
    warnings.showwarning = partial(_show_and_keep, shown)
    note(f"begun: {shlex.join(sys.argv)}")
    try:
        yield
        note("finished")
    except BaseException as error:
        kept.handle(_record(logging.ERROR, f"ended by {type(error).__name__}", error))
        raise
    finally:
        warnings.showwarning = shown
        logging.getLogger().removeHandler(kept)
        _keeping.reset(token)
        if kept.target:
            kept.flush()
            kept.target.close()
        kept.close()


def log_into(folder: Path) -> None:
    """Write what was logged since the command began, and from now on all that is, to the end of the folder's log."""
    if kept := _keeping.get():
        file = logging.FileHandler(folder / RUN_LOG, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter(FORM))
        kept.setTarget(file)
        kept.flushLevel = logging.NOTSET
        kept.flush()


def note(text: str) -> None:
    """Write a line into the log of the run, not on the screen."""
    if kept := _keeping.get():
        kept.handle(_record(logging.INFO, text))


def _record(level: int, text: str, error: BaseException | None = None) -> logging.LogRecord:
    raised = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("vandkit", level, "", 0, text, None, raised)


def _show_and_keep(shown, message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    """As `warnings.showwarning`, which `shown` is."""
    shown(message, category, filename, lineno, file, line)
    if kept := _keeping.get():
        kept.handle(_record(logging.WARNING, f"{filename}:{lineno}: {category.__name__}: {message}"))
