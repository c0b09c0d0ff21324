"""The page in a real browser, where one is installed: nothing hangs over the edge at phone or desk width."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.support.report_stand_ins import OPTIONS, ReportDataset, finished_run
from tracks.report_page.page import render_page
from tracks.report_page.pictures import Photos

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=5000",
    "--dump-dom",
)  # fmt: skip
MEASURE = """
<script>addEventListener('load', () => {
  const result = {};
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    const over = [...page.querySelectorAll('body *')].filter(e => !e.closest('table') && !e.closest('svg')
      && e.getBoundingClientRect().right > width + 0.5).map(e => e.tagName + '.' + e.className);
    const wide = [...page.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length;
    const broken = [...page.querySelectorAll('svg image')].filter(e => !e.getBoundingClientRect().width).length;
    result[width] = {scroll: page.documentElement.scrollWidth, over: over, wide: wide, broken: broken};
  }
  document.body.dataset.result = JSON.stringify(result);
});</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: install chromium to look at the page in it")


def measured(page, folder):
    """What the browser says of a page in frames 390 and 1280 pixels wide, by width."""
    frames = "".join(
        f'<iframe style="width:{w}px;height:800px;border:0" srcdoc="{html.escape(page)}"></iframe>' for w in (390, 1280)
    )
    (folder / "frames.html").write_text(f"<!DOCTYPE html><body>{frames}{MEASURE}</body>", encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return {int(width): result for width, result in json.loads(html.unescape(found[1])).items()}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    store = finished_run(tmp_path_factory.mktemp("report") / "run")
    return render_page(store, Photos(ReportDataset()), OPTIONS)


def test_nothing_hangs_over_the_edge_and_wide_tables_scroll_in_their_box(page, tmp_path):
    results = measured(page, tmp_path)
    assert set(results) == {390, 1280}
    for width, result in results.items():
        assert (result["scroll"], result["over"], result["broken"]) == (width, [], 0)
    assert results[390]["wide"] > 0


def test_the_measurement_sees_what_hangs_over(page, tmp_path):
    results = measured(page.replace("<footer>", '<footer><p style="width:700px">x</p>'), tmp_path)
    assert results[390]["scroll"] > 390
    assert results[390]["over"] == ["P."]
    assert results[1280]["over"] == []
