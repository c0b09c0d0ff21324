"""VisA, as downloaded or converted to the layout of MVTec AD; which of the two it is shows in its folders.

    as downloaded                                        converted
    <category>/Data/Images/Normal/<stem>.JPG             <category>/train/good/<stem>.JPG
    <category>/Data/Images/Anomaly/<stem>.JPG            <category>/test/{good,bad}/<stem>.JPG
    <category>/Data/Masks/Anomaly/<stem>.png             <category>/ground_truth/bad/<stem>.png
    split_csv/1cls.csv

Zou, Jeong, Pemula, Zhang and Dabeer, "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tracks.command.names import listed
from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_folders,
    listed_samples,
    mask_rule,
    references_of,
)
from tracks.datasets.layout import LeftOut, find_images
from tracks.datasets.mvtec import MVTec, check_own_categories
from tracks.datasets.visa_split import SPLIT_FILE, read_split_file
from tracks.errors import TrackInputError

TEST_COUNTS = {
    "candle": (100, 100), "capsules": (60, 100), "cashew": (50, 100), "chewinggum": (50, 100), "fryum": (50, 100),
    "macaroni1": (100, 100), "macaroni2": (100, 100), "pcb1": (100, 100), "pcb2": (100, 100), "pcb3": (101, 100),
    "pcb4": (101, 100), "pipe_fryum": (50, 100),
}  # fmt: skip
"""Normal and anomalous test images in the split 1cls."""


class VisA:
    """Both layouts under one name: a sample is called as in the converted one ("test/bad/000.JPG") in both.

    So a draw of references and a finished run mean the same images whichever layout is at hand. The masks as
    downloaded hold numbers of kinds from 1 up, so any level above 0 is a defect.
    """

    def __init__(
        self, root: str | Path, categories: Sequence[str] | None = None, mask_above: float = 0, name: str = "visa"
    ) -> None:
        """List the images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, neither layout or a mixture of both, a split file that does not fit,
                categories that are not VisA's although no other `name` is given.
        """
        self.name = name
        self._root = _data_folder(existing_folder("the VisA set", root))
        raw, converted = _layouts(self._root)
        _check_one_layout(self._root, raw, converted)
        if raw:
            everything = read_split_file(self._root, mask_above)
            self.categories = chosen_categories(categories, everything["test"])
            self._train = {category: everything["train"][category] for category in self.categories}
            self._test = {category: everything["test"][category] for category in self.categories}
            self._converted = None
            _say_what_is_not_listed(self._root, self.categories, everything)
        else:
            self._converted = MVTec(self._root, categories, mask_above, name)
            self.categories = self._converted.categories
            self._test = {category: self._converted.test(category) for category in self.categories}
        check_own_categories("VisA", self.categories, TEST_COUNTS if name == "visa" else None, self._root)
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "split": "1cls" if raw or _has_counts_of_1cls(self._test) else "as converted, not the counts of 1cls",
        }

    def train(self, category: str) -> list[FileSample]:
        """The normal training images; TrackInputError if there are none."""
        if self._converted is not None:
            return self._converted.train(category)
        return references_of(self._train, category, f"the split train of {self._root / SPLIT_FILE}")

    def test(self, category: str) -> list[FileSample]:
        """The test images in natural order, the anomalous ones first."""
        return listed_samples(self._test, category)


def _say_what_is_not_listed(
    root: Path, categories: Sequence[str], parts: Mapping[str, Mapping[str, Sequence[FileSample]]]
) -> None:
    left_out = LeftOut()
    for category in categories:
        known = {sample.path.resolve() for part in parts.values() for sample in part[category]}
        images = root / category / "Data" / "Images"
        found = find_images(images) if images.is_dir() else []
        left_out.add(f"images that {SPLIT_FILE} does not name", [path for path in found if path.resolve() not in known])
        masks, of_images = root / category / "Data" / "Masks" / "Anomaly", {path.stem for path in found}
        extra = [path for path in (find_images(masks) if masks.is_dir() else []) if path.stem not in of_images]
        left_out.add("masks without an image", extra)
    left_out.say(root)


def _layouts(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in the layout as downloaded and of those in the converted one."""
    folders = list_folders(root)
    raw = [folder.name for folder in folders if (folder / "Data").is_dir()]
    if (root / "test").is_dir() or (root / "train").is_dir():
        return raw, [root.name]
    return raw, [folder.name for folder in folders if (folder / "test").is_dir() or (folder / "train").is_dir()]


def _data_folder(root: Path) -> Path:
    """`root`, or its folder `1cls` where only that holds categories (VisA_pytorch/1cls)."""
    inner = root / "1cls"
    return inner if not any(_layouts(root)) and inner.is_dir() else root


def _check_one_layout(root: Path, raw: list[str], converted: list[str]) -> None:
    if raw and converted:
        both = [name for name in raw if name in converted]
        raise TrackInputError(
            f"expected VisA either as downloaded or converted, got a mixture in {root}: as downloaded {listed(raw)}; "
            f"converted {listed(converted)}{f'; {listed(both)} in both at once' if both else ''}; move the converted "
            "folders (train, test, ground_truth) into a folder of their own and give that, or the other, as the root"
        )
    if raw or converted:
        return
    deeper = [folder for folder in list_folders(root) if any(_layouts(folder))]
    if (root / "Data").is_dir():
        remedy = f"it is one category as downloaded: give {root.resolve().parent} and categories=[{root.name}]"
    elif deeper:
        remedy = f"its folder {deeper[0]} holds categories: give that as the root"
    else:
        remedy = "give the folder that holds candle, capsules and so on"
    raise TrackInputError(
        f"expected VisA in {root}, as downloaded (<category>/Data/Images and {SPLIT_FILE.as_posix()}) or converted "
        f"(<category>/train/good, test/good, test/bad, ground_truth/bad), got neither; {remedy}"
    )


def _has_counts_of_1cls(test: Mapping[str, Sequence[FileSample]]) -> bool:
    """Whether each category has as many normal and anomalous test images as the split 1cls gives it."""
    return all(
        (sum(sample.label == 0 for sample in samples), sum(sample.label == 1 for sample in samples))
        == TEST_COUNTS.get(category)
        for category, samples in test.items()
    )
