"""Any folder in the layout of MVTec AD.

    <category>/train/good/<image>
    <category>/test/good/<image>
    <category>/test/<defect>/<stem>.png
    <category>/ground_truth/<defect>/<stem>_mask.png   or <stem>.png

Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tracks.command.names import listed, unknown
from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_folders,
    list_images,
    listed_samples,
    mask_rule,
)
from tracks.datasets.layout import (
    MASK_FOLDERS,
    LeftOut,
    check_normal_is_told,
    images_below,
    inner_folder,
    is_called_normal,
    match_masks,
    with_images,
)
from tracks.datasets.notices import refuse
from tracks.datasets.recognise import find_categories, other_reader
from tracks.errors import TrackInputError

MVTEC_AD = frozenset((
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
))  # fmt: skip
"""The categories of MVTec AD itself."""
SAME_LAYOUT = {
    "btad": ("01", "02", "03"),
    "mpdd": ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"),
    "dtd_synthetic": (
        "Blotchy_099", "Fibrous_183", "Marbled_078", "Matted_069", "Mesh_114", "Perforated_037", "Stratified_154",
        "Woven_001", "Woven_068", "Woven_104", "Woven_125", "Woven_127",
    ),
}  # fmt: skip
"""Other public sets in this layout, and their categories."""


class MVTec:
    """A data set in MVTec layout: `root` holds categories, or is itself one (its folder name is then the category).

    Masks are matched by name. A defect folder without a `ground_truth` folder has no masks: its images count for
    image metrics only. `train` may be missing as long as nobody asks for references. Folders may be spelled otherwise
    (`Ground_Truth`), and images lie deeper in their folder; what is left out is said in one line.
    """

    def __init__(
        self,
        root: str | Path,
        categories: Sequence[str] | None = None,
        mask_above: float = 0,
        name: str | None = None,
        bit_depth: int | None = None,
        normal_folders: str | Sequence[str] | None = None,
    ) -> None:
        """List the test images of the chosen categories (all if None or empty).

        `name` is by default "mvtec" for categories of MVTec AD, for others that of the folder. `normal_folders` are the
        folders of `test` and `train` that hold normal images, good, ok or normal by default; all others in `test` hold
        defects.

        Raises:
            TrackInputError: no such folder, another layout, an unknown or empty category, masks that do not fit,
                folders of `test` none of which is called like normal images, categories that are not those of the
                public set of this `name`.
        """
        self.protocol: dict[str, str | int | float | bool] = {"mask_rule": mask_rule(mask_above)}
        if bit_depth is not None:
            self.protocol["bit_depth"] = bit_depth
        self._mask_above, self._bit_depth = mask_above, bit_depth
        self._root = existing_folder("the data set's folder", root)
        self._folders = find_categories(self._root)
        self.categories = chosen_categories(categories, self._folders)
        self.name = name or _name_of(self._root, self.categories)
        check_own_categories(self.name, self.categories, SAME_LAYOUT.get(self.name), self._root)
        told = [normal_folders] if isinstance(normal_folders, str) else normal_folders
        self._told = None if told is None else tuple(told)
        self._left_out = LeftOut()
        if not categories and self._root not in self._folders.values():
            strangers = [folder for folder in list_folders(self._root) if folder not in self._folders.values()]
            self._left_out.add("folders without test or train", with_images(strangers))
        self._test = {category: self._list_test(category) for category in self.categories}
        self._check_told()
        self._left_out.say(self._root)

    def train(self, category: str) -> list[FileSample]:
        """The normal images of `train/good`; TrackInputError if there are none."""
        listed_samples(self._test, category)
        folder, left_out = inner_folder(self._folders[category], "train"), LeftOut()
        kinds = [kind for kind in list_folders(folder) if self._is_normal(kind) or is_called_normal(kind)]
        samples = [sample for kind in kinds for sample in self._normal(category, kind, left_out)]
        straight = list_images(folder)
        if not samples:
            raise TrackInputError(
                f"expected normal images of {category} in {folder / 'good'}, from which references are drawn, "
                f"got none{' but images straight in train' if straight else ''}; put them there, or run the zero-shot "
                "track (shots=0)"
            )
        left_out.add("images straight in train", straight)
        left_out.add(
            "folders of train not called normal", with_images(k for k in list_folders(folder) if k not in kinds)
        )
        left_out.say(self._root)
        return samples

    def test(self, category: str) -> list[FileSample]:
        """The images of all folders in `test`, in natural order."""
        return listed_samples(self._test, category)

    def _list_test(self, category: str) -> list[FileSample]:
        folder = inner_folder(self._folders[category], "test")
        kinds = list_folders(folder)
        if self._told is None:
            check_normal_is_told(with_images(kinds), folder)
        samples: list[FileSample] = []
        for kind in kinds:
            normal = self._is_normal(kind)
            samples += self._normal(category, kind, self._left_out) if normal else self._anomalous(category, kind)
        straight = list_images(folder)
        if not samples:
            other = other_reader(self._folders[category])
            remedy = f"{other}, or name" if other else "put them there, or name"
            refuse(
                f"expected test images of category {category} in folders of {folder} (good and one for each kind of "
                f"defect), got {'images without a folder' if straight else 'none'}; {remedy} the categories to use"
            )
        self._left_out.add("images straight in test, where no folder says what they show", straight)
        self._left_out.look_at([folder])
        self._note_masks_without_folder(category, kinds)
        return samples

    def _note_masks_without_folder(self, category: str, kinds: Sequence[Path]) -> None:
        truth = inner_folder(self._folders[category], *MASK_FOLDERS)
        if not truth.is_dir():
            return
        used = [inner_folder(truth, kind.name) for kind in kinds]
        others = [folder for folder in list_folders(truth) if folder not in used]
        self._left_out.add("folders of masks without one of images", with_images(others))
        self._left_out.add("masks straight in the folder of masks", list_images(truth))
        without = [k for k, own in zip(kinds, used, strict=True) if not self._is_normal(k) and not own.is_dir()]
        self._left_out.add("folders of defects without masks, which count for image metrics only", with_images(without))

    def _is_normal(self, kind: Path) -> bool:
        return is_called_normal(kind) if self._told is None else kind.name in self._told

    def _check_told(self) -> None:
        """Refuse a normal folder that no category has."""
        seen = {
            kind.name: kind for folder in self._folders.values() for kind in list_folders(inner_folder(folder, "test"))
        }
        for name in self._told or ():
            if name not in seen:
                raise unknown("each of data.normal_folders", name, seen)

    def _normal(self, category: str, folder: Path, left_out: LeftOut) -> list[FileSample]:
        images = images_below(_pictures(folder), left_out)
        return [self._sample(category, path, 0, "good", None) for path in images]

    def _anomalous(self, category: str, folder: Path) -> list[FileSample]:
        pictures = _pictures(folder)
        truth = inner_folder(self._folders[category], *MASK_FOLDERS)
        masks = folder / "gt" if pictures != folder else inner_folder(truth, folder.name)
        matched = match_masks(images_below(pictures, self._left_out), masks, pictures, self._left_out)
        return [self._sample(category, path, 1, folder.name, mask) for path, mask in matched.items()]

    def _sample(self, category: str, path: Path, label: int, kind: str, mask: Path | None) -> FileSample:
        name = path.relative_to(self._folders[category]).as_posix()
        return FileSample(name, category, label, kind, path, mask, self._mask_above, self._bit_depth)


def _name_of(root: Path, categories: Sequence[str]) -> str:
    """What a set is called in tables: only MVTec AD's own categories are MVTec AD, and carry its licence."""
    if MVTEC_AD.issuperset(categories):
        return "mvtec"
    name = root.resolve().name or "folder"
    return "mvtec_layout" if name.casefold() == "mvtec" else name


def _pictures(kind: Path) -> Path:
    """The folder of a kind's pictures; in MVTec 3D-AD they lie in `rgb`, beside their masks and depths."""
    has_depth = (kind / "rgb").is_dir() and ((kind / "gt").is_dir() or (kind / "xyz").is_dir())
    return kind / "rgb" if has_depth else kind


def check_own_categories(name: str, categories: Sequence[str], known: Iterable[str] | None, root: Path) -> None:
    """Refuse categories that the public set of this name does not have; others may be called anything."""
    strangers = [category for category in categories if category not in (known or categories)]
    if known is not None and strangers:
        raise TrackInputError(
            f"expected categories of {name} ({listed(list(known))}), got {listed(strangers)} in {root}; "
            "other data in MVTec layout are read by data=mvtec, in this layout by a data.name of their own"
        )
