"""Digests of files: taken once, compared with what is recorded, or trusted on first use where nobody has published one.

In the folder of fetched weights stand `verified.json` (files that were hashed and found right, so that gigabytes are
not hashed at every start) and `learnt_digests.json` (what is trusted on first use and enforced from then on).
"""

import contextlib
import functools
import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.disk import alone, write_atomically
from models.errors import ModelInputError
from models.weights.cache import weights_folder

PIECE = 1 << 20
VERIFIED, TRUSTED = "verified.json", "learnt_digests.json"


@dataclass(frozen=True)
class Expected:
    """What is recorded of a file: size in bytes, sha256, or git's own SHA-1 of a blob; None where not known."""

    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def digest(self) -> str:
        """The digest to compare with, "" if none is known."""
        return self.sha256 or self.git_blob or ""

    def difference(self, path: Path, again: bool = False) -> tuple[str, str] | None:
        """(expected, got) in words where a file is another one, else None; hashed once, or `again`."""
        status = path.stat()
        if not again and self.digest and _read(VERIFIED).get(str(path.absolute())) == _mark(path, self.digest):
            return None
        if self.size is not None and status.st_size != self.size:
            kind = "is truncated" if status.st_size < self.size else "was replaced"
            return f"{self.size:,} bytes", f"{status.st_size:,}: the file {kind}"
        if again:
            _digest.cache_clear()
        if self.digest and (got := digest_of(path, git=not self.sha256)) != self.digest:
            return f"the digest {self.digest}", f"{got}: the content was changed or damaged"
        return None


def digest_of(path: Path, git: bool = False) -> str:
    """The sha256 of a file, or what `git hash-object` prints for it; hashed once while the file stays the same."""
    status = path.stat()
    return _digest(path.absolute(), status.st_mtime_ns, status.st_size, status.st_ino, git)


@functools.lru_cache
def _digest(path: Path, mtime_ns: int, size: int, inode: int, git: bool) -> str:
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def remember(path: Path, digest: str) -> None:
    """Note for later processes that a file has this digest, as long as it keeps its size, time of change and inode."""
    known, mark = _read(VERIFIED), _mark(path, digest)
    if known.get(str(path.absolute())) != mark:
        with contextlib.suppress(OSError):  # a cache folder that cannot be written: hashed again next time
            _write(VERIFIED, {**known, str(path.absolute()): mark})


def trusted(name: str) -> Expected | None:
    """What is trusted of a file since its first use, or None.

    Raises:
        ModelInputError: the record cannot be read.
    """
    fields = _trusted().get(name)
    return Expected(int(fields["size"]), str(fields["sha256"])) if fields else None


def trust(name: str, path: Path) -> Expected:
    """Record the size and sha256 of a file that is used for the first time."""
    first = Expected(path.stat().st_size, digest_of(path))
    with _alone():
        _write(TRUSTED, {**_trusted(), name: {"size": first.size, "sha256": first.sha256}})
    return first


def forget(name: str) -> bool:
    """Drop what is trusted of a file, so that the next one fetched is; whether there was anything."""
    with _alone():
        known = _trusted()
        found = known.pop(name, None) is not None
        if found:
            _write(TRUSTED, known)
    return found


def _alone() -> AbstractContextManager[None]:
    path = weights_folder() / TRUSTED
    return alone(path.with_name(path.name + ".lock"), f"the digests in {path}")


def _trusted() -> dict[str, dict[str, int | str]]:
    path = weights_folder() / TRUSTED
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not all({"size", "sha256"} <= set(fields) for fields in known.values()):
            raise ValueError("an entry lacks size or sha256")
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelInputError(
            f"expected {path} to hold the digests trusted on first use, got: {error}; delete it if you trust the files "
            "that lie beside it, and they are recorded anew"
        ) from error
    return dict(known)


def _mark(path: Path, digest: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, digest]


def _read(record: str) -> dict[str, Any]:
    try:
        known = json.loads((weights_folder() / record).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: everything is hashed once more
        return {}
    return known if isinstance(known, dict) else {}


def _write(record: str, known: dict[str, Any]) -> None:
    path = weights_folder() / record
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
