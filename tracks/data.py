"""Entry point of `make data DATA=... ROOT=...`: download a public data set, check, unpack and look it over.

Where no address is known, or none answers, it says where to get the file by hand and what to do with it.
"""

from pathlib import Path

from omegaconf import DictConfig

from models.disk import lacking_room
from models.errors import ModelInputError
from models.weights.cache import archives_folder
from models.weights.digests import Expected, remember, trust, trusted
from models.weights.download import DownloadError, Wanted, download
from tracks.command.cli import command, run_main
from tracks.command.names import missing_path, unknown
from tracks.datasets.archives import RECORD, unpack
from tracks.datasets.files import list_folders
from tracks.datasets.recognise import known_layouts
from tracks.datasets.registry import Archive, DatasetEntry, registry
from tracks.doctor import data_name, data_root, examine_configured, report
from tracks.errors import TrackInputError


def get(entry: DatasetEntry, root: Path, own: Path | None = None) -> Path:
    """Bring a data set into `root`; returns the folder to name as ROOT, which may lie inside.

    Nothing is done where data lie already. `own` is an archive that is here already.

    Raises:
        TrackInputError: no address, none that answers, another archive than recorded, an evil one, no room.
    """
    here = innermost(root) if (root / RECORD).is_file() else root
    if here.is_dir() and known_layouts(here):
        print(f"{here} holds data already: nothing is fetched")
        return here
    print(
        f"{entry.title}: {entry.licence}; commercial use {entry.commercial_use}; {entry.page}\ncite: {entry.citation}"
    )
    if not entry.archives:
        raise _by_hand(entry, root, "an address of its archive", "none is known")
    _ask_for_room(entry, root, own)
    for archive in entry.archives:
        path = _checked(entry, archive, own) if own else _fetched(entry, archive, root)
        folder = root if len(entry.archives) == 1 else root / Path(archive.file).name.split(".")[0]
        print(f"unpacking {path} ({path.stat().st_size / 1e9:.2f} GB) into {folder}")
        unpack(path, folder)
    return innermost(root)


def innermost(root: Path) -> Path:
    """The folder of the data: archives often hold everything in one folder of their own."""
    while not known_layouts(root):
        inner = list_folders(root)
        if len(inner) != 1:
            break
        root = inner[0]
    return root


def _ask_for_room(entry: DatasetEntry, root: Path, own: Path | None) -> None:
    """Ask, before anything is fetched, for room for the archives and for as much again unpacked, on one disk or two."""
    missing = [
        archive.size or 0 for archive in entry.archives if not (own or (archives_folder() / archive.file).is_file())
    ]
    needed: dict[int, tuple[Path, int]] = {}
    for folder, size in (
        (archives_folder(), sum(missing)),
        (root, sum(archive.size or 0 for archive in entry.archives)),
    ):
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        disk = place.stat().st_dev
        needed[disk] = (place, size + needed.get(disk, (place, 0))[1])
    for place, size in needed.values():
        if wrong := lacking_room(place, size):
            raise TrackInputError(
                f"{wrong}, for the archive of {entry.title} and what is unpacked from it; free some space, or choose "
                "folders on another disk with ROOT=... and VANDKIT_CACHE=..."
            )


def _fetched(entry: DatasetEntry, archive: Archive, root: Path) -> Path:
    """The archive in the cache folder, downloaded if it is not there, and as recorded."""
    path = archives_folder() / archive.file
    if not path.is_file():
        try:
            download(Wanted(archive.file, archive.urls, path, _expected(entry, archive)))
        except DownloadError as error:
            raise _by_hand(entry, root, "its archive", str(error)) from error
    return _checked(entry, archive, path)


def _expected(entry: DatasetEntry, archive: Archive) -> Expected:
    """What is published of an archive, or trusted since its first use."""
    known = Expected(archive.size, archive.sha256)
    return known if archive.sha256 else trusted(_key(entry, archive)) or known


def _checked(entry: DatasetEntry, archive: Archive, path: Path) -> Path:
    """The archive, if it has the recorded size and sha256; where none is published it is trusted on first use."""
    if not path.is_file():
        raise missing_path("an archive", path)
    expected = _expected(entry, archive)
    if not expected.digest:
        expected = trust(_key(entry, archive), path)
    if wrong := expected.difference(path):
        raise TrackInputError(
            f"expected {path} to be {archive.file} of {entry.title} ({expected.size or 0:,} bytes, sha256 "
            f"{expected.sha256}), got {wrong[1]}; delete it and fetch it again"
        )
    remember(path, expected.digest)
    return path


def _key(entry: DatasetEntry, archive: Archive) -> str:
    return f"data/{entry.name}/{archive.file}"


def _by_hand(entry: DatasetEntry, root: Path, expected: str, got: str) -> TrackInputError:
    files = ", ".join(archive.file for archive in entry.archives)
    place = (
        f"; then make data DATA={entry.name} ROOT={root} ARGS=archive=FILE checks and unpacks {files}" if files else ""
    )
    return TrackInputError(
        f"expected {expected} to bring {entry.title}, got: {got}. Get it by hand from {entry.page}: {entry.by_hand}"
        f"{place}. Check it with make doctor DATA={entry.name} ROOT=folder"
    )


@command("data")
def main(cfg: DictConfig) -> None:
    """Bring the set, then look it over like the doctor; exit code 1 if something is wrong with it."""
    name = data_name()
    if name not in registry():
        raise unknown("DATA", name or "nothing", registry())
    own = Path(cfg.archive).expanduser() if cfg.archive else None
    try:
        root = get(registry()[name], data_root(cfg), own)
    except ModelInputError as error:
        raise TrackInputError(str(error)) from error
    print(f"use it with DATA={name} ROOT={root}\n")
    report(examine_configured(cfg, root))


if __name__ == "__main__":
    run_main(main)
