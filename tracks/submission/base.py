"""What every format of a submission does with finished runs: write a folder, and check the archive made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tracks.errors import TrackInputError

Range = tuple[float, float]
SCALING = {
    "fixed": "inductive: by a range fixed beforehand",
    "category_minmax": "transductive: by the smallest and largest value of the category's whole test set",
}
"""The values of `normalise` in formats whose maps have a fixed range, and the label of each."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file of a submission; `kind` is one word, `text` a phrase for people."""

    kind: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.text}"


class Submission(Protocol):
    """The images of one or several runs in one format; made of the runs' stores and the options of that format."""

    suffix: str
    """That of the archive, ".zip" or ".tar.gz"."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What was done to the numbers, for the reader of a result."""

    def write(self, folder: Path) -> list[str]:
        """Fill an empty folder, one map in memory at a time; returns what the user should know, a sentence each.

        Raises:
            TrackInputError: a value that is not finite, or that the format cannot hold.
        """

    def check(self, archive: Path) -> list[Problem]:
        """Read the archive (or the folder) back; returns what is wrong with it."""


def checked_range(key: str, bounds: Any, or_null: bool = False) -> Range | None:
    """The setting `key` as a pair low < high or None; TrackInputError for anything else."""
    if bounds is None:
        return None
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        null = ", or null" if or_null else ""
        raise TrackInputError(f"expected {key}=[low,high] with low < high{null}, got {list(bounds)}")
    return bounds[0], bounds[1]
