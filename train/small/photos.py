"""Photographs without defects that the small weights learn from: crops of CC0 pictures, packed into one file.

`python -m train.small.photos FOLDER` packs the file that ships, from the photographs of the public
"clothing-dataset-small" (Alexey Grigorev, CC0 1.0): clothes on floors, doors, beds and tables.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

SIDE = 256
QUALITY = 60
LEAST_SHARE = 0.5
"""Of the shorter side of a photograph: the smallest crop."""


def pack(folder: Path, out: Path, seed: int = 0) -> int:
    """Write a square crop of every JPEG in a folder into a zip file; returns how many."""
    rng = np.random.default_rng(seed)
    photos = sorted(folder.glob("*.jpg"))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in photos:
            image = PIL.Image.open(path).convert("RGB")
            side = int(min(image.size) * rng.uniform(LEAST_SHARE, 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
            crop = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
            content = io.BytesIO()
            crop.save(content, "WEBP", quality=QUALITY, method=6)
            archive.writestr(zipfile.ZipInfo(f"{path.stem}.webp"), content.getvalue())
    return len(photos)


def read_photos(file: Path, side: int) -> Tensor:
    """All crops of a packed file, (N, side, side, 3) uint8."""
    with zipfile.ZipFile(file) as archive:
        images = [PIL.Image.open(io.BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
        return torch.stack([torch.from_numpy(np.array(image.resize((side, side)).convert("RGB"))) for image in images])


if __name__ == "__main__":
    print(pack(Path(sys.argv[1]), Path(__file__).with_name("photos_cc0.zip")), "photographs packed")
