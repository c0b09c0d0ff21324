"""A shard of a run: the images that one machine of several judges; the command without `shard` gathers all of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tracks.errors import TrackInputError
from tracks.run.loading import cut
from tracks.run.log_file import note
from tracks.run.store import SETTINGS_FILE, SHARDS, read_settings, refuse_other_run

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1, of `count` parts of nearly equal size."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, images: Mapping[str, Sequence[Item]], batch_size: int) -> dict[str, list[Item]]:
        """Its images by category, of most categories none; what is one batch of the whole run stays one."""
        batches = [(name, batch) for name, each in images.items() for batch in cut(each, batch_size)]
        first, end = (len(batches) * number // self.count for number in (self.number - 1, self.number))
        mine = batches[first:end]
        return {name: list(chain(*(batch for owner, batch in mine if owner == name))) for name in images}

    def folder(self, whole: Path) -> Path:
        """Where its results go, in the folder of the whole run."""
        return whole / SHARDS / f"{self.number}-of-{self.count}"


def read_shard(text: str | None) -> Shard | None:
    """The shard that `shard=2/8` asks for; None for the whole.

    Raises:
        TrackInputError: anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise TrackInputError(f"expected shard as 2/8, from 1/8 to 8/8, got {text!r}; leave it out for the whole run")
    return Shard(int(found[1]), int(found[2]))


def shard_folders(whole: Path, settings: Mapping[str, Any]) -> list[Path]:
    """The folders of the shards that the folder of a run of these settings holds.

    Raises:
        TrackInputError: a shard of a run of other settings.
    """
    found = sorted(path.parent for path in (whole / SHARDS).glob(f"*/{SETTINGS_FILE}"))
    for folder in found:
        theirs = read_settings(folder / SETTINGS_FILE)
        refuse_other_run(folder, {key: value for key, value in theirs.items() if key != "shard"}, dict(settings))
    return found


def predicted_alone(
    shard: Shard, samples: Mapping[str, Sequence[object]], predicted: int, folder: Path
) -> dict[str, Any]:
    """Say what a track has predicted of a shard, and what comes next; results without a table."""
    images = sum(map(len, samples.values()))
    said = f"shard {shard}: {images} images, {predicted} of them predicted now"
    note(said)
    print(f"{said}\nfiles: {folder}; once all shards are there, the same command without shard= scores the run")
    return {"shard": str(shard), "images": images, "categories": {}, "mean": {}, "score": None, "folder": str(folder)}
