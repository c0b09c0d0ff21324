"""A user's own photos: folders and files of images with no labels and no layout."""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from tracks.command.names import unknown
from tracks.datasets.files import FileSample, category_name, existing_folder, natural_key
from tracks.datasets.formats import endings, is_image, passed_over
from tracks.datasets.images import common_bit_depth
from tracks.datasets.layout import files_in, find_images, walk
from tracks.datasets.remote import address_of, remote_photos
from tracks.datasets.video import frames_of, is_video
from tracks.errors import TrackInputError
from tracks.run.references import distinct, warn_of_judged_references

log = logging.getLogger(__name__)

REFERENCE_PREFIX = "references/"
"""Stands before the names of reference images, so that they never equal a photo's."""

LEAST_SIDE = 4
"""A picture with fewer pixels along a side shows nothing: no verdict rests on it."""


class Photo(FileSample):
    """An image file that may be judged."""

    def load_image(self) -> Image:
        """The picture in RGB; TrackInputError names a file that does not decode, or hardly has a pixel."""
        image = super().load_image()
        if min(image.size) < LEAST_SIDE:
            raise TrackInputError(
                f"expected a photo of {LEAST_SIDE} or more pixels along each side, got {self.path} of {image.width} x "
                f"{image.height}; take it away, or copy the file again from its source"
            )
        return image


class Photos:
    """Every image in `root` (and below, if `recursive`), unlabelled, under one category name.

    `root` is a folder, a file, a pattern as `photos/*.png`, or several of them; photos are then named by their path
    below the innermost folder that holds all of them. Of a clip that is named itself every n-th frame, at most
    `frames` of them, is a photo (`video.frames_of`); clips in folders are passed over. One address as
    `s3://bucket/photos` stands alone; its photos are fetched when they are read, and have no common bit depth.
    `references` is a folder of photos of good parts; it may lie inside `root` and is then not judged itself. Copies
    among the references count once, photos that are copies of references are mentioned.
    Hidden folders, run folders of this project and those in `exclude` are passed over. Without `bit_depth` all 16-bit
    photos, references among them, are read by the one depth that the largest of their values needs.
    """

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        category: str = "object",
        recursive: bool = True,
        references: str | Path | None = None,
        exclude: Sequence[str | Path] = (),
        bit_depth: int | None = None,
        every: int = 1,
        frames: int | None = None,
    ) -> None:
        """List the photos.

        Raises:
            TrackInputError: no such folder, or no image in it.
        """
        self.name = "photos"
        self.categories = (category_name(category),)
        self.protocol: dict[str, str | int | float | bool] = {"labels": "none"}
        self._recursive, self._every, self._frames = recursive, every, frames
        good = None if references is None else existing_folder("the folder of references", references)
        skipped = [Path(path).expanduser() for path in exclude] + ([good] if good else [])
        self._test = self._list(given_paths(root), "", None, skipped)
        self._train = self._list([good], REFERENCE_PREFIX, 0, []) if good else []
        depth = bit_depth or common_bit_depth(
            [each.path for each in self._train + self._test if not (is_video(each.path) or address_of(each.path))]
        )
        self._test = [replace(sample, bit_depth=depth) for sample in self._test]
        self._train = [replace(sample, bit_depth=depth) for sample in distinct(self._train)]
        warn_of_judged_references(self._train, self._test)

    def train(self, category: str) -> list[FileSample]:
        """The photos of good parts; TrackInputError if no folder of them was given."""
        self._check(category)
        if not self._train:
            raise TrackInputError("expected a folder of photos of good parts, got none; name one as REFERENCES=folder")
        return list(self._train)

    def test(self, category: str) -> list[FileSample]:
        """All photos, folder by folder, in natural order."""
        self._check(category)
        return list(self._test)

    def _check(self, category: str) -> None:
        if category not in self.categories:
            raise unknown("category", category, self.categories)

    def _list(self, given: Sequence[Path], prefix: str, label: int | None, skipped: Sequence[Path]) -> list[FileSample]:
        if address := address_of(given[0]):
            if len(given) > 1:
                raise TrackInputError(f"expected one address alone, got {_listed(given)}; judge them one after another")
            return remote_photos(address, self.categories[0], self._recursive)
        paths: list[Path] = []
        others: list[Path] = []
        for path in (match for each in given for match in _matches(each)):
            if path.is_dir():
                paths += find_images(path, self._recursive, skipped)
                others += [file for place in walk(path, self._recursive, skipped) for file in files_in(place)]
            else:
                (paths if is_image(path) or is_video(path) else others).append(path)
        folder, said = common_folder(given), passed_over(others)
        if not paths:
            raise TrackInputError(
                f"expected images in {_listed(given)} (files ending in {endings()}), got "
                f"{f'only {said}' if said else 'none'}; "
                "give the folder that holds them, or convert them to one of these"
            )
        if said:
            log.warning("passed over in %s: %s", folder, said)
        kind = "" if label is None else "good"
        named = {prefix + Path(os.path.relpath(path, folder)).as_posix(): path for path in paths}  # each once
        category, samples = self.categories[0], list[FileSample]()
        for name, path in named.items():
            if is_video(path):
                samples += frames_of(path, name, category, self._every, self._frames)
            else:
                samples.append(Photo(name, category, label, kind, path))
        return samples


def given_paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """One path or several, as paths."""
    return [Path(each).expanduser() for each in ([given] if isinstance(given, str | Path) else given)]


def common_folder(given: Sequence[Path]) -> Path:
    """The innermost folder that holds all of these folders, files and patterns; of one folder that itself."""
    if len(given) == 1:
        return _folder_of(given[0])
    return Path(os.path.commonpath([_folder_of(path).absolute() for path in given]))


def _folder_of(path: Path) -> Path:
    """A folder itself, what a file lies in, the part of a pattern before its first part with a wildcard."""
    if path.is_file():
        return path.parent
    return path if path.exists() else next((place for place in (path, *path.parents) if not _is_pattern(place)), path)


def _is_pattern(path: Path) -> bool:
    return not path.exists() and glob.has_magic(str(path))


def _matches(path: Path) -> list[Path]:
    """A folder or file that is there; of a pattern what fits it.

    Raises:
        TrackInputError: nothing is there, or it was written by a command of this project.
    """
    kind = "the folder of photos"
    if not _is_pattern(path):
        place = path.parent if path.is_file() else path
        existing_folder(kind, place)
        return [path]
    existing_folder(kind, _folder_of(path))
    found = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural_key)
    if not found:
        raise TrackInputError(f"expected photos at {path}, found none that fits; check the pattern")
    return found


def _listed(given: Sequence[Path]) -> str:
    more = f" and {len(given) - 3} more" if len(given) > 3 else ""
    return ", ".join(str(path) for path in given[:3]) + more
