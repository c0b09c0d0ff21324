"""The pictures of the README and of the site's first page: `python -m docs.pictures`, from what ships alone.

`finds.jpg`: rendered products that the small weights never saw, four good ones of each as references; the photo, what
the model sees in it, and the verdict by the threshold that the references give. `page.jpg`: the page of `vandkit
predict` on some of them in Chromium (needs playwright; `python -m docs.pictures page` makes it alone).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from eval.ranking.histogram import ValueCounts
from tracks.api import learn, load_model, predict_folder, score
from tracks.datasets.synthetic.dataset import Synthetic
from tracks.decide.threshold import DEFECT, leave_one_out
from tracks.decide.threshold_fit import reference_threshold
from tracks.run.overlay import category_scale, count_pixels, map_bound, render_overlay

FILE = Path(__file__).with_name("finds.jpg")
SHOWN = {"plaster": 1, "ball_bearing": 1, "denim": 1, "marble": 1, "perforated_sheet": 0, "battery": 0}
"""Categories of the synthetic target split, and whether a defective image or a good one is shown."""
SHOTS = 4
SIDE, CAPTION, GAP = 220, 40, 6
INK, BACK = (30, 34, 38), (255, 255, 255)
PAGE, PAGE_OF, PAGE_PHOTOS = FILE.with_name("page.jpg"), "ball_bearing", 12
BROWSER = "/usr/bin/chromium"
COLOURS = {"DEFECT": (198, 40, 40), "OK": (46, 125, 50), "undecided": (138, 97, 0)}


def finds() -> None:
    """Draw photos, heat and verdicts."""
    model, data = load_model(), Synthetic()
    size = (len(SHOWN) * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + CAPTION + GAP)
    sheet = PIL.Image.new("RGB", size, BACK)
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(size=27)
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


def page() -> None:
    """Judge a folder of one product and take a picture of its page."""
    from playwright.sync_api import sync_playwright

    data = Synthetic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, samples in {"good": data.train(PAGE_OF)[:8], "photos": data.test(PAGE_OF)}.items():
            (folder / part).mkdir()
            for number, sample in enumerate(samples[:: max(1, len(samples) // PAGE_PHOTOS)]):
                sample.load_image().save(folder / part / f"bearing_{number:02d}.jpg", quality=95)
        found = predict_folder(folder / "photos", folder / "good", "ball bearing", out=str(folder / "judged"))
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page(viewport={"width": 1100, "height": 700})
            tab.goto((found.folder / "index.html").as_uri())
            tab.wait_for_timeout(1000)
            tab.screenshot(path=PAGE, type="jpeg", quality=85)
            browser.close()
    print(PAGE.name, np.round(PAGE.stat().st_size / 1e3), "kB")


if __name__ == "__main__":
    if "page" not in sys.argv:
        finds()
    page()
