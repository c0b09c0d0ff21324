"""MVTec AD 2, with its public and its private test sets.

    <category>/{train,validation}/good/<stem>.png
    <category>/test_public/{good,bad}/<stem>.png
    <category>/test_public/ground_truth/bad/<stem>_mask.png
    <category>/test_private/<NNN>_regular.png, <category>/test_private_mixed/<NNN>_mixed.png

Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection", 2025.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tracks.command.names import unknown
from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_folders,
    list_images,
    listed_samples,
    mask_rule,
    references_of,
)
from tracks.datasets.layout import LeftOut, match_masks
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

AD2Split = Literal["test_public", "test_private", "test_private_mixed", "validation"]
SPLITS: tuple[AD2Split, ...] = ("test_public", "test_private", "test_private_mixed", "validation")
PRIVATE = ("test_private", "test_private_mixed")
NORMAL, MASKS = "good", "ground_truth"


class MVTecAD2:
    """One of the test sets, or the normal images for validation. The private sets have no labels."""

    def __init__(
        self,
        root: str | Path,
        split: AD2Split = "test_public",
        categories: Sequence[str] | None = None,
        mask_above: float = 0,
        name: str = "mvtec_ad2",
    ) -> None:
        """List the images of one split of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, another layout, masks that do not fit, a category without images.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {"mask_rule": mask_rule(mask_above), "split": split}
        if split in PRIVATE:
            self.protocol["labels"] = "none"
        self._split: AD2Split = split
        self._mask_above, self._left_out = mask_above, LeftOut()
        root = existing_folder("the MVTec AD 2 set", root)
        self._folders = _find_categories(root)
        self.categories = chosen_categories(categories, self._folders)
        self._train = {category: self._normal(category, "train") for category in self.categories}
        self._test = {category: self._list_test(category, split) for category in self.categories}
        self._left_out.say(root)

    def train(self, category: str) -> list[FileSample]:
        """The images of `train/good`, not those for validation; TrackInputError if there are none."""
        return references_of(self._train, category, f"train/{NORMAL} of the category")

    def test(self, category: str) -> list[FileSample]:
        """The images of the chosen split, in natural order."""
        return listed_samples(self._test, category)

    def unread(self, category: str) -> list[FileSample]:
        """The images of the other splits."""
        others = [split for split in SPLITS if split != self._split and (self._folders[category] / split).is_dir()]
        return [sample for split in others for sample in self._list_test(category, split)]

    def _normal(self, category: str, part: str) -> list[FileSample]:
        folder = self._folders[category] / part / NORMAL
        self._left_out.look_at([folder])
        paths = list_images(folder)
        return [self._sample(category, path, 0, NORMAL) for path in paths]

    def _list_test(self, category: str, split: AD2Split) -> list[FileSample]:
        folder = self._folders[category] / split
        self._left_out.look_at([folder])
        if split in PRIVATE:
            paths = list_images(folder)
            samples = [self._sample(category, path, None, "") for path in paths]
        else:
            samples = self._bad(category, folder) + self._normal(category, split)
        if not samples:
            refuse(
                f"expected images of category {category} in {folder}, got none; unpack that part, choose another "
                f"data.split ({', '.join(SPLITS)}), or name the categories to use"
            )
        return samples

    def _bad(self, category: str, folder: Path) -> list[FileSample]:
        kinds = [kind for kind in list_folders(folder) if kind.name not in (NORMAL, MASKS)]
        self._left_out.look_at(kinds)
        masks = [
            (kind.name, match_masks(list_images(kind), folder / MASKS / kind.name, left_out=self._left_out))
            for kind in kinds
        ]
        return [self._sample(category, path, 1, kind, mask) for kind, of in masks for path, mask in of.items()]

    def _sample(self, category: str, path: Path, label: int | None, kind: str, mask: Path | None = None) -> FileSample:
        name = path.relative_to(self._folders[category]).as_posix()
        return FileSample(name, category, label, kind, path, mask, self._mask_above)


def _find_categories(root: Path) -> dict[str, Path]:
    """The folders that hold one of the splits, by name; `root` itself if it does."""

    def holds(folder: Path) -> bool:
        return any((folder / split).is_dir() for split in SPLITS)

    if holds(root):
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in list_folders(root) if holds(folder)}
    if folders:
        return folders
    inner = [folder for folder in list_folders(root) if any(holds(deeper) for deeper in list_folders(folder))]
    remedy = f"its folder {inner[0]} has it: give that as the root" if inner else "give the folder of the categories"
    raise TrackInputError(
        f"expected the layout <category>/{{{','.join(SPLITS)}}} in {root}, got no category; {remedy} (MVTec AD, the "
        "first, is read by data=mvtec)"
    )
