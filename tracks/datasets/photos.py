"""A user's own photos: a folder of images with no labels and no layout."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tracks.command.names import unknown
from tracks.datasets.files import FileSample, category_name, existing_folder
from tracks.datasets.formats import endings, passed_over
from tracks.datasets.images import common_bit_depth
from tracks.datasets.layout import files_in, find_images, walk
from tracks.errors import TrackInputError
from tracks.run.references import distinct, warn_of_judged_references

log = logging.getLogger(__name__)

REFERENCE_PREFIX = "references/"
"""Stands before the names of reference images, so that they never equal a photo's."""


class Photos:
    """Every image in `root` (and below, if `recursive`), unlabelled, under one category name.

    `references` is a folder of photos of good parts; it may lie inside `root` and is then not judged itself. Copies
    among the references count once, photos that are copies of references are mentioned.
    Hidden folders, run folders of this project and those in `exclude` are passed over. Without `bit_depth` all 16-bit
    photos, references among them, are read by the one depth that the largest of their values needs.
    """

    def __init__(
        self,
        root: str | Path,
        category: str = "object",
        recursive: bool = True,
        references: str | Path | None = None,
        exclude: Sequence[str | Path] = (),
        bit_depth: int | None = None,
    ) -> None:
        """List the photos.

        Raises:
            TrackInputError: no such folder, or no image in it.
        """
        self.name = "photos"
        self.categories = (category_name(category),)
        self.protocol: dict[str, str | int | float | bool] = {"labels": "none"}
        self._recursive = recursive
        good = None if references is None else existing_folder("the folder of references", references)
        skipped = [Path(path).expanduser() for path in exclude] + ([good] if good else [])
        self._test = self._list(existing_folder("the folder of photos", root), "", None, skipped)
        self._train = self._list(good, REFERENCE_PREFIX, 0, []) if good else []
        depth = bit_depth or common_bit_depth([sample.path for sample in self._train + self._test])
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

    def _list(self, folder: Path, prefix: str, label: int | None, skipped: Sequence[Path]) -> list[FileSample]:
        paths = find_images(folder, self._recursive, skipped)
        others = passed_over(path for place in walk(folder, self._recursive, skipped) for path in files_in(place))
        if not paths:
            got = f"only {others}" if others else "none"
            raise TrackInputError(
                f"expected images in {folder} (files ending in {endings()}), got {got}; "
                "give the folder that holds them, or convert them to one of these"
            )
        if others:
            log.warning("passed over in %s: %s", folder, others)
        kind = "" if label is None else "good"
        names = [prefix + path.relative_to(folder).as_posix() for path in paths]
        return [
            FileSample(name, self.categories[0], label, kind, path) for name, path in zip(names, paths, strict=True)
        ]
