"""index.html of a folder of judged photos: thumbnails by score, a threshold to move, a list to save; all offline."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from models.disk import replaced
from tracks.decide.judge import plain_file
from tracks.decide.threshold import Threshold
from tracks.decide.verdict import Verdict

PAGE_FILE = "index.html"


def write_page(
    folder: Path, title: str, verdicts: Iterable[Verdict], threshold: Threshold, photos: Iterable[Path | None]
) -> Path:
    """Write index.html into the folder of a finished `predict`, one photo after another.

    Args:
        folder: where overlays/ and thumbs/ are.
        title: what the page is headed with.
        verdicts: of all photos.
        threshold: by which they were given.
        photos: the files of the photos, in the same order; the page links to them where they are.
    """
    rows = (_row(verdict, folder, photo) for verdict, photo in zip(verdicts, photos, strict=True))
    data: dict[str, Any] = {"threshold": threshold.value, "highest_normal": threshold.highest_normal, "photos": []}
    rule = " ".join([f"Threshold {threshold.value:.4f}: {threshold.source}.", *threshold.remarks])
    from jinja2 import Environment, PackageLoader, select_autoescape  # not before the first photo is judged

    pages = Environment(loader=PackageLoader("tracks.decide", "."), autoescape=select_autoescape())
    text = pages.get_template("page.html").stream(
        title=_printable(title), rule=_printable(rule), data=_with_photos(data, rows)
    )
    path = folder / PAGE_FILE
    with replaced(path) as part:
        text.dump(str(part), "utf-8")
    return path


def _with_photos(data: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[Markup]:
    """The data as JSON in parts, the photos at the end of it one by one."""
    start, end = _in_script(data).rsplit("]", 1)
    yield start
    comma = Markup()
    for row in rows:
        yield comma + _in_script(row)
        comma = Markup(",")
    yield "]" + end


def _row(verdict: Verdict, folder: Path, photo: Path | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": _printable(verdict.name), "score": verdict.score, "verdict": verdict.verdict}
    if verdict.note:
        row["note"] = _printable(verdict.note)
    if verdict.thumb_file:
        row["thumb"] = _address(verdict.thumb_file)
    if verdict.thumb_file and verdict.map_file:
        row["plain"] = _address(plain_file(verdict.thumb_file))
    if verdict.overlay_file:
        row["overlay"] = _address(verdict.overlay_file)
    if verdict.photo_file:
        row["photo"] = _address(verdict.photo_file)
    elif photo is not None:
        row["photo"] = _address(os.path.relpath(photo, folder))
    return row


def _address(path: str) -> str:
    """A path relative to the page as an address; names that are no valid Unicode keep their bytes."""
    return quote(os.fsencode(path.replace(os.sep, "/")))


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _in_script(data: Any) -> Markup:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
