"""Weight files by name: what they are, where they lie, that they are as recorded, and what fetches the missing ones.

`vandkit weights` (make weights) lists, fetches, checks and records them.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from models.disk import write_atomically
from models.errors import ModelInputError, closest_name, hint
from models.weights.cache import hugging_face_copy, weights_folder
from models.weights.digests import Expected, digest_of, remember, trust, trusted
from models.weights.download import Wanted, download

log = logging.getLogger(__name__)

CATALOGUE = Path(__file__).with_name("catalogue.yaml")


@dataclass(frozen=True)
class WeightFile:
    """One entry of catalogue.yaml: a file that ships with the project (`file`) or that is fetched (`url`).

    `sha256` is over the content; `git_blob`, where only that is known, is git's own SHA-1 of it. `mirrors` are
    tried after `url`; `groups` are names for several files at once. `restricted` says of a licence that
    restricts the use how, and is announced when the file is used.
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
    restricted: str | None = None

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
    def expected(self) -> Expected:
        """What is recorded of the content, or trusted since its first use where the catalogue has no digest."""
        first = None if self.file or self.sha256 or self.git_blob else trusted(self.name)
        return first or Expected(self.size, self.sha256, self.git_blob)


def catalogue() -> dict[str, WeightFile]:
    """All entries by name."""
    return dict(_entries(CATALOGUE.read_text(encoding="utf-8")))


@cache
def _entries(text: str) -> dict[str, WeightFile]:
    return {name: _entry(name, fields) for name, fields in (yaml.safe_load(text) or {}).items()}


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
            _announce_entry(entry)
            return copy
        raise ModelInputError(f"expected the weights {name!r} at {entry.path}, found no file; {_remedy(entry)}")
    verify(entry, entry.path)
    _announce_entry(entry)
    return entry.path


def _announce_entry(entry: WeightFile) -> None:
    if entry.restricted:
        announce(entry.name, f"{entry.licence}: {entry.restricted}")


@cache
def announce(name: str, terms: str) -> None:
    """Warn, once, of weights whose licence restricts their use."""
    log.warning("the weights %s stand under %s", name, terms)


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


def fetch(name: str) -> Path:
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
    download(Wanted(name, entry.addresses, entry.path, entry.expected))
    verify(entry, entry.path)
    return entry.path


def verify(entry: WeightFile, path: Path, again: bool = False) -> None:
    """Compare size and digest with the entry, once per state of the file; trust on first use what nobody has published.

    What was verified is remembered, also for later processes if it was fetched; `again` hashes it all the same.
    Configurations (.json) have no digest.

    Raises:
        ModelInputError: another size or content than recorded, or a shipped file that was never recorded.
    """
    if path.suffix == ".json":
        return
    expected = entry.expected
    if not expected.digest and entry.file:
        raise ModelInputError(
            f"expected a sha256 for {entry.name!r} in {CATALOGUE}, found none, so {path} cannot be verified; record "
            f"it with `vandkit weights --record {entry.name}`, or name the file by its path"
        )
    if not expected.digest:
        expected = trust(entry.name, path)
        log.warning("%s: no sha256 is published; %s is trusted on first use", entry.name, expected.sha256)
    if wrong := expected.difference(path, again):
        raise ModelInputError(
            f"expected {path} ({entry.name!r} of the weights catalogue) to have {wrong[0]}, got {wrong[1]}; "
            f"{_remedy(entry, path)}"
        )
    if entry.url:
        remember(path, expected.digest)


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
        text = _with_values(text, entry.name, entry.path.stat().st_size, digest_of(entry.path))
    write_atomically(CATALOGUE, text)
    return [entry.name for entry in entries]


def _with_values(text: str, name: str, size: int, sha256: str) -> str:
    block = re.compile(rf"^{re.escape(name)}:\n(?:(?: .*)?\n)*", re.MULTILINE)

    def fill(match: re.Match[str]) -> str:
        sized = re.sub(r"^  size:.*$", f"  size: {size}", match[0], flags=re.MULTILINE)
        return re.sub(r"^  sha256:.*$", f"  sha256: {sha256}", sized, flags=re.MULTILINE)

    return block.sub(fill, text, count=1)


def missing_files(config: Any) -> list[WeightFile]:
    """The fetched files of the catalogue that a plain container names anywhere in it and that are not here."""
    entries = catalogue()
    named = [entries[text] for text in dict.fromkeys(texts_in(config)) if text in entries]
    return [entry for entry in named if entry.url and not entry.path.is_file() and not copy_elsewhere(entry)]


def named_files(config: Any) -> list[Path]:
    """The weight files that a plain container names, as catalogue entries or paths, as far as they are here."""
    entries = catalogue()
    found: list[Path] = []
    for text in dict.fromkeys(texts_in(config)):
        entry = entries.get(text)
        path = Path(text).expanduser() if entry is None else entry.path
        if entry is not None and not path.is_file():
            path = copy_elsewhere(entry) or path
        found += [path] if len(text) < 1024 and path.is_file() else []
    return found


def refuse_missing(config: Any) -> None:
    """Say of all missing files at once where they were looked for and what fetches them.

    Raises:
        ModelInputError: at least one is missing.
    """
    missing = missing_files(config)
    if not missing:
        return
    names, folder = ", ".join(entry.name for entry in missing), missing[0].path.parent
    gigabytes = sum(entry.size or 0 for entry in missing) / 1e9
    raise ModelInputError(
        f"expected the weights {names} in {folder}, found no such file{'s' if len(missing) > 1 else ''}; "
        f"{how_to_fetch(missing)} ({gigabytes:.2f} GB), or name files of your own"
    )


def how_to_fetch(missing: Sequence[WeightFile]) -> str:
    """The command that fetches some files: by the smallest group that has them all, if there are several."""
    names = {entry.name for entry in missing}
    groups: dict[str, set[str]] = {}
    for entry in catalogue().values():
        for group in entry.groups:
            groups.setdefault(group, set()).add(entry.name)
    fitting = [group for group, members in groups.items() if names <= members]
    if len(names) > 1 and fitting:
        return f"`make weights WEIGHTS={min(fitting, key=lambda group: len(groups[group]))}` fetches them"
    if len(names) == 1:
        return f"`make weights WEIGHTS={missing[0].name}` fetches it"
    return f'`make weights WEIGHTS="{" ".join(entry.name for entry in missing)}"` fetches them'


def texts_in(node: Any) -> Iterator[str]:
    """Every string below a plain container."""
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ():
        yield from texts_in(child)


def _remedy(entry: WeightFile, wrong: Path | None = None) -> str:
    if entry.url:
        again = f"delete {wrong} and " if wrong else ""
        return f"{again}fetch it with `make weights WEIGHTS={entry.name}` (from {entry.url})"
    return (
        f"it ships with the project: restore it with `git checkout -- {entry.path}`, or after retraining record it "
        f"with `vandkit weights --record {entry.name}`"
    )


def _suggest(name: str, entries: dict[str, WeightFile]) -> str:
    near = closest_name(name, entries, likeness=0.5)
    return f"did you mean {near!r}?" if near else f"the catalogue has: {', '.join(entries)}"
