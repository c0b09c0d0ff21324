"""Small data sets in the layouts of the real ones, to run whole commands where the data are not at hand.

Every category has one good and one defective test image and a few images to draw references from: 3:2 pictures of a
textured plate, the defect a brighter patch with its mask. They show that a command runs and what it costs, no more.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image

from eval.published.reader import load
from tracks.datasets.visa import TEST_COUNTS
from tracks.datasets.visa_split import COLUMNS, SPLIT_FILE

NUM_REFERENCES = 4
MVTEC = tuple(row.words["Object"] for row in load("april_gan/5").rows[:-1])
VISA = tuple(TEST_COUNTS)


def write_tree(name: str, root: Path, width: int = 300) -> Path:
    """The stand-in of a data set below `root`, pictures `width` px wide; returns its folder. Once written it stays."""
    folder = root / f"{name}-{width}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.part")
        WRITERS[name](unfinished, Painter(width))
        unfinished.rename(folder)
    return folder


class Painter:
    """Pictures with one kind of texture each, all different, the same in every run."""

    def __init__(self, width: int):
        self.size = (width, 2 * width // 3)
        self._random = np.random.default_rng(0)

    def plate(self, path: Path) -> None:
        """A good picture."""
        self._save(path, self._texture())

    def defect(self, path: Path, mask_path: Path, level: int) -> None:
        """A picture with a brighter patch, and its mask with this level there."""
        pixels, mask = self._texture(), np.zeros(self.size[::-1], dtype=np.uint8)
        height, width = mask.shape
        top, left = self._random.integers(height // 5, height // 2), self._random.integers(width // 5, width // 2)
        place = (slice(top, top + height // 6), slice(left, left + width // 8))
        pixels[place] = np.minimum(pixels[place].astype(int) + 90, 255)
        mask[place] = level
        self._save(path, pixels)
        self._save(mask_path, mask)

    def black(self, path: Path) -> None:
        """A mask without a defect."""
        self._save(path, np.zeros(self.size[::-1], dtype=np.uint8))

    def _texture(self) -> np.ndarray:
        """Coarse and fine noise around a grey, (H, W, 3) uint8."""
        width, height = self.size
        coarse = PIL.Image.fromarray(self._random.integers(70, 150, (9, 13, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)).astype(int)
        fine = self._random.integers(-15, 16, (height, width, 1))
        return np.clip(smooth + fine, 0, 255).astype(np.uint8)

    @staticmethod
    def _save(path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)


def _mvtec(root: Path, painter: Painter) -> None:
    """MVTec AD: PNG, masks of 255 named <stem>_mask.png."""
    for category in MVTEC:
        folder = root / category
        for number in range(NUM_REFERENCES):
            painter.plate(folder / f"train/good/{number:03}.png")
        painter.plate(folder / "test/good/000.png")
        painter.defect(folder / "test/broken/000.png", folder / "ground_truth/broken/000_mask.png", 255)


def _visa(root: Path, painter: Painter) -> None:
    """VisA as downloaded: JPEG, masks that hold the number of a kind, and the split file."""
    rows = []
    for category in VISA:
        data = Path(category, "Data")
        for number in range(NUM_REFERENCES + 1):
            image = data / f"Images/Normal/{number:04}.JPG"
            painter.plate(root / image)
            rows.append((category, "test" if number == NUM_REFERENCES else "train", "normal", image.as_posix(), ""))
        image, mask = data / "Images/Anomaly/000.JPG", data / "Masks/Anomaly/000.png"
        painter.defect(root / image, root / mask, 1)
        rows.append((category, "test", "anomaly", image.as_posix(), mask.as_posix()))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    (root / SPLIT_FILE).parent.mkdir(parents=True)
    (root / SPLIT_FILE).write_text(text.getvalue(), encoding="utf-8")


def _ksdd2(root: Path, painter: Painter) -> None:
    """KolektorSDD2: both folders alike, since the SAA+ table swaps them; a mask for every image."""
    for part, first in (("train", 10000), ("test", 20000)):
        painter.plate(root / f"{part}/{first}.png")
        painter.black(root / f"{part}/{first}_GT.png")
        painter.defect(root / f"{part}/{first + 1}.png", root / f"{part}/{first + 1}_GT.png", 255)


def _mtd(root: Path, painter: Painter) -> None:
    """The magnetic tiles: JPEG and mask side by side, good ones in MT_Free."""
    painter.plate(root / "MT_Free/Imgs/exp1_num_1.jpg")
    painter.black(root / "MT_Free/Imgs/exp1_num_1.png")
    folder = root / "MT_Blowhole/Imgs"
    painter.defect(folder / "exp1_num_2.jpg", folder / "exp1_num_2.png", 255)


WRITERS: dict[str, Callable[[Path, Painter], None]] = {"mvtec": _mvtec, "visa": _visa, "ksdd2": _ksdd2, "mtd": _mtd}
