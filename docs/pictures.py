"""The picture at the top of the README: `python -m docs.pictures`, from what ships alone.

Rendered products that the small weights never saw, four good ones of each as references: the photo, what the model sees
in it, and the verdict by the threshold that the references give.
"""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from eval.ranking.histogram import ValueCounts
from tracks.api import learn, load_model, score
from tracks.datasets.synthetic.dataset import Synthetic
from tracks.decide.threshold import DEFECT, leave_one_out
from tracks.decide.threshold_fit import reference_threshold
from tracks.run.overlay import category_scale, count_pixels, map_bound, render_overlay

FILE = Path(__file__).with_name("finds.jpg")
SHOWN = {"plaster": 1, "ball_bearing": 1, "denim": 1, "marble": 1, "perforated_sheet": 0, "battery": 0}
"""Categories of the synthetic target split, and whether a defective image or a good one is shown."""
SHOTS = 4
SIDE, CAPTION, GAP = 220, 26, 6
INK, BACK = (30, 34, 38), (255, 255, 255)
COLOURS = {"DEFECT": (198, 40, 40), "OK": (46, 125, 50), "undecided": (138, 97, 0)}


def main() -> None:
    """Draw the picture."""
    model, data = load_model(), Synthetic()
    size = (len(SHOWN) * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + CAPTION + GAP)
    sheet = PIL.Image.new("RGB", size, BACK)
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(size=15)
    for number, (category, wanted) in enumerate(SHOWN.items()):
        references = [sample.load_image() for sample in data.train(category)[:SHOTS]]
        learn(model, references, category)
        names = [str(each) for each in range(SHOTS)]
        kept = leave_one_out(model, category)
        threshold = reference_threshold(kept, names, 0.05, probabilities=True)
        photo = next(sample for sample in data.test(category) if sample.label == wanted).load_image()
        found = score(model, photo, category)[0]
        counts = ValueCounts()
        for each in kept.anomaly_maps:
            count_pixels(counts, each.numpy(), normal=True)
        scale = category_scale(counts, map_bound(model.protocol, True))
        verdict = threshold.verdict(found.score)
        heat = render_overlay(photo, found.anomaly_map, scale, called=verdict == DEFECT)
        left = GAP + number * (SIDE + GAP)
        for row, picture in enumerate((photo, heat.crop((0, 0, heat.width, heat.width)))):
            square = picture.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
            sheet.paste(square, (left, GAP + row * (SIDE + GAP)))
        top = 2 * (SIDE + GAP) + GAP
        draw.text((left, top), verdict, fill=COLOURS[verdict], font=font)
        draw.text((left + SIDE, top), f"{found.score:.3f}", fill=INK, font=font, anchor="ra")
    sheet.save(FILE, quality=88, optimize=True)
    print(FILE.name, np.round(FILE.stat().st_size / 1e3), "kB")


if __name__ == "__main__":
    main()
