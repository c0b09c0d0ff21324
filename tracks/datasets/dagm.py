"""DAGM 2007: `Class<N>/{Train,Test}/<NNNN>.PNG` with masks `Label/<NNNN>_label.PNG` of the defective ones only.

Wieler and Hahn, "Weakly supervised learning for industrial optical inspection", DAGM symposium, 2007.
"""

import logging
import re
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
    unique_stems,
)
from tracks.datasets.layout import LeftOut
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

MASK_ENDING, LABELS = "_label", "Labels.txt"
LABEL_LINE = re.compile(r"\s*\d+\s+([01])\s+(\S+)\s+\S+\s+\S+\s*")
"""`<number> <1 if defective> <image> <1 if defective> <mask or 0>`, the lines of Label/Labels.txt after the first."""


class DAGM:
    """Ten drawn textures. An image is anomalous if it has a mask: a coarse ellipse around the defect, not its outline.

    Where `Labels.txt` lies beside the masks it must name the same images; so a mask that got lost does not turn its
    image into a normal one. Where it is missing, that is said.
    """

    def __init__(
        self, root: str | Path, categories: Sequence[str] | None = None, mask_above: float = 0, name: str = "dagm"
    ) -> None:
        """List the images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, another layout, masks and Labels.txt that disagree, no test images.
        """
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "mask_shape": "coarse ellipses",
        }
        self._mask_above, self._left_out = mask_above, LeftOut()
        root = existing_folder("the DAGM set", root)
        self._folders = _find_categories(root)
        self.categories = chosen_categories(categories, self._folders)
        listed = {category: self._list(category, "Train") for category in self.categories}
        self._train = {key: [sample for sample in samples if sample.label == 0] for key, samples in listed.items()}
        self._unread = {key: [sample for sample in samples if sample.label == 1] for key, samples in listed.items()}
        self._test = {category: self._list(category, "Test") for category in self.categories}
        self._left_out.say(root)
        for category, samples in self._test.items():
            if not samples:
                refuse(
                    f"expected test images of category {category} in {self._folders[category] / 'Test'}, got none; put "
                    "them there, or name the categories to use"
                )

    def train(self, category: str) -> list[FileSample]:
        """The normal images of `Train`; TrackInputError if there are none."""
        return references_of(self._train, category, "Train of the category")

    def test(self, category: str) -> list[FileSample]:
        """All images of `Test`, in natural order."""
        return listed_samples(self._test, category)

    def unread(self, category: str) -> list[FileSample]:
        """The defective images of `Train`."""
        return self._unread[category]

    def _list(self, category: str, part: str) -> list[FileSample]:
        folder = self._folders[category] / part
        if not folder.is_dir():
            return []
        images = unique_stems(list_images(folder), "image")
        masks = _masks(folder / "Label", images)
        self._left_out.look_at([folder])
        if not (folder / "Label" / LABELS).is_file():
            log.warning(
                "%s: no %s in %s, so an image whose mask got lost counts as normal", self.name, LABELS, folder / "Label"
            )
        return [self._sample(category, f"{part}/{path.name}", path, masks.get(path.stem)) for path in images.values()]

    def _sample(self, category: str, name: str, path: Path, mask: Path | None) -> FileSample:
        if mask is None:
            return FileSample(name, category, 0, "good", path)
        return FileSample(name, category, 1, "defect", path, mask, self._mask_above)


def _masks(folder: Path, images: dict[str, Path]) -> dict[str, Path]:
    """The masks by the stem of their image; refused where they fit neither the images nor Labels.txt."""
    if not folder.is_dir():
        refuse(
            f"expected the masks of {folder.parent} in {folder}, got no such folder; images without a mask count "
            "as normal: unpack the set again"
        )
        return {}
    masks = {stem.removesuffix(MASK_ENDING): path for stem, path in unique_stems(list_images(folder), "mask").items()}
    for path in [path for stem, path in masks.items() if stem not in images]:
        refuse(
            f"expected an image for the mask {path} in {folder.parent}, got none; copy it again", "masks extra", path
        )
    for stem in _defective(folder / LABELS):
        if stem not in masks:
            refuse(
                f"expected the mask {stem}{MASK_ENDING}.PNG in {folder}, as Labels.txt there calls that image "
                "defective, got none; copy it again",
                "masks missing", images.get(stem, folder / f"{stem}{MASK_ENDING}.PNG"),
            )  # fmt: skip
    return masks


def _defective(labels: Path) -> list[str]:
    """Stems of the images that a Labels.txt calls defective; none where there is no such file."""
    lines = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
    rows = [match for match in map(LABEL_LINE.fullmatch, lines) if match]
    return [Path(row[2]).stem for row in rows if row[1] == "1"]


def _find_categories(root: Path) -> dict[str, Path]:
    """The folders that hold `Test`, by name; one level deeper where an archive was unpacked into its own name."""
    if (root / "Test").is_dir():
        return {root.resolve().name: root}
    found = {}
    for folder in list_folders(root):
        places = [place for place in (folder, folder / folder.name) if (place / "Test").is_dir()]
        if places:
            found[folder.name] = places[0]
    if found:
        return found
    inner = [folder for folder in list_folders(root) if any(folder.glob("*/Test"))]
    remedy = f"its folder {inner[0]} holds them: give that as the root" if inner else "give the folder that holds them"
    raise TrackInputError(
        f"expected the folders Class1 to Class10, each with Train, Test and their Label, in {root}, got none; {remedy} "
        "(a copy in MVTec layout is read by data=mvtec)"
    )
