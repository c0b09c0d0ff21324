"""The magnetic tile defects as downloaded: `MT_<Type>/Imgs/<stem>.jpg` with the mask `<stem>.png` beside it.

Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer, 2018.
"""

import logging
from pathlib import Path
from typing import Literal

from models.errors import closest_name
from tracks.command.names import unknown
from tracks.datasets.files import (
    FileSample,
    existing_folder,
    list_folders,
    list_images,
    mask_rule,
    unique_stems,
)
from tracks.datasets.layout import LeftOut
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

CATEGORY = "magnetic_tile"
NORMAL_FOLDER = "MT_Free"
SUFFIXES = (".jpg", ".jpeg")
UNMARKED = ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057")
"""Images of MT_Uneven that were published with an empty mask."""


class MTD:
    """One category of all images: those of MT_Free are normal, those of the other folders defects of their name.

    The set has no training part: references are drawn from the normal images, which are also tested on. A sample has
    one name in both lists, by which a run leaves out of the scores what it handed out.

    Four images of uneven tiles have an empty mask (`UNMARKED`), which says neither that they are good nor where
    they are not. `unmarked="leave_out"` leaves them out; "normal" counts them as good, as the published
    SAA+ protocol does, which also takes every mask level above 0 (`mask_above=0`).
    """

    def __init__(
        self, root: str | Path, mask_above: float = 127, unmarked: Literal["leave_out", "normal"] = "leave_out"
    ) -> None:
        """List all images.

        Raises:
            TrackInputError: no such folder, another layout, an image without a mask.
        """
        if unmarked not in ("leave_out", "normal"):
            raise unknown("unmarked", unmarked, ("leave_out", "normal"))
        self.name = "mtd"
        self.categories = (CATEGORY,)
        self._root = existing_folder("the magnetic tile set", root)
        self._mask_above, self._unmarked_are_normal = mask_above, unmarked == "normal"
        self._left_out = LeftOut()
        samples = [sample for folder in self._folders() for sample in self._list(folder)]
        self._left_out.say(self._root)
        self._test = [sample for sample in samples if sample.path.stem not in UNMARKED or self._unmarked_are_normal]
        self._unread = [sample for sample in samples if sample not in self._test]
        num_unmarked = sum(sample.path.stem in UNMARKED for sample in samples)
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "reference_pool": "the normal test images; those drawn are not scored",
            "unmarked_images": f"{num_unmarked} with an empty mask, {'normal' if unmarked == 'normal' else 'left out'}",
        }
        if num_unmarked and not self._unmarked_are_normal:
            log.warning("mtd: %d of %d images are left out, their masks are empty", num_unmarked, len(samples))

    def train(self, category: str) -> list[FileSample]:
        """The images of MT_Free; TrackInputError if there are none."""
        samples = [sample for sample in self.test(category) if sample.path.parent.parent.name == NORMAL_FOLDER]
        if not samples:
            raise TrackInputError(
                f"expected normal images in {self._root / NORMAL_FOLDER / 'Imgs'}, from which references are drawn, "
                "got none; put them there, or run the zero-shot track (shots=0)"
            )
        return samples

    def test(self, category: str) -> list[FileSample]:
        """All images, by folder and then by name."""
        if category != CATEGORY:
            raise unknown("category", category, self.categories)
        return list(self._test)

    def unread(self, category: str) -> list[FileSample]:
        """The images with an empty mask that are left out."""
        return self._unread

    def _folders(self) -> list[Path]:
        folders = [folder for folder in list_folders(self._root) if folder.name.startswith("MT_")]
        folders = [folder for folder in folders if (folder / "Imgs").is_dir()]
        if not any(list_images(folder / "Imgs", SUFFIXES) for folder in folders):
            inner = [folder for folder in list_folders(self._root) if any(folder.glob("MT_*"))]
            remedy = f"its folder {inner[0]} holds such folders: give that as the root" if inner else "give that folder"
            raise TrackInputError(
                f"expected the folders MT_Free, MT_Blowhole and so on, each with Imgs/<stem>.jpg and Imgs/<stem>.png, "
                f"in {self._root}, got none; {remedy} (for other layouts there is data=mvtec)"
            )
        return folders

    def _list(self, folder: Path) -> list[FileSample]:
        images = unique_stems(list_images(folder / "Imgs", SUFFIXES), "image")
        masks = {path.stem: path for path in list_images(folder / "Imgs", (".png",))}
        used = {*images.values(), *masks.values()}
        self._left_out.look_at([folder / "Imgs"])
        self._left_out.add("images that are no .jpg", [p for p in list_images(folder / "Imgs") if p not in used])
        self._left_out.add("masks without an image", [path for stem, path in masks.items() if stem not in images])
        return [self._sample(path, folder, masks) for path in images.values()]

    def _sample(self, path: Path, folder: Path, masks: dict[str, Path]) -> FileSample:
        name = path.relative_to(self._root).as_posix()
        if folder.name == NORMAL_FOLDER or (self._unmarked_are_normal and path.stem in UNMARKED):
            return FileSample(name, CATEGORY, 0, "good", path)
        if path.stem not in masks:
            near = closest_name(path.stem, masks)
            hint = f" ({near}.png is near)" if near else ""
            refuse(
                f"expected the mask of {path} at {path.with_suffix('.png')}, got none{hint}; copy the set again",
                "masks missing", path,
            )  # fmt: skip
        kind = folder.name.removeprefix("MT_").lower()
        return FileSample(name, CATEGORY, 1, kind, path, masks.get(path.stem), self._mask_above)
