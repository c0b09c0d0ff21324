"""What is known of the public data sets: where they come from, how many images they hold, what their licences allow.

The entries stand in registry.yaml beside this file, one for each set, named like its file in conf/data.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

REGISTRY = Path(__file__).with_name("registry.yaml")
COUNTED = ("train", "test", "test_normal", "test_anomalous", "all")
"""What totals may count."""
CommercialUse = Literal["allowed", "forbidden", "not stated"]
_announced: set[str] = set()


@dataclass(frozen=True)
class Archive:
    """One file to download; size in bytes and sha256 (in small letters) are None where nobody recorded them."""

    file: str
    urls: tuple[str, ...]
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class DatasetEntry:
    """One public data set. `totals` holds numbers of images by category, "" for all, and by what is `COUNTED`."""

    name: str
    title: str
    categories: int
    layout: str
    splits: Mapping[str, str]
    totals: Mapping[str, Mapping[str, int]]
    totals_source: str
    licence: str
    commercial_use: CommercialUse
    citation: str
    page: str
    archives: tuple[Archive, ...]
    by_hand: str


@functools.cache
def registry() -> dict[str, DatasetEntry]:
    """All entries by name."""
    return read_registry(REGISTRY)


def read_registry(path: Path) -> dict[str, DatasetEntry]:
    """The entries of a registry file.

    Raises:
        TrackInputError: an entry that lacks a key, has one too many, or counts what is not counted.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {name: _entry(name, fields, path) for name, fields in content.items()}


def licence_notice(name: str) -> str | None:
    """One line on a licence that forbids commercial use; None for other sets, and for names nobody knows."""
    entry = registry().get(name)
    if entry is None or entry.commercial_use != "forbidden":
        return None
    return f"licence of {entry.title} (data {name}): {entry.licence}, no commercial use; see {entry.page}"


def announce_licence(name: str) -> None:
    """Warn of a licence that forbids commercial use, once in a process for each set; `name` as in `Dataset.name`."""
    notice = licence_notice(name)
    if notice is not None and name not in _announced:
        _announced.add(name)
        log.warning("%s", notice)


def _entry(name: str, fields: Mapping[str, Any], path: Path) -> DatasetEntry:
    try:
        archives = tuple(_archive(archive) for archive in fields["archives"])
        entry = DatasetEntry(**{**fields, "name": name, "archives": archives})
    except (TypeError, KeyError) as error:
        raise TrackInputError(
            f"expected the keys of DatasetEntry for {name} in {path}, got {error}; mend it"
        ) from error
    strange = [key for counts in entry.totals.values() for key in counts if key not in COUNTED]
    if strange or entry.commercial_use not in ("allowed", "forbidden", "not stated"):
        got = strange[0] if strange else entry.commercial_use
        raise TrackInputError(
            f"expected totals of {', '.join(COUNTED)} and commercial_use allowed, forbidden or not stated for {name} "
            f"in {path}, got {got!r}; mend it"
        )
    return entry


def _archive(fields: Mapping[str, Any]) -> Archive:
    return Archive(**{**fields, "urls": tuple(fields["urls"])})
