"""The demo page in a real browser, where Gradio, Playwright and Chromium are installed."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("gradio", reason="needs the extra: pip install '.[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120_000

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: install chromium to look at the page in it"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name, spot in (("good", 0), ("bad", 255)):
        pixels = np.random.default_rng(0).integers(90, 130, (60, 80, 3), dtype=np.uint8)
        pixels[20:35, 30:50] = spot or pixels[20:35, 30:50]
        PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return [str(folder / f"{name}.png") for name in ("good", "bad", "broken")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as said:
        command = [sys.executable, "-m", "tracks.demo", f"port={port}", "open=false", "device=cpu"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        try:
            until = time.monotonic() + PATIENCE / 1000
            while "open http" not in log.read_text() and time.monotonic() < until and server.poll() is None:
                time.sleep(0.2)
            assert "open http" in log.read_text(), log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


def judged(browser, address, files, width):
    """The page once the files are judged."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#photos input[type=file]").set_input_files(files)
    page.locator("#good input[type=file]").set_input_files(files[0])
    page.locator("#good").get_by_text("good.png").first.wait_for()
    for name in files:
        page.locator("#photos").get_by_text(Path(name).stem).first.wait_for()
    page.locator("#judge").click()
    page.locator("#summary").get_by_text("unreadable").wait_for()
    return page


def test_photos_are_judged_the_slider_judges_again_and_a_broken_file_is_named(browser, address, files):
    page = judged(browser, address, files, 1400)
    assert "broken.png" in page.locator("#notes").inner_text()
    captions = page.locator("#gallery .caption-label")
    assert captions.count() == 2
    assert "bad.png" in captions.first.inner_text()
    slider = page.locator("#threshold input[type=range]")
    slider.fill(slider.get_attribute("min"))
    page.locator("#summary").get_by_text("2 DEFECT").wait_for()
    slider.fill(slider.get_attribute("max"))
    page.locator("#summary").get_by_text("1 undecided, 1 OK").wait_for()
    page.get_by_role("button", name="Threshold as fitted").click()
    page.locator("#rule").get_by_text("of 1 reference").wait_for()
    page.locator("#gallery button.thumbnail-item").nth(1).click()
    page.locator("#chosen").get_by_text("good.png").wait_for()
    with page.expect_download() as download:
        page.locator("#list").click()
    rows = Path(download.value.path()).read_text("utf-8-sig").splitlines()
    assert [row.split(",")[0] for row in rows] == ["file", "bad.png", "good.png", "broken.png"]
    page.close()


def test_nothing_hangs_over_the_edge_on_a_phone(browser, address, files):
    page = judged(browser, address, files, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_files_that_are_no_pictures_end_in_a_sentence(browser, address, files):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#photos input[type=file]").set_input_files(files[2])
    page.locator("#photos").get_by_text("broken").first.wait_for()
    page.locator("#judge").click()
    page.locator("#notes").get_by_text("not one of the photos could be read").wait_for()
    page.close()


def test_the_same_over_http(address, files):
    client = pytest.importorskip("gradio_client")
    page = client.Client(address, verbose=False)
    photos = [client.handle_file(name) for name in files]
    answer = page.predict(photos, photos[:1], "plate", "", "clip_adapter", "tiny", api_name="/judge")
    assert [each["file"] for each in answer["photos"]] == ["bad.png", "good.png", "broken.png"]
    assert "1 reference" in answer["threshold"]["source"]
    assert "broken.png" in answer["notes"][0]
