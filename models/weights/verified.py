"""Fetched files whose content was verified before, so that gigabytes are not hashed at every start."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from models.weights.cache import weights_folder

FILE = "verified.json"


def is_verified(path: Path, digest: str) -> bool:
    """Whether a file had this digest when it was last hashed, and has kept its size, time of change and inode since."""
    return _read().get(str(path.absolute())) == _mark(path, digest)


def remember(path: Path, digest: str) -> None:
    """Note that a file has this digest; without a word where the cache folder cannot be written."""
    known = {**_read(), str(path.absolute()): _mark(path, digest)}
    record = weights_folder() / FILE
    partial = record.with_name(f"{FILE}.{os.getpid()}")
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(record)


def _mark(path: Path, digest: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, digest]


def _read() -> dict[str, Any]:
    try:
        known = json.loads((weights_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: everything is hashed once more
        return {}
    return known if isinstance(known, dict) else {}
