"""What readers share of how folders are laid out: names in another spelling, and what is left out, said in one line."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracks.datasets.files import list_folders, list_images
from tracks.datasets.formats import passed_over
from tracks.datasets.notices import leave_out
from tracks.datasets.photos import files_in, find_images, walk
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

MASK_FOLDERS = ("ground_truth", "gt", "masks", "mask")
"""Names of folders of masks; MVTec's own stands first."""


def inner_folder(folder: Path, *names: str) -> Path:
    """The folder of the first of these names that is there, in whatever spelling: `Ground_Truth` and `groundtruth` too.

    The path by the first name where there is none.

    Raises:
        TrackInputError: one name in two spellings.
    """
    for name in names:
        alike = [inner for inner in _folders(folder) if same_name(inner.name, name)]
        exact = [inner for inner in alike if inner.name == name]
        if len(alike) > 1 and not exact:
            raise TrackInputError(f"expected one folder {name} in {folder}, got {alike[0].name} and {alike[1].name}")
        if alike:
            return (exact or alike)[0]
    return folder / names[0]


def same_name(one: str, other: str) -> bool:
    """Whether two names of folders differ by case, blanks, hyphens and underscores at most."""
    return _plain(one) == _plain(other)


def is_mask_folder(name: str) -> bool:
    """Whether a folder is called like one of masks."""
    return any(same_name(name, known) for known in MASK_FOLDERS)


@dataclass
class LeftOut:
    """What a reader finds and does not use, gathered while it lists and said once, in one line."""

    files: list[Path] = field(default_factory=list)
    others: dict[str, list[Path]] = field(default_factory=dict)

    def look_at(self, folders: Iterable[Path]) -> None:
        """Note the files of these folders that are no images."""
        self.files += [path for folder in folders if folder.is_dir() for path in files_in(folder)]

    def add(self, what: str, paths: Iterable[Path]) -> None:
        """Note files or folders; `what` says in the plural what they are: "masks without an image"."""
        if found := list(paths):
            self.others.setdefault(what, []).extend(found)

    def say(self, root: Path) -> None:
        """Warn of all that was noted, if anything was."""
        counts = [f"{len(paths):,} {what} ({paths[0]} first)" for what, paths in self.others.items()]
        for what, paths in self.others.items():
            leave_out(what, paths)
        if said := "; ".join(filter(None, [passed_over(self.files), *counts])):
            log.warning("passed over in %s: %s", root, said)


def images_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """The images of a folder and those deeper in it; folders of masks inside it are left out."""
    masks = [inner for inner in walk(folder) if inner != folder and is_mask_folder(inner.name)]
    left_out.add("folders of masks among the images", masks)
    left_out.look_at(walk(folder, skipped=masks))
    return find_images(folder, skipped=masks)


def with_images(folders: Iterable[Path]) -> list[Path]:
    """Those of the folders that hold an image, however deep."""
    return [folder for folder in folders if any(list_images(place) for place in walk(folder))]


def _folders(folder: Path) -> Sequence[Path]:
    return list_folders(folder) if folder.is_dir() else ()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " -_")
