"""A submission as a folder, its archive and its record, replaced as a whole or not at all."""

import gzip
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracks.errors import TrackInputError

KIND = "archive"
"""Key of the record for an archive that is no .zip."""


def replace_submission(
    out: Path, record: Mapping[str, Any], write: Callable[[Path], None], suffix: str = ".zip"
) -> Path:
    """Let `write` fill a new folder, then put it at `out`, packed beside it; returns the path of the archive.

    `<out>.json` keeps `record` and marks the three as ours: an earlier submission is replaced, other files never.
    `suffix` is ".zip" or ".tar.gz"; an archive of the other kind goes if the earlier submission wrote it.

    Raises:
        TrackInputError: `out` holds something that this function did not write.
    """
    archive, marker, partial = beside(out, suffix), beside(out, ".json"), beside(out, ".partial")
    ours = _written_before(out, marker)
    taken = [path for path in (archive, out) if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    taken = [path for path in taken if path not in ours]
    if taken:
        raise TrackInputError(
            f"expected a new folder for the submission, or that of an earlier one, got {taken[0]}, which holds other "
            "files; choose another folder with OUT=..."
        )
    try:
        _discard(partial)
        partial.mkdir(parents=True)
        write(partial)
        for path in (*ours, out):
            _discard(path)
        marker.write_text(json.dumps({**record, **({} if suffix == ".zip" else {KIND: suffix})}, indent=2) + "\n")
        partial.rename(out)
        PACKERS[suffix](out, archive)
    finally:
        _discard(partial)
    return archive


def _written_before(out: Path, marker: Path) -> list[Path]:
    """The folder and the archive that the record of an earlier submission speaks of; nothing without a record."""
    if not marker.is_file():
        return []
    try:
        kind = json.loads(marker.read_text(encoding="utf-8")).get(KIND, ".zip")
    except (ValueError, AttributeError):
        kind = ".zip"
    return [out, beside(out, kind if kind in PACKERS else ".zip")]


def write_archive(folder: Path, archive: Path) -> None:
    """Zip the files of `folder` in a fixed order and with a fixed date: equal files make equal archives.

    Stored as they are: the maps, which make up its size, are compressed already.
    """
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            member.external_attr = 0o644 << 16
            zipped.writestr(member, path.read_bytes())


def write_tar(folder: Path, archive: Path) -> None:
    """Pack the files of `folder` as .tar.gz, each name below the folder's own, in a fixed order, undated, ownerless."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            member.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(member, content)


PACKERS: Mapping[str, Callable[[Path, Path], None]] = {".zip": write_archive, ".tar.gz": write_tar}
"""How a folder becomes one file, by the suffix of that file."""


def beside(out: Path, suffix: str) -> Path:
    """The path next to `out` that only differs by an added suffix."""
    return Path(f"{out}{suffix}")


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
