"""The page of `predict` for thousands of photos, opened in Chromium: bytes, seconds until it is there, slider, scroll.

    python -m benchmarks.predict_page --photos 5000

Needs playwright and Chromium (`--browser`).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tracks.decide.judge import plain_file
from tracks.decide.page import write_page
from tracks.decide.threshold import Threshold
from tracks.decide.verdict import Verdict

DIFFERENT = 200
"""So many different pictures stand behind the thumbnails."""
THRESHOLD = Threshold(0.8, "as you set it", highest_normal=0.7)


def write_folder(folder: Path, count: int) -> Path:
    drawn = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(DIFFERENT):
        rough = PIL.Image.fromarray(drawn.integers(0, 256, (20, 20, 3), np.uint8))
        rough.resize((320, 320), PIL.Image.Resampling.BICUBIC).save(pictures / f"{number}.jpg", quality=82)
    (folder / "thumbs").mkdir()
    verdicts = []
    for number, score in enumerate(drawn.beta(2, 3, count)):
        name, picture = f"line_3/2026-11-27/part_{number:06d}.jpg", pictures / f"{number % DIFFERENT}.jpg"
        thumb = f"thumbs/{number:06d}.jpg"
        for file in (thumb, plain_file(thumb)):
            (folder / file).hardlink_to(picture)
        files = {"map_file": f"maps/{number}.tiff", "overlay_file": thumb, "thumb_file": thumb}
        verdicts.append(Verdict(name, THRESHOLD.verdict(score), float(score), **files))
    return write_page(folder, f"{count} parts", verdicts, THRESHOLD, [None] * count)


def measured(page: Any, folder: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    started = time.monotonic()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.card').length > 0")
    print(f"usable after {time.monotonic() - started:.2f} s, {len(asked) - 1} pictures asked for at once")
    print(f"cards: {page.locator('.card').count()}, page height {page.evaluate('document.body.scrollHeight'):,} px")
    slide = """value => { const range = document.getElementById("range"); range.value = value;
        const t = performance.now(); range.dispatchEvent(new Event("input")); document.body.getBoundingClientRect();
        return performance.now() - t }"""
    for value in (0.5, 0.3, 0.8):
        print(f"slider to {value}: {page.evaluate(slide, value):.0f} ms, {page.locator('#filters').inner_text()!r}")
    scroll = """() => new Promise(done => { const frames = []; let last = performance.now(), n = 0;
        const step = now => { frames.push(now - last); last = now; window.scrollBy(0, 3000);
            n++ < 60 ? requestAnimationFrame(step) : done(frames) }; requestAnimationFrame(step) })"""
    frames = sorted(page.evaluate(scroll))
    print(f"scrolled 180,000 px in 60 steps: median {frames[30]:.0f} ms a frame, worst {frames[-1]:.0f} ms")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(1500)
    print(f"at the end {len(asked) - 1} pictures have been asked for")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        path = write_folder(Path(name), given.photos)
        print(f"{given.photos} photos: index.html has {path.stat().st_size:,} bytes")
        browser = driver.chromium.launch(executable_path=given.browser, args=["--no-sandbox", "--disable-gpu"])
        measured(browser.new_page(viewport={"width": 1400, "height": 900}), Path(name))
        browser.close()


if __name__ == "__main__":
    main()
