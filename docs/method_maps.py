"""The picture of the overview of methods: `python -m docs.method_maps`, from what ships alone.

Defective photos of rendered products that the small weights never saw, and every method's maps of them: in the upper
rows without references, in the lower rows with four. Each map is coloured from its own median to its own maximum, so
that the picture shows where a method looks first, and not how sure it is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from matplotlib import colormaps

from models.transductive import TransductiveModel
from tracks.api import learn, load_model, score
from tracks.datasets.synthetic.dataset import Synthetic

FILE = Path(__file__).with_name("methods") / "maps.jpg"
SHOWN = {"plaster": 1, "perforated_sheet": 4, "battery": 4}
"""Categories of the synthetic target split, and which of its defective test images."""
ZERO_SHOT = (
    "utad", "winclip", "saa", "saa_plus", "vector_adapter", "clip_adapter", "subspace_ad_batch", "anomaly_dino_batch",
    "musc",
)  # fmt: skip
FEW_SHOT = (
    "spade", "padim", "patchcore", "anomaly_dino", "subspace_ad", "superadd", "winclip", "saa_plus", "vector_adapter",
    "clip_adapter", "ensemble",
)  # fmt: skip
SHOTS = 4
SIDE, CAPTION, GAP = 112, 18, 3
INK, BACK = (30, 34, 38), (255, 255, 255)


def heat(anomaly_map: np.ndarray) -> PIL.Image.Image:
    """A map in colours, from its median to its maximum."""
    low, high = float(np.median(anomaly_map)), float(anomaly_map.max())
    shares = np.clip((anomaly_map - low) / max(high - low, 1e-30), 0, 1)
    return PIL.Image.fromarray(np.uint8(255 * colormaps["turbo"](shares)[..., :3]))


def shown(data: Synthetic, category: str) -> tuple[int, PIL.Image.Image, PIL.Image.Image]:
    """The number of the chosen test image of a category, itself and its mask."""
    samples = data.test(category)
    number = [i for i, sample in enumerate(samples) if sample.label == 1][SHOWN[category]]
    mask = samples[number].load_mask()
    assert mask is not None
    return number, samples[number].load_image(), PIL.Image.fromarray(np.uint8(255 * mask))


def maps(data: Synthetic, name: str, shots: int) -> list[PIL.Image.Image]:
    """A method's maps of the chosen images."""
    model, found = load_model(name, device="cpu"), []
    for category in SHOWN:
        number, image, _ = shown(data, category)
        if shots:
            learn(model, [sample.load_image() for sample in data.train(category)[:shots]], category)
        if isinstance(model, TransductiveModel):
            every = score(model, [sample.load_image() for sample in data.test(category)], category)
            found.append(heat(every[number].anomaly_map))
        else:
            found.append(heat(score(model, image, category)[0].anomaly_map))
    return found


def sheet(columns: Sequence[tuple[str, Sequence[PIL.Image.Image]]], wide: int) -> PIL.Image.Image:
    """Captions, and the pictures of each below."""
    cell = SIDE + GAP
    drawn = PIL.Image.new("RGB", (wide * cell + GAP, CAPTION + len(SHOWN) * cell + GAP), BACK)
    draw, font = PIL.ImageDraw.Draw(drawn), PIL.ImageFont.load_default(size=11)
    for column, (caption, pictures) in enumerate(columns):
        left = GAP + column * cell
        draw.text((left + SIDE // 2, CAPTION // 2), caption, fill=INK, font=font, anchor="mm")
        for row, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
            drawn.paste(small, (left, CAPTION + row * cell))
    return drawn


def main() -> None:
    """Draw the picture."""
    data = Synthetic()
    pictures = [shown(data, category) for category in SHOWN]
    given = [("photo", [photo for _, photo, _ in pictures]), ("defect", [mask for _, _, mask in pictures])]
    rows = [
        given + [(name, maps(data, name, shots)) for name in names]
        for names, shots in ((ZERO_SHOT, 0), (FEW_SHOT, SHOTS))
    ]
    parts = [sheet(row, max(map(len, rows))) for row in rows]
    whole = PIL.Image.new("RGB", (parts[0].width, sum(part.height + GAP for part in parts)), BACK)
    for number, part in enumerate(parts):
        whole.paste(part, (0, number * (part.height + GAP)))
    whole.save(FILE, quality=85, optimize=True)
    print(FILE.name, np.round(FILE.stat().st_size / 1e3), "kB")


if __name__ == "__main__":
    main()
