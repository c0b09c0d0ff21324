"""What visitors of the demo page upload: how much, under which names, and why a file is refused."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from tracks.datasets.images import image_size, read_image
from tracks.errors import TrackInputError


@dataclass(frozen=True)
class Limits:
    """What one visitor may upload at a time."""

    photos: int = 50
    references: int = 32
    megabytes: float = 25
    """Of one file."""
    megapixels: float = 40
    """Of one picture, as its header says."""


@dataclass(frozen=True)
class Upload:
    """A file that was dropped on the page, under the name that it has there."""

    name: str
    path: Path


def uploads(paths: Sequence[str | Path] | None) -> list[Upload]:
    """The files with their names, those that come twice numbered."""
    found, met = [], Counter[str]()
    for path in map(Path, paths or ()):
        met[path.name] += 1
        again = met[path.name] > 1
        found.append(Upload(f"{path.name} ({met[path.name]})" if again else path.name, path))
    return found


def check_counts(photos: Sequence[Upload], references: Sequence[Upload], limits: Limits) -> None:
    """Refuse too many files, and none; TrackInputError says what is allowed."""
    if not photos:
        raise TrackInputError("expected photos to judge, got none; drop some on the page")
    for what, given, most in (("photos", photos, limits.photos), ("good parts", references, limits.references)):
        if len(given) > most:
            raise TrackInputError(
                f"expected at most {most} {what} at a time, got {len(given)}; for more use `vandkit predict FOLDER`"
            )


def refusal(upload: Upload, limits: Limits) -> str:
    """Why a file is not even opened, "" if it may be."""
    try:
        megabytes = upload.path.stat().st_size / 1e6
        height, width = image_size(upload.path)
    except (OSError, TrackInputError) as error:
        return str(error).replace(str(upload.path), upload.name)
    if megabytes > limits.megabytes:
        return f"{upload.name}: expected at most {limits.megabytes:g} MB, got {megabytes:.1f}"
    if height * width > limits.megapixels * 1e6:
        return f"{upload.name}: expected at most {limits.megapixels:g} megapixels, got {height * width / 1e6:.0f}"
    return ""


def read(upload: Upload, depth: int | None, limits: Limits) -> PIL.Image.Image:
    """The picture; TrackInputError names the file and says why there is none."""
    if why := refusal(upload, limits):
        raise TrackInputError(why)
    try:
        return read_image(upload.path, depth)
    except TrackInputError as error:
        raise TrackInputError(str(error).replace(str(upload.path), upload.name)) from error


def readable(
    given: Sequence[Upload], depth: int | None, limits: Limits, notes: list[str]
) -> tuple[list[str], list[PIL.Image.Image]]:
    """Names and pictures of the files that can be read; what is wrong with the others is added to the notes.

    Raises:
        TrackInputError: there is none.
    """
    names, pictures = [], []
    for each in given:
        try:
            pictures.append(read(each, depth, limits))
            names.append(each.name)
        except TrackInputError as error:
            notes.append(str(error))
    if not pictures:
        raise TrackInputError(f"not one of the good parts could be read: {'; '.join(notes)}")
    return names, pictures
