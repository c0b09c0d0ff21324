"""KolektorSDD as downloaded: `kos<NN>/Part<N>.jpg` with the mask `Part<N>_label.bmp` beside it.

Tabernik, Sela, Skvarc and Skocaj, "Segmentation-based deep-learning approach for surface-defect detection", Journal of
Intelligent Manufacturing, 2020.
"""

from pathlib import Path

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
from tracks.datasets.layout import LeftOut, with_images
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

CATEGORY = "electrical_commutator"
MASK_ENDING = "_label"


class KSDD:
    """One category of all parts; an image is anomalous if its mask has a pixel above `mask_above`.

    The published folds are of supervised learning, so there is no training part: references are drawn from the
    normal images, which are also tested on. Labels stand in the masks alone, which are decoded once, when first
    asked for.
    """

    def __init__(self, root: str | Path, mask_above: float = 0, name: str = "ksdd") -> None:
        """Pair images with masks.

        Raises:
            TrackInputError: no such folder, another layout, an image without a mask.
        """
        self.name = name
        self.categories = (CATEGORY,)
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "label_rule": "a mask with a marked pixel",
            "reference_pool": "the normal test images; those drawn are not scored",
        }
        self._mask_above = mask_above
        self._root = existing_folder("the KolektorSDD set", root)
        left_out, folders = LeftOut(), self._folders()
        self._pairs = {image: mask for folder in folders for image, mask in _pairs(folder, left_out).items()}
        left_out.add("folders without masks", with_images(f for f in list_folders(self._root) if f not in folders))
        left_out.say(self._root)
        self._test: list[FileSample] = []

    def train(self, category: str) -> list[FileSample]:
        """The normal images; TrackInputError if there are none."""
        normal = [sample for sample in self.test(category) if sample.label == 0]
        return references_of({CATEGORY: normal}, category, self._root)

    def test(self, category: str) -> list[FileSample]:
        """All images, by folder and then by name."""
        listed_samples({CATEGORY: []}, category)
        self._test = self._test or [
            labelled_by_mask(image, mask, self._root, CATEGORY, self._mask_above) for image, mask in self._pairs.items()
        ]
        return list(self._test)

    def _folders(self) -> list[Path]:
        inner = list_folders(self._root)
        folders = [folder for folder in inner if any(folder.glob(f"*{MASK_ENDING}.*"))]
        if not folders:
            deeper = [folder for folder in inner if any(folder.glob(f"*/*{MASK_ENDING}.*"))]
            remedy = f"its folder {deeper[0]} holds them: give that as the root" if deeper else "give their folder"
            raise TrackInputError(
                f"expected the folders kos01, kos02 and so on, each with Part<N>.jpg and Part<N>_label.bmp, in "
                f"{self._root}, got none; {remedy} (a copy in MVTec layout is read by data=mvtec)"
            )
        return folders


def _pairs(folder: Path, left_out: LeftOut) -> dict[Path, Path]:
    """Each image's mask in one folder, in natural order; TrackInputError names an image without."""
    stems = unique_stems(list_images(folder), "file")
    masks = [path for stem, path in stems.items() if stem.endswith(MASK_ENDING)]
    left_out.add("masks without an image", [path for path in masks if path.stem.removesuffix(MASK_ENDING) not in stems])
    left_out.look_at([folder])
    images = [path for stem, path in stems.items() if not stem.endswith(MASK_ENDING)]
    for image in images:
        if f"{image.stem}{MASK_ENDING}" not in stems:
            refuse(
                f"expected the mask of {image} at {image.with_name(f'{image.stem}{MASK_ENDING}.bmp')}, got none; it is "
                "there for normal images too: copy the set again",
                "masks missing", image,
            )  # fmt: skip
    masks_of = {image: stems.get(f"{image.stem}{MASK_ENDING}") for image in images}
    return {image: mask for image, mask in masks_of.items() if mask}
