"""MVTec LOCO AD: the layout of MVTec AD with a folder of masks for each image.

    <category>/train/good/<stem>.png
    <category>/test/{good,logical_anomalies,structural_anomalies}/<stem>.png
    <category>/ground_truth/<kind>/<stem>/000.png, 001.png, ...

Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and Localization",
International Journal of Computer Vision, 2022.
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
    mask_rule,
    references_of,
)
from tracks.datasets.layout import LeftOut, check_normal_is_told, inner_folder
from tracks.datasets.notices import refuse
from tracks.datasets.recognise import find_categories

NORMAL = "good"


class MVTecLOCO:
    """A pixel is defective where any of its image's masks marks it.

    That union is no saturated region overlap: the set's own metric sPRO counts a mask as found from a part of it on
    (`defects_config.json`), which is not computed here, and figures of sPRO do not compare with PRO.
    """

    def __init__(
        self,
        root: str | Path,
        categories: Sequence[str] | None = None,
        mask_above: float = 0,
        name: str = "mvtec_loco",
    ) -> None:
        """List the images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, another layout, an image without masks, a category without test images.
        """
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": f"{mask_rule(mask_above)} in any of an image's masks",
            "saturation": "none (PRO, not the set's own sPRO)",
        }
        self._mask_above, self._left_out = mask_above, LeftOut()
        root = existing_folder("the MVTec LOCO set", root)
        self._folders = find_categories(root)
        self.categories = chosen_categories(categories, self._folders)
        self._train = {category: self._good(category, "train") for category in self.categories}
        self._test = {category: self._list_test(category) for category in self.categories}
        self._left_out.say(root)

    def train(self, category: str) -> list[FileSample]:
        """The images of `train/good`; TrackInputError if there are none."""
        return references_of(self._train, category, f"train/{NORMAL} of the category")

    def test(self, category: str) -> list[FileSample]:
        """The images of all folders in `test`, in natural order."""
        return listed_samples(self._test, category)

    def unread(self, category: str) -> list[FileSample]:
        """The images of `validation/good`, which no run reads."""
        return self._good(category, "validation")

    def _good(self, category: str, part: str) -> list[FileSample]:
        folder = inner_folder(inner_folder(self._folders[category], part), NORMAL)
        self._left_out.look_at([folder])
        return [self._sample(category, path, None) for path in list_images(folder)]

    def _list_test(self, category: str) -> list[FileSample]:
        folder = inner_folder(self._folders[category], "test")
        kinds = list_folders(folder)
        self._left_out.look_at([folder, *kinds])
        self._left_out.add("images straight in test", list_images(folder))
        check_normal_is_told([kind for kind in kinds if list_images(kind)], folder)
        truth = inner_folder(self._folders[category], "ground_truth")
        of_images = {inner_folder(truth, kind.name) / path.stem for kind in kinds for path in list_images(kind)}
        masks = [own for kind in list_folders(truth) for own in list_folders(kind)]
        without = [path for own in masks if own not in of_images for path in list_images(own)]
        self._left_out.add("masks without an image", without)
        samples = [
            self._sample(category, path, None if kind.name.casefold() == NORMAL else kind.name)
            for kind in kinds
            for path in list_images(kind)
        ]
        if not samples:
            refuse(
                f"expected test images of category {category} in {folder} (good, logical_anomalies, "
                "structural_anomalies), got none; put them there, or name the categories to use"
            )
        return samples

    def _sample(self, category: str, path: Path, kind: str | None) -> FileSample:
        name = path.relative_to(self._folders[category]).as_posix()
        if kind is None:
            return FileSample(name, category, 0, NORMAL, path)
        masks = self._masks(path, inner_folder(inner_folder(self._folders[category], "ground_truth"), kind))
        first = masks[0] if masks else None
        return FileSample(name, category, 1, kind, path, first, self._mask_above, more_masks=tuple(masks[1:]))

    def _masks(self, image: Path, folder: Path) -> list[Path]:
        """The masks of an image; none at all where the whole kind has no folder of masks."""
        if not folder.is_dir():
            return []
        own = folder / image.stem
        masks = list_images(own)
        if not masks:
            refuse(
                f"expected the masks of {image} in the folder {own} (000.png and so on), got none; add them, take the "
                "image away, or take the folder of all masks away to go without pixel metrics",
                "masks missing", image,
            )  # fmt: skip
        return masks
