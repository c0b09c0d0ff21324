"""What readers share of how folders are laid out: spellings, what lies deeper, which is normal, which mask is whose.

What a reader leaves out is said in one line.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tracks.command.names import listed
from tracks.datasets.files import is_run_folder, list_folders, list_images, natural_key, unique_stems
from tracks.datasets.formats import IMAGE_SUFFIXES, is_image, passed_over
from tracks.datasets.notices import leave_out, refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

MASK_FOLDERS = ("ground_truth", "gt", "masks", "mask")
"""Names of folders of masks; MVTec's own stands first."""
NORMAL_FOLDERS = ("good", "ok", "normal")
"""Names, in any case, of the folder of normal images: "good" is MVTec's, the others stand in sets built like it."""


def inner_folder(folder: Path, *names: str) -> Path:
    """The folder of the first of these names that is there, in whatever spelling: `Ground_Truth` and `groundtruth` too.

    The path by the first name where there is none.

    Raises:
        TrackInputError: one name in two spellings.
    """
    for name in names:
        alike = [inner for inner in list_folders(folder) if same_name(inner.name, name)]
        exact = [inner for inner in alike if inner.name == name]
        if len(alike) > 1 and not exact:
            raise TrackInputError(f"expected one folder {name} in {folder}, got {alike[0].name} and {alike[1].name}")
        if alike:
            return (exact or alike)[0]
    return folder / names[0]


def same_name(one: str, other: str) -> bool:
    """Whether two names of folders differ by case, blanks, hyphens and underscores at most."""
    plain = ["".join(letter for letter in name.casefold() if letter not in " -_") for name in (one, other)]
    return plain[0] == plain[1]


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
        self.files += [path for folder in folders if folder.is_dir() for path in other_files_in(folder)]

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


def find_images(
    folder: Path, recursive: bool = True, skipped: Sequence[Path] = (), suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """The images in a folder and, if `recursive`, below it, each once; see `walk`."""
    found = [path for place in walk(folder, recursive, skipped) for path in list_images(place, suffixes)]
    return sorted(found, key=natural_key)


def walk(folder: Path, recursive: bool = True, skipped: Sequence[Path] = ()) -> Iterator[Path]:
    """The folder and, if `recursive`, those below it: not hidden ones, run folders, those in `skipped`.

    A link to a folder is followed, unless it leads to one that is walked anyway.
    """
    closed = {path.resolve() for path in skipped} - {folder.resolve()}
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for place, inner, _ in (entry for top in waiting for entry in os.walk(top, onerror=_refuse)):
            is_new = Path(place).resolve() not in closed
            if is_new:
                closed.add(Path(place).resolve())
                yield Path(place)
            below = [
                Path(place, name) for name in sorted(inner) if recursive and is_new and _is_open(Path(place, name))
            ]
            links += [path for path in below if path.is_symlink()]
            inner[:] = [path.name for path in below if not path.is_symlink()]
        waiting = links


def other_files_in(folder: Path) -> list[Path]:
    """What lies directly in a folder and is neither an image nor a folder."""
    return [path for path in folder.iterdir() if not is_image(path) and not path.is_dir()]


def _is_open(folder: Path) -> bool:
    return not folder.name.startswith(".") and not is_run_folder(folder)


def _refuse(error: OSError) -> NoReturn:
    """Folders that cannot be listed are not passed over in silence."""
    raise error


def is_called_normal(folder: Path) -> bool:
    """Whether a folder of images has one of the names of normal ones."""
    return folder.name.casefold() in NORMAL_FOLDERS


def check_normal_is_told(kinds: Sequence[Path], folder: Path) -> None:
    """Ask which folders hold normal images where their names do not tell, rather than count good parts as missed.

    A single folder may stand alone if its name is a word: a set of one kind of defect.

    Raises:
        TrackInputError: none of the folders is called like normal images, or one begins like them ("good_2").
    """
    names = [kind.name for kind in kinds]
    doubtful = [name for name in names if any(_begins_like(name, normal) for normal in NORMAL_FOLDERS)]
    alone = len(names) == 1 and len(names[0]) > 2 and names[0][0].isalpha()
    if not names or ((alone or any(is_called_normal(kind) for kind in kinds)) and not doubtful):
        return
    what = f"{doubtful[0]!r}, which may be one of them too" if doubtful else f"no such one but {listed(names)}"
    refuse(
        f"expected to know which folders of {folder} hold normal images (one called {', '.join(NORMAL_FOLDERS)}), got "
        f"{what}; name those of normal images with ARGS='data.normal_folders=[name]', all others are then defects, "
        "or say ARGS='data.normal_folders=[]' if all hold defects"
    )


def _begins_like(name: str, normal: str) -> bool:
    rest = name.casefold().removeprefix(normal)
    return 0 < len(rest) < len(name) and not rest[0].isalpha()


def match_masks(
    images: Sequence[Path], folder: Path, beside: Path | None = None, left_out: LeftOut | None = None
) -> dict[Path, Path | None]:
    """Each image's mask, `<stem>_mask` or `<stem>` with any image suffix; None for all if there is no such folder.

    Images deeper in the folder `beside` have their masks equally deep in `folder`, or straight in it.

    Raises:
        TrackInputError: an image without a mask beside others with one, two masks for an image, or the reverse.
    """
    if not folder.is_dir():
        return dict.fromkeys(images)
    left_out = left_out or LeftOut()
    masks: dict[Path, dict[str, Path]] = {}
    by_place: dict[Path, list[Path]] = {}
    for image in images:
        by_place.setdefault(image.parent.relative_to(beside or image.parent), []).append(image)
    for place, there in by_place.items():
        unique_stems(there, "image")
        masks[place] = unique_stems(list_images(folder / place), "mask")
        left_out.look_at([folder / place])
    straight = unique_stems(list_images(folder), "mask") if len({image.stem for image in images}) == len(images) else {}
    matched = {
        image: _mask_of(image, masks[place] or straight, folder)
        for place, there in by_place.items()
        for image in there
    }  # fmt: skip
    everything = dict.fromkeys(path for of in (*masks.values(), straight) for path in of.values())
    left_out.add("masks without an image", [path for path in everything if path not in matched.values()])
    return {image: matched[image] for image in images}


def _mask_of(image: Path, masks: Mapping[str, Path], folder: Path) -> Path | None:
    found = [masks[stem] for stem in (f"{image.stem}_mask", image.stem) if stem in masks]
    if not found:
        several = (folder / image.stem).is_dir()
        hint = "it has a folder of masks, as in MVTec LOCO: use data=mvtec_loco; else " if several else ""
        refuse(
            f"expected a mask for {image} named {image.stem}_mask.png or {image.stem}.png in {folder}, got none; "
            f"{hint}add it, take the image away, or take the folder of masks away to go without pixel metrics",
            "masks missing", image,
        )  # fmt: skip
        return None
    if len(found) > 1:
        refuse(f"expected one mask for {image}, got {found[0]} and {found[1]}; remove one")
    return found[0]
