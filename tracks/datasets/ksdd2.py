"""KolektorSDD2 as downloaded: `train/<digits>.png` and `test/<digits>.png`, each with its mask `<digits>_GT.png`.

Bozic, Tabernik and Skocaj, "Mixed supervision for surface-defect detection: from weakly to fully supervised
learning", Computers in Industry, 2021.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tracks.command.names import listed, unknown
from tracks.datasets.files import (
    FileSample,
    existing_folder,
    labelled_by_mask,
    list_folders,
    list_images,
    listed_samples,
    mask_rule,
    references_of,
    unique_stems,
)
from tracks.datasets.layout import LeftOut
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

CATEGORY = "ksdd2"
MASK_ENDING = "_GT"
FOLDERS = {"official": ("train", "test"), "swapped": ("test", "train")}
"""By split, the folder that references are drawn from and the one that is tested on."""
SPLIT_LABELS = {"official": "official", "swapped": "swapped: the images of train are tested on, as for the SAA+ table"}


class KSDD2:
    """One category; an image is anomalous if its mask has a pixel above `mask_above`.

    Labels stand in the masks alone, so listing a folder decodes its masks, once and when first asked for. With
    `split="swapped"` the two folders change places: so does the published code of SAA+, and its figure is of the
    training images. Files with another name than `<digits>.png` and `<digits>_GT.png` are left out with a warning;
    the archive holds two of that kind, `10301 (copy).png` and its mask.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["official", "swapped"] = "official",
        mask_above: float = 0,
        name: str = "ksdd2",
    ) -> None:
        """Find both folders and pair images with masks.

        Raises:
            TrackInputError: no such folder, another layout, an image without a mask or the reverse.
        """
        if split not in FOLDERS:
            raise unknown("split", split, FOLDERS)
        self.name = name
        self.categories = (CATEGORY,)
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "split": SPLIT_LABELS[split],
            "label_rule": "a mask with a marked pixel",
        }
        self._mask_above = mask_above
        self._root = existing_folder("the KolektorSDD2 set", root)
        pool, scored = FOLDERS[split]
        self._pool, self._scored = self._pairs(pool, needed=False), self._pairs(scored, needed=True)
        self._pool_place = self._root / pool
        self._listed: dict[str, list[FileSample]] = {}

    def train(self, category: str) -> list[FileSample]:
        """The normal images of the folder that is not tested on; TrackInputError if there are none."""
        listed_samples({CATEGORY: []}, category)
        normal = [sample for sample in self._samples("pool", self._pool) if sample.label == 0]
        return references_of({CATEGORY: normal}, category, self._pool_place)

    def test(self, category: str) -> list[FileSample]:
        """All images of the folder that is tested on, in natural order."""
        listed_samples({CATEGORY: []}, category)
        return list(self._samples("scored", self._scored))

    def unread(self, category: str) -> list[FileSample]:
        """The anomalous images of the folder that references are drawn from."""
        return [sample for sample in self._samples("pool", self._pool) if sample.label == 1]

    def _samples(self, key: str, pairs: Mapping[Path, Path]) -> list[FileSample]:
        if key not in self._listed:
            self._listed[key] = [
                labelled_by_mask(image, mask, self._root, CATEGORY, self._mask_above) for image, mask in pairs.items()
            ]
        return self._listed[key]

    def _pairs(self, part: str, needed: bool) -> dict[Path, Path]:
        """Each image's mask in one of the two folders, in natural order."""
        folder = self._root / part
        files = list_images(folder)
        left_out = LeftOut()
        left_out.look_at([folder])
        left_out.say(folder)
        if not files:
            if needed:
                raise self._other_layout(folder)
            return {}
        stems = unique_stems(files, "file")
        images = {stem: path for stem, path in stems.items() if _is_number(stem)}
        masks = {stem: path for stem, path in stems.items() if _is_number(stem.removesuffix(MASK_ENDING))}
        strangers = [path.name for stem, path in stems.items() if stem not in images and stem not in masks]
        if strangers:
            log.warning("%s: %s left out of %s: neither an image nor its mask", self.name, listed(strangers), folder)
        if not images:
            raise self._other_layout(folder)
        alone = [stem for stem in masks if stem not in images and stem.removesuffix(MASK_ENDING) not in images]
        for stem in alone:
            refuse(
                f"expected the image {stem.removesuffix(MASK_ENDING)}.png beside the mask {masks[stem]}, got "
                "none; copy the set again",
                "masks extra", masks[stem],
            )  # fmt: skip
        for image in [image for stem, image in images.items() if f"{stem}{MASK_ENDING}" not in masks]:
            refuse(
                f"expected the mask of {image} at {image.with_name(f'{image.stem}{MASK_ENDING}.png')}, got none; it is "
                "there for normal images too: copy the set again",
                "masks missing", image,
            )  # fmt: skip
        masks_of = {image: masks.get(f"{stem}{MASK_ENDING}") for stem, image in images.items()}
        return {image: mask for image, mask in masks_of.items() if mask}

    def _other_layout(self, folder: Path) -> TrackInputError:
        inner = [inner for inner in list_folders(self._root) if (inner / "train").is_dir()]
        remedy = (
            f"its folder {inner[0]} has them: give that as the root" if inner else "give the folder that holds them"
        )
        return TrackInputError(
            f"expected the folders train and test, with images <digits>.png and masks <digits>_GT.png, in "
            f"{self._root}, got none in {folder}; {remedy} (a copy in MVTec layout is read by data=mvtec)"
        )


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()
