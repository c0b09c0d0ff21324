"""Unpacking archives that others made: .tar, .tar.gz, .tar.xz, .tar.bz2 and .zip, by content and not by name.

Nothing is believed: a member may not leave the folder, be a link or a device, come twice, or be larger than it says;
number and size of all are bounded, and the room on the disk is asked for first. The members are written into a hidden
folder and put in their place once all are there. Permissions are not taken over.
"""

import json
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Self

from models.disk import lacking_room
from tracks.command.names import missing_path
from tracks.command.paths import leads_out
from tracks.errors import TrackInputError

PIECE = 1 << 20
RECORD = ".unpacked.json"
"""What was unpacked, written last: a folder with it is whole."""
PARTIAL = ".unpacking"
Kind = Literal["file", "folder", "link", "device"]
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Limits:
    """What an honest archive of images stays below."""

    members: int = 2_000_000
    expansion: float = 100.0
    """Unpacked bytes for each byte of the archive, once there are more than `always_allowed`."""
    always_allowed: int = 1 << 30
    """Unpacked bytes that any archive may have."""

    def bytes_of(self, archive_size: int) -> int:
        """The most bytes that an archive of so many bytes may unpack to."""
        return max(self.always_allowed, int(archive_size * self.expansion))


@dataclass(frozen=True)
class Member:
    """One entry of an archive as it describes itself."""

    name: str
    kind: Kind
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, limits: Limits | None = None) -> bool:
    """Unpack an archive into a new folder; False if that was done before and everything is still there.

    Raises:
        TrackInputError: no archive, a damaged or an evil one, no room, or a folder that holds other files.
    """
    if not archive.is_file():
        raise missing_path("an archive", archive)
    if _is_done(archive, folder):
        return False
    existed, half = folder.exists(), folder / PARTIAL
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        files, size = _write_all(archive, half, limits or Limits())
        record = {"archive": archive.name, "archive_size": archive.stat().st_size, "files": files, "bytes": size}
        for path in half.iterdir():
            path.rename(folder / path.name)
        (folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(half, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()
    return True


def _is_done(archive: Path, folder: Path) -> bool:
    """Whether `folder` holds this archive's files; TrackInputError if it holds others."""
    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= {PARTIAL}):
        return False
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = (record["archive"], record["archive_size"]) == (archive.name, archive.stat().st_size)
        expected = (int(record["files"]), int(record["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        same, expected = False, (0, 0)
    if not same:
        raise TrackInputError(
            f"expected a new folder to unpack {archive} into, got {folder}, which holds other files; choose another "
            "one, or take these away"
        )
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD]
    found = (len(files), sum(path.stat().st_size for path in files))
    if found[0] < expected[0] or found[1] < expected[1]:
        raise TrackInputError(
            f"expected {folder} to hold the {expected[0]:,} files ({expected[1]:,} bytes) unpacked from {archive}, got "
            f"{found[0]:,} ({found[1]:,} bytes); delete the folder to unpack it again"
        )
    return True


def _write_all(archive: Path, folder: Path, limits: Limits) -> tuple[int, int]:
    """Write every member below `folder`; (number of files, their bytes)."""
    allowed = limits.bytes_of(archive.stat().st_size)
    names: set[PurePosixPath] = set()
    total = 0
    with _reading(archive), _members(archive) as (members, unpacked_size):
        _ask_for_room(folder, unpacked_size, archive)
        for count, member in enumerate(members, start=1):
            if count > limits.members:
                raise _evil(archive, f"more than {limits.members:,} members, like an archive made to fill a disk")
            name = _safe_name(member, archive)
            if member.kind == "folder":
                (folder / name).mkdir(parents=True, exist_ok=True)
                continue
            if name in names:
                raise _evil(archive, f"two members of the name {member.name!r}")
            names.add(name)
            total += member.size
            if total > allowed:
                raise _evil(archive, f"more than {allowed:,} bytes, like an archive made to fill a disk")
            _ask_for_room(folder, member.size, archive)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, (folder / name).open("xb") as file:
                shutil.copyfileobj(source, file, PIECE)  # both readers stop at the stated size, tarfile with an error
                if missing := member.size - file.tell():
                    raise EOFError(f"the member {member.name!r} lacks {missing:,} bytes")
    return len(names), total


def _safe_name(member: Member, archive: Path) -> PurePosixPath:
    """The member's path below the folder; backslashes part names as on Windows."""
    if member.kind in ("link", "device"):
        raise _evil(archive, f"the member {member.name!r}, which is a {member.kind}")
    name = PurePosixPath(member.name.replace("\\", "/"))
    drive = bool(name.parts) and ":" in name.parts[0]
    if member.kind == "file" and not name.parts:
        raise _evil(archive, f"the member {member.name!r}, which has no name")
    if name.parts and (drive or leads_out(member.name)):
        raise _evil(archive, f"the member {member.name!r}, which leads out of the folder")
    return name


@contextmanager
def _members(archive: Path) -> Iterator[tuple[Iterator[Member], int]]:
    """The members in their order, and how many bytes to ask for first: all that is known without unpacking."""
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):  # a tar that ends in a zip is a tar
        with zipfile.ZipFile(archive) as zipped:
            infos = zipped.infolist()
            yield (_of_zip(zipped, info) for info in infos), sum(info.file_size for info in infos)
        return
    with tarfile.open(archive, tarinfo=StrictInfo) as tar:
        yield (_of_tar(tar, info) for info in tar), archive.stat().st_size


class StrictInfo(tarfile.TarInfo):
    """Header of a member; where tarfile takes a broken one, or none, for the end of the archive, this is an error.

    tarfile alone unpacks a tar that was cut between two members without a word.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next header of an archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a member or the end of the archive should be") from error


def _of_zip(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kinds: dict[int, Kind] = {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    kind = "folder" if info.is_dir() else kinds.get(stat.S_IFMT(info.external_attr >> 16), "device")
    return Member(info.filename, kind, info.file_size, partial(zipped.open, info))


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    link = info.issym() or info.islnk()
    kind: Kind = "file" if info.isreg() else "folder" if info.isdir() else "link" if link else "device"
    return Member(info.name, kind, info.size, partial(tar.extractfile, info))  # type: ignore[arg-type]


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Name an archive that cannot be read."""
    try:
        yield
    except DAMAGED as error:
        raise TrackInputError(
            f"expected an archive that can be read (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip), got {archive}: "
            f"{str(error) or type(error).__name__}; it is truncated, damaged or no archive: fetch it again"
        ) from error
    except RuntimeError as error:  # zipfile has no class of its own for encryption
        raise TrackInputError(
            f"expected an archive that opens without a password, got {archive}: {error}; unpack it by hand"
        ) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _evil(archive, f"a member that is both a file and a folder ({Path(str(error.filename)).name})") from error


def _ask_for_room(folder: Path, num_bytes: int, archive: Path) -> None:
    if wrong := lacking_room(folder.parent, num_bytes):
        raise TrackInputError(f"{wrong}, to unpack {archive}; free some space, or choose a folder on another disk")


def _evil(archive: Path, what: str) -> TrackInputError:
    return TrackInputError(
        f"expected an archive of plain files that stay in its folder, got {archive} with {what}; nothing was unpacked: "
        "do not trust it, fetch it again from its publisher"
    )
