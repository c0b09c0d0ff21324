"""A user's own folders: which of them hold normal images, which anomalous ones, which masks.

The keys are those of anomalib's `Folder`. Two things differ: masks belong to images by name, not by position, and
normal images are never divided at random; without `normal_test_dir` those that are not handed out are tested on.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tracks.command.paths import name_below
from tracks.datasets.files import (
    FileSample,
    category_name,
    existing_folder,
    listed_samples,
    mask_rule,
    references_of,
)
from tracks.datasets.formats import IMAGE_SUFFIXES, endings
from tracks.datasets.layout import LeftOut, find_images, walk
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

Folders = str | Path | Sequence[str | Path] | None
"""One folder, several, or none; absolute or below the root."""


class Folder:
    """One category in folders of any name, each searched with all that lies below it.

    Without any of the four folders every image below `root` is a test image without a label (zero-shot only). The
    mask of an image has its name, or its name and `_mask`, at the same place below `mask_dir` as the image below
    `abnormal_dir`; with several of both they go in pairs. Without `mask_dir` only image metrics are computed.
    """

    def __init__(
        self,
        root: str | Path,
        normal_dir: Folders = None,
        abnormal_dir: Folders = None,
        mask_dir: Folders = None,
        normal_test_dir: Folders = None,
        extensions: str | Sequence[str] | None = None,
        name: str = "folder",
        category: str = "object",
        mask_above: float = 0,
        bit_depth: int | None = None,
    ) -> None:
        """List the images; `extensions` (all known ones if None) are compared whatever their case.

        Raises:
            TrackInputError: a folder that is not there or without images, an image in two of them, no or two masks
                for an image, folders that leave nothing to test on.
        """
        self.name = name
        self.categories = (category_name(category),)
        self._root = existing_folder("the data set's folder", root)
        self._suffixes = _suffixes(extensions)
        self._category, self._mask_above, self._bit_depth = category, mask_above, bit_depth
        self._given = {
            "normal_dir": _once(self._folders(normal_dir)), "abnormal_dir": self._folders(abnormal_dir),
            "normal_test_dir": _once(self._folders(normal_test_dir)), "mask_dir": self._folders(mask_dir),
        }  # fmt: skip
        self._check_given()
        self.protocol: dict[str, str | int | float | bool] = {"mask_rule": mask_rule(mask_above)}
        if bit_depth is not None:
            self.protocol["bit_depth"] = bit_depth
        self._left_out = LeftOut()
        self._train = self._list("normal_dir", 0)
        self._test = self._list_test()
        self._left_out.say(self._root)
        _check_no_image_twice(self._test if normal_test_dir is None else self._train + self._test)

    def train(self, category: str) -> list[FileSample]:
        """The images of `normal_dir`; TrackInputError if there are none."""
        listed_samples({self._category: self._test}, category)
        return references_of({self._category: self._train}, category, f"{self._root}, named as data.normal_dir")

    def test(self, category: str) -> list[FileSample]:
        """The anomalous images, then the normal ones, each folder in natural order."""
        return listed_samples({self._category: self._test}, category)

    def _folders(self, given: Folders) -> list[Path]:
        several = [] if given is None else [given] if isinstance(given, str | Path) else list(given)
        return [
            existing_folder("a folder of the data set", self._root / Path(folder).expanduser()) for folder in several
        ]

    def _check_given(self) -> None:
        num_abnormal, num_masks = len(self._given["abnormal_dir"]), len(self._given["mask_dir"])
        if num_masks > 1 and num_masks != num_abnormal:
            raise TrackInputError(
                f"expected one mask_dir for all, or one for each of {num_abnormal} abnormal_dir in their order, got "
                f"{num_masks}"
            )
        if num_masks and not num_abnormal:
            raise TrackInputError(f"expected an abnormal_dir with the mask_dir {self._given['mask_dir'][0]}, got none")
        if self._given["normal_dir"] and not num_abnormal and not self._given["normal_test_dir"]:
            raise TrackInputError(
                "expected abnormal_dir or normal_test_dir beside normal_dir, got neither, so there is nothing to test "
                "on; for photos without labels and references for them there is data=photos"
            )

    def _list_test(self) -> list[FileSample]:
        if not any(self._given.values()):
            self.protocol["labels"] = "none"
            return self._samples(self._root, None, "", None)
        if self._given["normal_test_dir"]:
            return self._anomalous() + self._list("normal_test_dir", 0)
        if self._train:
            self.protocol["reference_pool"] = "the normal test images; those drawn are not scored"
        return self._anomalous() + self._train

    def _list(self, key: str, label: int | None) -> list[FileSample]:
        return [sample for folder in self._given[key] for sample in self._samples(folder, label, "good", None)]

    def _anomalous(self) -> list[FileSample]:
        folders, masks = self._given["abnormal_dir"], self._given["mask_dir"]
        of_each = masks if len(masks) > 1 else [next(iter(masks), None)] * len(folders)
        pairs = zip(folders, of_each, strict=True)
        return [sample for folder, mask in pairs for sample in self._samples(folder, 1, folder.name, mask)]

    def _samples(self, folder: Path, label: int | None, kind: str, mask_dir: Path | None) -> list[FileSample]:
        masks = None if mask_dir is None else Masks(mask_dir, folder)
        samples = [
            FileSample(
                self._name(path, folder), self._category, label, _kind(path, folder, label, kind), path,
                None if masks is None else masks.of(path), self._mask_above, self._bit_depth,
            )
            for path in self._images(folder, masks)
        ]  # fmt: skip
        if masks is not None and len(self._given["mask_dir"]) == len(self._given["abnormal_dir"]):
            used = {sample.mask_path for sample in samples}
            self._left_out.add("masks without an image", [path for path in masks.files if path not in used])
        return samples

    def _images(self, folder: Path, masks: "Masks | None") -> list[Path]:
        """The images of a folder without those of the other folders inside it and without masks beside them."""
        others = [other for group in self._given.values() for other in group if other.resolve() != folder.resolve()]
        paths = find_images(folder, skipped=others, suffixes=self._suffixes)
        if self._suffixes == IMAGE_SUFFIXES:
            self._left_out.look_at(walk(folder, skipped=others))
        if masks is not None and masks.beside:
            paths = [path for path in paths if not path.stem.endswith("_mask")]
        if not paths:
            raise TrackInputError(
                f"expected images in {folder}, got no file ending in {endings(self._suffixes)}; give the folder that "
                "holds them, or name their ending as data.extensions"
            )
        return paths

    def _name(self, path: Path, folder: Path) -> str:
        """The path below the root, or below the folder's parent for a folder elsewhere."""
        inside = Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(self._root))
        return name_below(path, self._root if inside else folder.parent)


class Masks:
    """The masks below one folder, by where they lie and by their names without the ending."""

    def __init__(self, mask_dir: Path, image_dir: Path) -> None:
        """List the masks; where they lie beside their images only `<stem>_mask` is one."""
        self._mask_dir, self._image_dir = mask_dir, image_dir
        self.beside = mask_dir.resolve() == image_dir.resolve()
        self._endings = ("_mask",) if self.beside else ("_mask", "")
        self._by_place: dict[Path, list[Path]] = {}
        found = find_images(mask_dir)
        self.files = [path for path in found if path.stem.endswith("_mask")] if self.beside else found
        for path in found:
            self._by_place.setdefault(path.relative_to(mask_dir).with_suffix(""), []).append(path)

    def of(self, image: Path) -> Path | None:
        """The mask of an image; refused if there is none, or if there are two."""
        below = image.relative_to(self._image_dir).with_suffix("")
        wanted = [place.with_name(place.name + ending) for place in self._places(below) for ending in self._endings]
        found = [path for place in wanted for path in self._by_place.get(place, ())]
        if not found:
            refuse(
                f"expected a mask for {image} at {self._mask_dir / wanted[0]}.png (or under one of the names "
                f"{', '.join(f'{place}.png' for place in wanted[1:]) or 'with another ending'}), got none; add it, "
                "take the image away, or leave mask_dir out to go without pixel metrics",
                "masks missing", image,
            )  # fmt: skip
            return None
        if len(found) > 1:
            refuse(f"expected one mask for {image}, got {found[0]} and {found[1]}; remove one")
        return found[0]

    def _places(self, below: Path) -> tuple[Path, ...]:
        """Where the mask may lie: at the image's own place, or in a folder named like the folder of images."""
        return below, Path(self._image_dir.name) / below


def _kind(path: Path, folder: Path, label: int | None, kind: str) -> str:
    """The kind of a defect: the folder below the one that was given, or that itself."""
    below = path.relative_to(folder).parent.as_posix()
    return below if label == 1 and below != "." else kind


def _once(folders: Sequence[Path]) -> list[Path]:
    """The folders without those named again in another spelling."""
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _suffixes(extensions: str | Iterable[str] | None) -> tuple[str, ...]:
    """Endings in small letters with a dot in front: "PNG" becomes ".png"."""
    if extensions is None:
        return IMAGE_SUFFIXES
    given = [extensions] if isinstance(extensions, str) else list(extensions)
    return tuple(f".{ending.strip().lstrip('.').lower()}" for ending in given) or IMAGE_SUFFIXES


def _check_no_image_twice(samples: Sequence[FileSample]) -> None:
    for places in (Counter(sample.path.resolve() for sample in samples), Counter(sample.name for sample in samples)):
        twice = [place for place, count in places.items() if count > 1]
        if twice:
            raise TrackInputError(
                f"expected every image in one of the folders, got {twice[0]} in two; name folders that do not overlap "
                "and, outside the root, are called differently"
            )
