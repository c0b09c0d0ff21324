"""The packs of the VAND 2023 challenge, `vand_0shot` and `vand_kshot`: VisA's twelve categories without labels.

    Test/<category>/Images/<image>
    Train/<category>/Images/<image>                        (vand_kshot only)
    Train/<category>/selected_samples_per_run.txt          lines `<run>-<k>: <stem> <stem> ...`

The lists say which training images are the references: few-shot runs take them by `references=<pack>/Train run=0`.
"""

from collections.abc import Sequence
from pathlib import Path

from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_folders,
    list_images,
    listed_samples,
    references_of,
    unique_stems,
)
from tracks.datasets.layout import LeftOut
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError


class VAND2023:
    """Maps and scores for a submission, no metrics: the test images have no labels and no masks."""

    def __init__(self, root: str | Path, categories: Sequence[str] | None = None, name: str = "vand2023") -> None:
        """List the images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, no pack in it, two images of one name, a category without images.
        """
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {"labels": "none"}
        self._root = existing_folder("the VAND 2023 pack", root)
        self._left_out = LeftOut()
        known = [folder.name for folder in _categories(self._root)]
        self.categories = chosen_categories(categories, known)
        self._train = {category: self._list("Train", category, 0) for category in self.categories}
        self._test = {category: self._list("Test", category, None) for category in self.categories}
        self._left_out.say(self._root)
        for category, samples in self._test.items():
            if not samples:
                refuse(
                    f"expected test images of {category} in {self._root / 'Test' / category / 'Images'}, got none; "
                    "unpack it again, or name the categories to use"
                )

    def train(self, category: str) -> list[FileSample]:
        """The images of `Train`, which are normal; TrackInputError if there are none, as in vand_0shot."""
        return references_of(self._train, category, self._root / "Train" / category / "Images (pack vand_kshot)")

    def test(self, category: str) -> list[FileSample]:
        """The images of `Test`, in natural order."""
        return listed_samples(self._test, category)

    def _list(self, part: str, category: str, label: int | None) -> list[FileSample]:
        folder = self._root / part / category / "Images"
        self._left_out.look_at([folder])
        images = unique_stems(list_images(folder), "image")
        kind = "" if label is None else "good"
        return [
            FileSample(f"{part}/Images/{path.name}", category, label, kind, path) for path in images.values()
        ]  # fmt: skip


def _categories(root: Path) -> list[Path]:
    """The folders of categories in `Test`; TrackInputError if `root` is no pack."""
    test = root / "Test"
    folders = [folder for folder in list_folders(test) if (folder / "Images").is_dir()]
    if folders:
        return folders
    inner = [folder for folder in list_folders(root) if (folder / "Test").is_dir()]
    remedy = f"its folder {inner[0]} is one: give that as the root" if inner else "give the folder that holds Test"
    raise TrackInputError(
        f"expected a pack of VAND 2023 (Test/<category>/Images) in {root}, got none; {remedy} (the public VisA is read "
        "by data=visa)"
    )
