"""A submission as a folder, its zip and its record, replaced as a whole or not at all."""

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracks.errors import TrackInputError


def replace_submission(out: Path, record: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder, then put it at `out`, zipped beside it; returns the path of the zip.

    `<out>.json` keeps `record` and marks the three as ours: an earlier submission is replaced, other files never.

    Raises:
        TrackInputError: `out` holds something that this function did not write.
    """
    archive, marker, partial = beside(out, ".zip"), beside(out, ".json"), beside(out, ".partial")
    taken = [path for path in (archive, out) if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if taken and not marker.is_file():
        raise TrackInputError(
            f"expected a new place for the submission, or an earlier one, got {taken[0]}, which holds other files; "
            "choose another folder with OUT=..."
        )
    try:
        _discard(partial)
        partial.mkdir(parents=True)
        write(partial)
        marker.write_text(json.dumps(record, indent=2) + "\n")
        _discard(archive)
        _discard(out)
        partial.rename(out)
        write_archive(out, archive)
    finally:
        _discard(partial)
    return archive


def write_archive(folder: Path, archive: Path) -> None:
    """Zip the files of `folder` in a fixed order and with a fixed date: equal files make equal archives.

    Stored as they are: the maps, which make up its size, are compressed already.
    """
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            member.external_attr = 0o644 << 16
            zipped.writestr(member, path.read_bytes())


def beside(out: Path, suffix: str) -> Path:
    """The path next to `out` that only differs by an added suffix."""
    return Path(f"{out}{suffix}")


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
