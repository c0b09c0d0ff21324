"""`FileSample`, a sample whose image and mask are files, and what every reader of folders needs."""

import filecmp
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from tracks.command.names import missing_path, unknown
from tracks.command.paths import leads_out
from tracks.datasets.formats import IMAGE_SUFFIXES, is_image
from tracks.datasets.images import image_size, read_image
from tracks.datasets.masks import Oddity, defects, level_oddities, read_levels
from tracks.datasets.notices import notice, refuse
from tracks.errors import TrackInputError

RUN_KEYS = frozenset(("track", "trained_on"))
"""One of them stands in every run.json of a track, of predict or of a training."""
SUBMISSION_KEYS = frozenset(("format", "maps"))
"""Both stand in the record of every submission that holds pictures."""


@dataclass(frozen=True)
class FileSample:
    """An image file with what is known of it; `label`, `defect_type` and `name` as in `Sample`.

    `mask_path` is None where no mask is known; `mask_above` is the level (0 to 255) above which the mask
    marks a defect; `bit_depth` tells how to read 16-bit files (`images.read_image`). With `more_masks` a
    pixel is defective where any of the masks marks it.
    """

    name: str
    category: str
    label: int | None
    defect_type: str
    path: Path
    mask_path: Path | None = None
    mask_above: float = 0
    bit_depth: int | None = None
    more_masks: tuple[Path, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Size and time of change of the image file and the mask files."""
        files = [self.path] if self.mask_path is None else [self.path, self.mask_path, *self.more_masks]
        return " ".join(_size_and_time(path) for path in files)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture, from the file's header alone."""
        height, width = image_size(self.path)
        return width, height

    def load_image(self) -> Image:
        """The picture in RGB; TrackInputError names a file that does not decode."""
        return read_image(self.path, self.bit_depth)

    def load_mask(self) -> np.ndarray | None:
        """(H, W) bool of the image's size: all False for a normal image, None where no mask is known.

        Raises:
            TrackInputError: a mask that does not decode, has another size than its image, marks no pixel or is noisy.
        """
        if self.label == 0:
            return np.zeros(image_size(self.path), dtype=bool)
        if self.label is None or self.mask_path is None:
            return None
        mask, oddities = defects(self.path, [self.mask_path, *self.more_masks], self.mask_above)
        _refuse_or_say(oddities)
        return mask


def list_images(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The image files directly in a folder, hidden ones left out, each once, in natural order (2 before 10).

    None where there is no such folder.
    """
    suffixes = tuple(suffixes)
    images = (path for path in _content(folder) if is_image(path, suffixes) and not path.is_dir())
    return sorted(_once(sorted(images)), key=natural_key)


def _once(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that differ from one before in the spelling of the name alone, with the same content.

    Spelling is the case of letters and the form in which Unicode writes accents.
    """
    paths, kept = list(paths), dict[str, list[Path]]()
    if len({_spelled(path) for path in paths}) == len(paths):
        return paths
    for path in paths:
        alike = kept.setdefault(_spelled(path), [])
        if not any(filecmp.cmp(path, other, shallow=False) for other in alike):
            alike.append(path)
    return [path for alike in kept.values() for path in alike]


def _spelled(path: Path) -> str:
    return unicodedata.normalize("NFC", path.name).casefold()


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in a folder, if there is one, without hidden ones and those of runs, in natural order."""
    folders = (path for path in _content(folder) if path.is_dir() and not path.name.startswith("."))
    return sorted((path for path in folders if not is_run_folder(path)), key=natural_key)


def _content(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def is_run_folder(folder: Path) -> bool:
    """Whether a command of this project wrote the folder: its run.json tells, or a submission's record beside it."""
    run, submission = _keys(folder / "run.json"), _keys(Path(f"{folder}.json"))
    return not RUN_KEYS.isdisjoint(run) or submission >= SUBMISSION_KEYS


def _keys(path: Path) -> set[str]:
    """The keys of a JSON object; none if there is no such file, or another content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def natural_key(path: Path) -> tuple[str, str]:
    """Sorts paths by name with numbers by value and before letters; equal ones ("1" and "01") by spelling.

    A number is written as a zero character, which no name holds, its number of digits, and these: a text of 0.1 KB in
    place of a list of parts, of which a million would take a GB.
    """
    return re.sub("[0-9]+", _by_value, str(path)), str(path)


def _by_value(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"


def existing_folder(kind: str, folder: str | Path) -> Path:
    """The folder as a path; TrackInputError with the nearest name if there is none."""
    path = Path(folder).expanduser()
    if path.is_dir():
        run = next((place for place in (path, *path.resolve().parents) if is_run_folder(place)), None)
        if run is not None:
            raise TrackInputError(
                f"expected {kind}, got {path}, which holds what a command of this project wrote (to {run}); give "
                "another folder"
            )
        return path
    if path.exists():
        raise TrackInputError(f"expected {kind} at {path}, got a file; give the folder that holds it")
    raise missing_path(kind, path)


def category_name(name: object) -> str:
    """The name of a category as a user gives it; TrackInputError for a number, nothing, or what leads out of a run."""
    if not isinstance(name, str) or leads_out(name):
        raise TrackInputError(f"expected the name of the category as text, got {name!r}; write a number in quotes")
    return name


def mask_rule(above: float) -> str:
    """How a mask threshold reads in a protocol, for example "> 127"."""
    if isinstance(above, bool) or not isinstance(above, int | float) or not 0 <= above < 255:
        raise TrackInputError(f"expected mask_above to be a level from 0 to 254, got {above!r}; 0 and 127 are usual")
    return f"> {above:g}"


def unique_stems(images: Iterable[Path], kind: str) -> dict[str, Path]:
    """Images by their name without the suffix; two files that share it are refused."""
    by_stem: dict[str, Path] = {}
    for path in images:
        if path.stem in by_stem:
            refuse(f"expected one {kind} for {path.stem}, got {by_stem[path.stem]} and {path}; remove one")
        by_stem.setdefault(path.stem, path)
    return by_stem


def labelled_by_mask(image: Path, mask: Path, root: Path, category: str, above: float) -> FileSample:
    """A sample of a set whose labels stand in its masks: a defect where a level of the mask is above `above`."""
    name, defect = image.relative_to(root).as_posix(), _marks(mask, above)
    if not defect:
        return FileSample(name, category, 0, "good", image)
    return FileSample(name, category, 1, "defect", image, mask, above)


def _marks(mask: Path, above: float) -> bool:
    try:
        levels = read_levels(mask)
    except TrackInputError as error:
        refuse(str(error))
        return True
    _refuse_or_say(level_oddities(levels, mask, above))
    return bool((levels.values > above).any())


def _refuse_or_say(oddities: Iterable[Oddity]) -> None:
    """Raise the first oddity that is refused; mention the others."""
    oddities = list(oddities)
    for oddity in oddities:
        if oddity.refused:
            refuse(oddity.text)
    for oddity in oddities:
        notice(oddity.text, oddity.path)


def chosen_categories(wanted: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The wanted categories in the order given, all if None or empty; TrackInputError names one that is unknown."""
    known = list(known)
    for category in wanted or ():
        if category not in known:
            raise unknown("category", category, known)
    return tuple(dict.fromkeys(wanted or known))


def listed_samples(samples: Mapping[str, list[FileSample]], category: str) -> list[FileSample]:
    """A copy of what is listed for a category; TrackInputError names one that is unknown."""
    if category not in samples:
        raise unknown("category", category, samples)
    return list(samples[category])


def references_of(samples: Mapping[str, list[FileSample]], category: str, place: str | Path) -> list[FileSample]:
    """The normal images of a category, from which references are drawn; TrackInputError if there are none."""
    if found := listed_samples(samples, category):
        return found
    raise TrackInputError(
        f"expected normal images of {category} in {place}, from which references are drawn, got none; "
        "put them there, or run the zero-shot track (shots=0)"
    )


def _size_and_time(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise missing_path("a file of the data set", path) from error
    return f"{status.st_size}-{status.st_mtime_ns}"
