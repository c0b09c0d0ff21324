"""The page of judged photos: what it holds, that no text breaks it, and that its slider recounts in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from tracks.decide.page import write_page
from tracks.decide.threshold import Threshold
from tracks.decide.verdict import Verdict

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom")
THRESHOLD = Threshold(0.8, "as you set it", highest_normal=0.6)
VERDICTS = [
    Verdict("a.png", "DEFECT", 0.9, "maps/a.png.tiff", "overlays/a.png.jpg", thumb_file="thumbs/a.png.jpg"),
    Verdict("</script><b>#1%.png", "undecided", 0.7),
    Verdict("c.png", "OK", 0.2),
    Verdict("broken\udcff.png", "unreadable", note="cannot be read"),
]


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_every_photo_and_finds_their_files(tmp_path):
    photos = [tmp_path.parent / "photos" / verdict.name for verdict in VERDICTS]
    data = data_of(write_page(tmp_path, "<i>nut</i>", VERDICTS, THRESHOLD, photos))
    assert (data["threshold"], data["highest_normal"]) == (0.8, 0.6)
    assert [(photo["score"], photo["verdict"]) for photo in data["photos"]] == [
        (verdict.score, verdict.verdict) for verdict in VERDICTS
    ]
    assert data["photos"][0]["thumb"] == "thumbs/a.png.jpg"
    assert data["photos"][0]["plain"] == "thumbs/a.png.photo.jpg"
    assert unquote_to_bytes(data["photos"][1]["photo"]).decode() == "../photos/</script><b>#1%.png"
    assert unquote_to_bytes(data["photos"][3]["photo"]) == b"../photos/broken\xff.png"
    assert "<i>" not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: install chromium to look at the page in it")
@pytest.mark.parametrize(
    ("hash_", "counts"),
    [("", ["all 4", "DEFECT 1", "undecided 1", "OK 1", "unreadable 1"]),
     ("#threshold=0.65", ["all 4", "DEFECT 2", "OK 1", "unreadable 1"]),
     ("#threshold=0.1", ["all 4", "DEFECT 3", "unreadable 1"])],
)  # fmt: skip
def test_another_threshold_recounts_in_the_browser(tmp_path, hash_, counts):
    page = write_page(tmp_path, "nut", VERDICTS, THRESHOLD, [None] * len(VERDICTS))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri() + hash_]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    group = re.search(r'<div class="row" id="filters".*?</div>', done.stdout, re.DOTALL)[0]
    assert re.findall(r">([^<>]+)</button>", group) == counts
    names = re.findall(r'class="name" title="([^"]*)"', done.stdout)
    assert names[0] == "a.png", "highest score first"
    assert len(names) == len(VERDICTS)
