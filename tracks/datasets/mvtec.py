"""Any folder in the layout of MVTec AD.

    <category>/train/good/<image>
    <category>/test/good/<image>
    <category>/test/<defect>/<stem>.png
    <category>/ground_truth/<defect>/<stem>_mask.png   or <stem>.png

Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
"""

from collections.abc import Sequence
from pathlib import Path

from tracks.datasets.files import (
    FileSample,
    existing_folder,
    list_folders,
    list_images,
    mask_rule,
    unique_stems,
)
from tracks.errors import TrackInputError
from tracks.names import unknown

NORMAL_FOLDERS = ("good", "ok", "normal")
"""Names, in any case, of the folder of normal images: "good" is MVTec's, the others stand in sets built like it."""
LAYOUT = "<category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>, <category>/train/good"


class MVTec:
    """A data set in MVTec layout: `root` holds categories, or is itself one (its folder name is then the category).

    Masks are matched by name. A defect folder without a `ground_truth` folder has no masks: its images count for
    image metrics only. `train` may be missing as long as nobody asks for references.
    """

    def __init__(
        self,
        root: str | Path,
        categories: Sequence[str] | None = None,
        mask_above: float = 0,
        name: str = "mvtec",
        bit_depth: int | None = None,
    ) -> None:
        """List the test images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, another layout, an unknown or empty category, masks that do not fit.
        """
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {"mask_rule": mask_rule(mask_above)}
        if bit_depth is not None:
            self.protocol["bit_depth"] = bit_depth
        self._mask_above, self._bit_depth = mask_above, bit_depth
        self._folders = find_categories(existing_folder("the data set's folder", root))
        for category in categories or ():
            if category not in self._folders:
                raise unknown("category", category, self._folders)
        self.categories = tuple(dict.fromkeys(categories or self._folders))
        self._test = {category: self._list_test(category) for category in self.categories}

    def train(self, category: str) -> list[FileSample]:
        """The normal images of `train/good`; TrackInputError if there are none."""
        folder = self._folder(category) / "train"
        samples = [sample for kind in _kinds(folder) if _is_normal(kind) for sample in self._normal(category, kind)]
        if not samples:
            raise TrackInputError(
                f"expected normal images of {category} in {folder / 'good'}, from which references are drawn, "
                "got none; put them there, or run the zero-shot track (shots=0)"
            )
        return samples

    def test(self, category: str) -> list[FileSample]:
        """The images of all folders in `test`, in natural order."""
        self._folder(category)
        return list(self._test[category])

    def _folder(self, category: str) -> Path:
        if category not in self.categories:
            raise unknown("category", category, self.categories)
        return self._folders[category]

    def _list_test(self, category: str) -> list[FileSample]:
        folder = self._folders[category] / "test"
        samples: list[FileSample] = []
        for kind in _kinds(folder):
            samples += self._normal(category, kind) if _is_normal(kind) else self._anomalous(category, kind)
        if not samples:
            other = _other_reader(self._folders[category])
            remedy = f"{other}, or name" if other else "put them there, or name"
            raise TrackInputError(
                f"expected test images of category {category} in folders of {folder} (good and one for each kind of "
                f"defect), got none; {remedy} the categories to use"
            )
        return samples

    def _normal(self, category: str, folder: Path) -> list[FileSample]:
        return [self._sample(category, path, 0, "good", None) for path in list_images(folder)]

    def _anomalous(self, category: str, folder: Path) -> list[FileSample]:
        masks = match_masks(list_images(folder), self._folders[category] / "ground_truth" / folder.name)
        return [self._sample(category, path, 1, folder.name, mask) for path, mask in masks.items()]

    def _sample(self, category: str, path: Path, label: int, kind: str, mask: Path | None) -> FileSample:
        name = path.relative_to(self._folders[category]).as_posix()
        return FileSample(name, category, label, kind, path, mask, self._mask_above, self._bit_depth)


def match_masks(images: Sequence[Path], folder: Path) -> dict[Path, Path | None]:
    """Each image's mask, `<stem>_mask` or `<stem>` with any image suffix; None for all if there is no such folder.

    Raises:
        TrackInputError: an image without a mask beside others with one, two masks for an image, or the reverse.
    """
    if not folder.is_dir():
        return dict.fromkeys(images)
    masks = unique_stems(list_images(folder), "mask")
    unique_stems(images, "image")
    return {image: _mask_of(image, masks, folder) for image in images}


def _mask_of(image: Path, masks: dict[str, Path], folder: Path) -> Path:
    found = [masks[stem] for stem in (f"{image.stem}_mask", image.stem) if stem in masks]
    if not found:
        several = (folder / image.stem).is_dir()
        hint = "it has a folder of masks, as in MVTec LOCO: use data=mvtec_loco; else " if several else ""
        raise TrackInputError(
            f"expected a mask for {image} named {image.stem}_mask.png or {image.stem}.png in {folder}, got none; "
            f"{hint}add it, take the image away, or take the folder of masks away to go without pixel metrics"
        )
    if len(found) > 1:
        raise TrackInputError(f"expected one mask for {image}, got {found[0]} and {found[1]}; remove one")
    return found[0]


def find_categories(root: Path) -> dict[str, Path]:
    """The folders of categories by name: those that hold `test` or `train`; `root` itself if it does.

    Raises:
        TrackInputError: there are none; says which layout the folder seems to have instead.
    """
    if _is_category(root):
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in list_folders(root) if _is_category(folder)}
    if not folders:
        raise TrackInputError(f"expected the layout {LAYOUT} in {root}, got no category; {_other_layout(root)}")
    return folders


def _other_layout(root: Path) -> str:
    """What to do about a root without categories, judged by what else it holds."""
    inner = list_folders(root)
    if _is_category(root.parent):
        return f"it is inside the category {root.parent}: give that as the root"
    others = [other for folder in (root, *inner) if (other := _other_reader(folder))]
    if others:
        return others[0]
    for folder in inner:
        if any(_is_category(deeper) for deeper in list_folders(folder)):
            return f"its folder {folder} has this layout: give that as the root"
    if list_images(root):
        return "it holds images without labels: for those there is make predict IMAGES=folder"
    return "give the folder that holds the folders of the categories"


def _other_reader(folder: Path) -> str | None:
    """Which reader a folder is for, judged by what only that set has; None if none is known."""
    if folder.name.startswith("MT_"):
        return "it looks like the magnetic tile set: use data=mtd"
    if (folder / "Data" / "Images").is_dir():
        return "it looks like VisA as downloaded: use data=visa"
    if (folder / "test_public").is_dir():
        return "it looks like MVTec AD 2: use data=mvtec_ad2"
    if (folder / "Test" / "Label").is_dir():
        return "it looks like DAGM: use data=dagm"
    if any(folder.glob("test/*_GT.png")):
        return "it looks like KolektorSDD2: use data=ksdd2"
    if any(folder.glob("Part*_label.bmp")):
        return "it looks like KolektorSDD: use data=ksdd"
    return None


def _is_category(folder: Path) -> bool:
    return (folder / "test").is_dir() or (folder / "train").is_dir()


def _kinds(folder: Path) -> list[Path]:
    return list_folders(folder) if folder.is_dir() else []


def _is_normal(folder: Path) -> bool:
    return folder.name.casefold() in NORMAL_FOLDERS
