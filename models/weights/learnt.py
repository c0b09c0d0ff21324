"""Digests learnt on first use, for files whose sha256 nobody has published: recorded once, enforced from then on."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from models.disk import alone, write_atomically
from models.errors import ModelInputError
from models.weights.cache import weights_folder
from models.weights.digest import sha256_of

FILE = "learnt_digests.json"


@dataclass(frozen=True)
class Learnt:
    """Size in bytes and sha256 of a file when it was first used."""

    size: int
    sha256: str


def learnt_file() -> Path:
    """Where the learnt digests stand: in the folder of fetched weights."""
    return weights_folder() / FILE


def recall(name: str) -> Learnt | None:
    """What was learnt of a file, or None.

    Raises:
        ModelInputError: the record cannot be read.
    """
    fields = _read().get(name)
    return Learnt(int(fields["size"]), str(fields["sha256"])) if fields else None


def learn(name: str, path: Path) -> Learnt:
    """Record the size and sha256 of a file that is used for the first time."""
    learnt = Learnt(path.stat().st_size, sha256_of(path))
    with _alone():
        _write({**_read(), name: {"size": learnt.size, "sha256": learnt.sha256}})
    return learnt


def forget(name: str) -> bool:
    """Drop what was learnt of a file, so that the next one fetched is believed; whether there was anything."""
    with _alone():
        known = _read()
        if name not in known:
            return False
        del known[name]
        _write(known)
        return True


def _alone() -> AbstractContextManager[None]:
    path = learnt_file()
    return alone(path.with_name(path.name + ".lock"), f"the digests in {path}")


def _read() -> dict[str, dict[str, int | str]]:
    path = learnt_file()
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not all({"size", "sha256"} <= set(fields) for fields in known.values()):
            raise ValueError("an entry lacks size or sha256")
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelInputError(
            f"expected {path} to hold the digests learnt on first use, got: {error}; delete it if you trust the files "
            "that lie beside it, and they are learnt anew"
        ) from error
    return dict(known)


def _write(known: dict[str, dict[str, int | str]]) -> None:
    path = learnt_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
