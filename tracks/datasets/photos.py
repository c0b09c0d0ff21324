"""A user's own photos: folders and files of images with no labels and no layout."""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import overload

from PIL.Image import Image

from tracks.command.names import unknown
from tracks.datasets.files import FileSample, category_name, existing_folder, natural_key
from tracks.datasets.formats import endings, is_image, passed_over
from tracks.datasets.images import common_bit_depth
from tracks.datasets.layout import find_images, other_files_in, walk
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


class Listed(Sequence[FileSample]):
    """Photos by names and paths alone, 0.2 KB each: a sample is made when it is asked for and then forgotten."""

    def __init__(
        self, names: Sequence[str], paths: Sequence[str], category: str, label: int | None, kind: str,
        bit_depth: int | None = None,
    ) -> None:  # fmt: skip
        self._names, self._paths, self._same = names, paths, (category, label, kind)
        self._bit_depth = bit_depth

    def __len__(self) -> int:
        """How many photos there are."""
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Photo: ...
    @overload
    def __getitem__(self, index: slice) -> "Listed": ...
    def __getitem__(self, index: int | slice) -> "Photo | Listed":
        """One photo, or a list of some."""
        if isinstance(index, slice):
            return Listed(self._names[index], self._paths[index], *self._same, self._bit_depth)
        return Photo(self._names[index], *self._same, Path(self._paths[index]), bit_depth=self._bit_depth)

    def read_by(self, bit_depth: int | None) -> "Listed":
        """The same photos, read by a depth."""
        return Listed(self._names, self._paths, *self._same, bit_depth)


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
        self._train: Sequence[FileSample] = self._list([good], REFERENCE_PREFIX, 0, []) if good else []
        paths = (each.path for each in chain(self._train, self._test))
        depth = bit_depth or common_bit_depth(path for path in paths if not (is_video(path) or address_of(path)))
        self._test = _read_by(depth, self._test)
        self._train = _read_by(depth, distinct(self._train))
        warn_of_judged_references(self._train, self._test)

    def train(self, category: str) -> Sequence[FileSample]:
        """The photos of good parts; TrackInputError if no folder of them was given."""
        self._check(category)
        if not self._train:
            raise TrackInputError("expected a folder of photos of good parts, got none; name one as REFERENCES=folder")
        return self._train

    def test(self, category: str) -> Sequence[FileSample]:
        """All photos, folder by folder, in natural order."""
        self._check(category)
        return self._test

    def _check(self, category: str) -> None:
        if category not in self.categories:
            raise unknown("category", category, self.categories)

    def _list(
        self, given: Sequence[Path], prefix: str, label: int | None, skipped: Sequence[Path]
    ) -> Sequence[FileSample]:
        if address := address_of(given[0]):
            if len(given) > 1:
                raise TrackInputError(f"expected one address alone, got {_listed(given)}; judge them one after another")
            return remote_photos(address, self.categories[0], self._recursive)
        paths: list[Path] = []
        others: list[Path] = []
        for path in (match for each in given for match in _matches(each)):
            if path.is_dir():
                paths += find_images(path, self._recursive, skipped)
                places = walk(path, self._recursive, skipped)
                others += [file for place in places for file in other_files_in(place)]
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
        clips = any(map(is_video, paths))
        named = {prefix + Path(os.path.relpath(path, folder)).as_posix(): str(path) for path in paths}  # each once
        category = self.categories[0]
        photos = Listed(list(named), list(named.values()), category, label, kind)
        if not clips:
            return photos
        frames = (
            frames_of(photo.path, photo.name, category, self._every, self._frames) if is_video(photo.path) else [photo]
            for photo in photos
        )
        return list(chain.from_iterable(frames))


def _read_by(bit_depth: int | None, samples: Sequence[FileSample]) -> Sequence[FileSample]:
    if isinstance(samples, Listed):
        return samples.read_by(bit_depth)
    return [replace(sample, bit_depth=bit_depth) for sample in samples]


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
