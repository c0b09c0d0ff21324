"""Small photos and data sets, drawn by the installed package, that the documents' commands can be run on.

`python .ci/stand_ins.py FOLDER` writes into FOLDER what the documents call photos, good_parts, clip.mp4 and so on, and
below FOLDER/data what they call /data/mvtec, /data/visa, /data/mtd and /data/parts.
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from tracks.datasets.synthetic import Synthetic

DRAWN = Synthetic(train_per_category=12, test_normal=6, test_per_kind=1)
CATEGORIES = {"mvtec": {"bottle": "battery", "cable": "ball_bearing"}, "visa": {"candle": "candles"}}
"""What the stand-in of a public set calls the drawn products."""


def save(image: PIL.Image.Image, path: Path) -> None:
    """Write an image, its folder made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a (H, W) bool mask as 0 and 255."""
    save(PIL.Image.fromarray(mask.astype(np.uint8) * 255), path)


def mvtec_layout(root: Path, product: str, kind: str | None = None) -> None:
    """A category: its training images, its test images and their masks; `kind` replaces the names of defects."""
    for number, sample in enumerate(DRAWN.train(product)):
        save(sample.load_image(), root / f"train/good/{number:03}.png")
    for number, sample in enumerate(DRAWN.test(product)):
        name = kind if kind and sample.label else sample.defect_type.replace(" ", "_")
        save(sample.load_image(), root / f"test/{name}/{number:03}.png")
        if sample.label:
            save_mask(sample.load_mask(), root / f"ground_truth/{name}/{number:03}.png")


def tiles(root: Path, product: str = "plaster") -> None:
    """Magnetic tile defects as downloaded."""
    for number, sample in enumerate([*DRAWN.train(product), *DRAWN.test(product)]):
        folder = root / f"MT_{'Crack' if sample.label else 'Free'}/Imgs"
        save(sample.load_image(), folder / f"{number:03}.jpg")
        save_mask(sample.load_mask(), folder / f"{number:03}.png")


def parts(root: Path, product: str = "battery") -> None:
    """A folder of one's own: good, scratch, dent, masks."""
    for number, sample in enumerate(DRAWN.test(product)):
        folder = ("scratch", "dent")[number % 2] if sample.label else "good"
        save(sample.load_image(), root / folder / f"{number:03}.png")
        if sample.label:
            save_mask(sample.load_mask(), root / "masks" / f"{number:03}.png")


def photos(product: str = "battery") -> None:
    """Photos, good parts and a clip, in the current folder."""
    good, tested = DRAWN.train(product), DRAWN.test(product)
    for number, sample in enumerate(tested):
        save(sample.load_image(), Path(f"photos/{number:03}.jpg"))
        save(sample.load_image(), Path(f"judged_{'defect' if sample.label else 'good'}/{number:03}.jpg"))
    for number, sample in enumerate(good):
        save(sample.load_image(), Path(f"{'good_parts' if number < 6 else 'more_good_parts'}/{number:03}.jpg"))
    for name, sample in zip(
        ("photo", "photo1", "photo2", "more/1", "more/2", "good1"), tested[:5] + good[:1], strict=True
    ):
        save(sample.load_image(), Path(f"{name}.jpg"))
    clip = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (256, 256))
    for number in range(30):
        clip.write(np.asarray(tested[number % len(tested)].load_image())[..., ::-1].copy())
    clip.release()


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    photos()
    for name, categories in CATEGORIES.items():
        for category, drawn in categories.items():
            mvtec_layout(Path("data") / name / category, drawn, "bad" if name == "visa" else None)
    tiles(Path("data/mtd"))
    parts(Path("data/parts"))
