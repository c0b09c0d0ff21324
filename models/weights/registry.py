"""Weight files by name: what they are, where they lie, and that they are what they should be.

`python -m models.weights` lists and fetches them; `python -m models.weights.registry --record tiny`, after retraining,
notes the new size and sha256 of the shipped files so named.
"""

import argparse
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from models.disk import write_atomically
from models.errors import ModelInputError, closest_name, hint
from models.weights.cache import hugging_face_copy, weights_folder
from models.weights.digest import git_blob_of, sha256_of
from models.weights.download import Wanted, download
from models.weights.learnt import learn, recall
from models.weights.transfer import Patience
from models.weights.verified import is_verified, remember

log = logging.getLogger(__name__)

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
_verified: set[tuple[str, int, int, str]] = set()
"""Of this process; `models.weights.verified` remembers fetched files for longer."""


@dataclass(frozen=True)
class WeightFile:
    """One entry of catalogue.yaml: a file that ships with the project (`file`) or that is fetched (`url`).

    `sha256` is over the content; `git_blob`, where only that is known, is git's own SHA-1 of it. `mirrors` are
    tried after `url`; `groups` are names for several files at once.
    """

    name: str
    what: str
    licence: str
    source: str
    file: str | None = None
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def path(self) -> Path:
        """Where the file lies: beside the catalogue, or in the folder of fetched files."""
        if self.file:
            return CATALOGUE.parent / self.file
        return weights_folder() / f"{self.name}{Path(self.url or '').suffix}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to fetch it from, in order of preference."""
        return (self.url, *self.mirrors) if self.url else ()

    @property
    def known(self) -> "WeightFile":
        """The entry with the size and sha256 learnt on first use, where the catalogue has no digest."""
        learnt = None if self.file or self.sha256 or self.git_blob else recall(self.name)
        return replace(self, size=learnt.size, sha256=learnt.sha256) if learnt else self


def catalogue() -> dict[str, WeightFile]:
    """All entries by name."""
    entries = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8")) or {}
    return {name: _entry(name, fields) for name, fields in entries.items()}


def _entry(name: str, fields: dict[str, Any]) -> WeightFile:
    lists: dict[str, Any] = {key: tuple(fields.get(key, ())) for key in ("mirrors", "groups")}
    return WeightFile(name=name, **(fields | lists))


def weights_path(name: str) -> Path:
    """The verified file of a catalogue entry: our own, or the copy in Hugging Face's cache.

    Raises:
        ModelInputError: no such entry, no such file, or a file of another size or content than recorded.
    """
    entries = catalogue()
    if name not in entries:
        raise ModelInputError(f"expected a name of the weights catalogue, got {name!r}; {_suggest(name, entries)}")
    entry = entries[name]
    if not entry.path.is_file():
        if copy := copy_elsewhere(entry):
            return copy
        raise ModelInputError(f"expected the weights {name!r} at {entry.path}, found no file; {_remedy(entry)}")
    verify(entry, entry.path)
    return entry.path


def copy_elsewhere(entry: WeightFile) -> Path | None:
    """The copy of a file in Hugging Face's own cache, if it is there and is what was recorded."""
    for copy in filter(None, map(hugging_face_copy, entry.addresses)):
        try:
            verify(entry, copy)
        except ModelInputError as error:
            log.warning("passed over: %s", error)
        else:
            return copy
    return None


def find_weights(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a catalogue name (verified) or a path (which must exist).

    Raises:
        ModelInputError: neither, or a catalogue file that is missing or not what was recorded.
    """
    entries = catalogue()
    if str(name_or_path) in entries:
        return weights_path(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise ModelInputError(
        f"expected a weights file or a name of the weights catalogue, got {str(name_or_path)!r}, which is neither; "
        f"check the path, or {_suggest(str(name_or_path), entries)}"
    )


def fetch(name: str, patience: Patience | None = None, show: bool = False) -> Path:
    """Download the file of a catalogue entry into the folder of fetched files, verify it, return its path.

    Nothing is fetched that is here already, also in Hugging Face's cache.

    Raises:
        ModelInputError: no such entry, an entry without address, a file here that is not what was recorded.
        DownloadError: offline, no room, or no address that serves the recorded content.
    """
    entry = catalogue().get(name)
    if entry is None or entry.url is None:
        fetchable = [entry.name for entry in catalogue().values() if entry.url]
        raise ModelInputError(
            f"expected the name of a file to fetch, got {name!r}{hint(name, fetchable)}; can be fetched: "
            f"{', '.join(fetchable)}"
        )
    if not entry.path.is_file() and (copy := copy_elsewhere(entry)):
        return copy
    known = entry.known
    download(Wanted(name, entry.addresses, entry.path, known.size, known.sha256, known.git_blob), patience, show)
    verify(entry, entry.path)
    return entry.path


def record(prefix: str) -> list[str]:
    """Write the present size and sha256 of the shipped files whose entry begins with `prefix` into the catalogue.

    Returns the names recorded; everything else in the catalogue, comments too, stays as it is.
    """
    text = CATALOGUE.read_text(encoding="utf-8")
    shipped = [entry for entry in catalogue().values() if entry.file and entry.path.suffix != ".json"]
    entries = [entry for entry in shipped if entry.name.startswith(prefix)]
    for entry in entries:
        if not entry.path.is_file():
            raise ModelInputError(f"expected {entry.path} to record it, found no file; write it first")
        text = _with_values(text, entry.name, entry.path.stat().st_size, _sha256(entry.path))
    write_atomically(CATALOGUE, text)
    return [entry.name for entry in entries]


def _with_values(text: str, name: str, size: int, sha256: str) -> str:
    block = re.compile(rf"^{re.escape(name)}:\n(?:(?: .*)?\n)*", re.MULTILINE)

    def fill(match: re.Match[str]) -> str:
        sized = re.sub(r"^  size:.*$", f"  size: {size}", match[0], flags=re.MULTILINE)
        return re.sub(r"^  sha256:.*$", f"  sha256: {sha256}", sized, flags=re.MULTILINE)

    return block.sub(fill, text, count=1)


def verify(entry: WeightFile, path: Path, again: bool = False) -> None:
    """Compare size and digest with the entry, once per state of the file; learn what nobody has published.

    What was verified is remembered, also for later processes if it was fetched; `again` hashes it all the same.
    Configurations (.json) have no digest.

    Raises:
        ModelInputError: another size or content than recorded, or a shipped file that was never recorded.
    """
    if path.suffix == ".json":
        return
    if not (entry.file or entry.sha256 or entry.git_blob or recall(entry.name)):
        learnt = learn(entry.name, path)
        log.warning("%s: no sha256 is published; learnt %s from %s", entry.name, learnt.sha256, path)
    entry = entry.known
    status = path.stat()
    digest = entry.sha256 or entry.git_blob or ""
    key = (str(path), status.st_mtime_ns, status.st_size, digest)
    if not again and (key in _verified or (entry.url and digest and is_verified(path, digest))):
        return
    if not digest:
        raise ModelInputError(
            f"expected a sha256 for {entry.name!r} in {CATALOGUE}, found none, so {path} cannot be verified; record "
            f"it with `python -m models.weights.registry --record {entry.name}`, or name the file by its path"
        )
    if entry.size is not None and status.st_size != entry.size:
        kind = "is truncated" if status.st_size < entry.size else "was replaced"
        raise ModelInputError(
            f"expected {path} ({entry.name!r} of the weights catalogue) to have {entry.size:,} bytes, got "
            f"{status.st_size:,}: the file {kind}; {_remedy(entry, path)}"
        )
    expected, got = (entry.sha256, _sha256(path)) if entry.sha256 else (entry.git_blob, git_blob_of(path))
    if got != expected:
        raise ModelInputError(
            f"expected {path} ({entry.name!r} of the weights catalogue) to have the digest {expected}, got {got}: the "
            f"content was changed or damaged; {_remedy(entry, path)}"
        )
    _verified.add(key)
    if entry.url:
        remember(path, digest)


def _remedy(entry: WeightFile, wrong: Path | None = None) -> str:
    if entry.url:
        again = f"delete {wrong} and " if wrong else ""
        return (
            f"{again}fetch it with `make weights WEIGHTS={entry.name}` or `python -m models.weights.registry --fetch "
            f"{entry.name}` (from {entry.url})"
        )
    return (
        f"it ships with the project: restore it with `git checkout -- {entry.path}`, or after retraining record it "
        f"with `python -m models.weights.registry --record {entry.name}`"
    )


def _suggest(name: str, entries: dict[str, WeightFile]) -> str:
    near = closest_name(name, entries, likeness=0.5)
    return f"did you mean {near!r}?" if near else f"the catalogue has: {', '.join(entries)}"


def _sha256(path: Path) -> str:
    return sha256_of(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """List, fetch or record weight files."""
    parser = argparse.ArgumentParser(prog="python -m models.weights.registry", description=main.__doc__)
    parser.add_argument("--fetch", metavar="NAME", help="download one file and check it")
    parser.add_argument("--record", metavar="PREFIX", help="note the size and sha256 of the shipped files so named")
    options = parser.parse_args(arguments)
    try:
        if options.fetch:
            print(fetch(options.fetch, show=True))
        elif options.record:
            print("recorded:", ", ".join(record(options.record)) or "nothing (no shipped file is so named)")
        else:
            for entry in catalogue().values():
                state = "here" if entry.path.is_file() else "not here"
                print(f"{entry.name:24} {state:9} {entry.licence:12} {entry.what}")
    except ModelInputError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
