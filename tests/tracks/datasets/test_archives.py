"""Archives, honest and planted evil ones: what is unpacked, what is refused by name, and that nothing is left then."""

import io
import random
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest

from models.disk import SPARE_BYTES
from tracks.datasets.archives import RECORD, Limits, unpack
from tracks.errors import TrackInputError

PICTURE = random.Random(0).randbytes(3000)
TREE = {"set/cat/test/good/0.png": PICTURE, "set/cat/train/good/1.png": PICTURE[::-1], "set/readme.txt": b""}


def member(name, content=b"", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, content)
    return path


def zipped(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def honest(path):
    if path.suffix == ".zip":
        return zipped(path, TREE.items())
    mode = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    return tar(path, member("set", kind=tarfile.DIRTYPE, mode=0), *(member(*item) for item in TREE.items()), mode=mode)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive, match, limits=None):
    """Unpacking fails by name and leaves nothing, neither in the folder nor beside it."""
    folder = archive.parent / "out/data"
    with pytest.raises(TrackInputError, match=match) as caught:
        unpack(archive, folder, limits)
    assert str(archive) in str(caught.value)
    assert not folder.exists()
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []
    assert {path.name for path in archive.parent.iterdir()} <= {archive.name, "out"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip", "no_suffix"])
def test_every_format_unpacks_by_its_content(tmp_path, name):
    archive = honest(tmp_path / name)
    assert unpack(archive, tmp_path / "out/data") is True
    assert contents(tmp_path / "out/data") == TREE
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", [("x", b"x")]).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(*member("one", b"1"))
        archive.addfile(*member("inner.zip", inner))
    unpack(tmp_path / "a.tar", tmp_path / "data")
    assert contents(tmp_path / "data") == {"one": b"1", "inner.zip": inner}


def test_an_empty_folder_that_is_there_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    unpack(honest(tmp_path / "a.zip"), tmp_path / "data")
    assert contents(tmp_path / "disk") == TREE


def test_a_second_time_nothing_is_done(tmp_path):
    archive, folder = honest(tmp_path / "a.zip"), tmp_path / "data"
    unpack(archive, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert unpack(archive, folder) is False
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "meta.json").write_text("{}")
    assert unpack(archive, folder) is False, "files of the user's own do not matter"


def test_files_that_went_missing_are_noticed(tmp_path):
    archive, folder = honest(tmp_path / "a.zip"), tmp_path / "data"
    unpack(archive, folder)
    (folder / "set/cat/test/good/0.png").unlink()
    with pytest.raises(TrackInputError, match=r"to hold the 3 files .* got 2 .*delete the folder"):
        unpack(archive, folder)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    archive, folder = honest(tmp_path / "a.zip"), tmp_path / "data"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(TrackInputError, match="holds other files"):
        unpack(archive, folder)
    assert contents(folder) == {"mine.txt": b"mine"}
    other = tmp_path / "other"
    unpack(archive, other)
    with pytest.raises(TrackInputError, match="holds other files"):
        unpack(honest(tmp_path / "b.tar"), other)


def test_an_interrupted_unpacking_begins_anew(tmp_path):
    archive, folder = honest(tmp_path / "a.tar.gz"), tmp_path / "data"
    left = folder / ".unpacking/half"
    left.mkdir(parents=True)
    (left / "0.png").write_bytes(b"half")
    unpack(archive, folder)
    assert contents(folder) == TREE
    assert not left.exists()


def test_permissions_are_not_taken_over(tmp_path):
    folder = tmp_path / "data"
    unpack(tar(tmp_path / "a.tar", member("run.sh", b"x", mode=0o6777)), folder)
    assert stat.S_IMODE((folder / "run.sh").stat().st_mode) & 0o7111 == 0


OUTSIDE = ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:/evil.txt", "\\evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_leads_out_is_refused(tmp_path, name, kind):
    good = ("good.txt", b"good")
    if kind == "tar":
        archive = tar(tmp_path / "evil.tar", member(*good), member(name, b"evil"))
    else:
        archive = zipped(tmp_path / "evil.zip", [good, (name, b"evil")])
    refused(archive, "leads out of the folder")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "inside.txt"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_refused(tmp_path, target, kind):
    refused(tar(tmp_path / "evil.tar", member("link", kind=kind, linkname=target), member("link/x", b"")), "is a link")


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(zipped(tmp_path / "evil.zip", [(info, "/etc/passwd")]), "is a link")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(tmp_path, kind):
    refused(tar(tmp_path / "evil.tar", member("device", kind=kind)), "is a device")


def test_a_device_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("pipe")
    info.external_attr = stat.S_IFIFO << 16
    refused(zipped(tmp_path / "evil.zip", [(info, "")]), "is a device")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_a_bomb_of_size_is_refused(tmp_path, name):
    zeros = bytes(2_000_000)
    path = tmp_path / name
    archive = zipped(path, [("0", zeros)]) if path.suffix == ".zip" else tar(path, member("0", zeros), mode="w:gz")
    refused(archive, "made to fill a disk", Limits(always_allowed=1_000_000))
    assert unpack(archive, tmp_path / "fine", Limits(always_allowed=2_000_000)) is True


def test_a_bomb_of_number_is_refused(tmp_path):
    archive = tar(tmp_path / "bomb.tar", *(member(f"{i}", b"") for i in range(11)))
    refused(archive, "more than 10 members", Limits(members=10))


def test_many_small_files_are_bounded_together(tmp_path):
    archive = zipped(tmp_path / "bomb.zip", [(f"{i}", bytes(1000)) for i in range(11)])
    refused(archive, "more than 10,000 bytes", Limits(always_allowed=10_000, expansion=0))


@pytest.mark.parametrize(("stated", "match"), [(10, "Bad CRC"), (200_000, "lacks 100,000 bytes")])
def test_a_member_of_another_length_than_stated_is_refused(tmp_path, stated, match):
    archive = zipped(tmp_path / "liar.zip", [("0", bytes(100_000))])
    content = bytearray(archive.read_bytes())
    central = content.rfind(b"PK\1\2")
    struct.pack_into("<I", content, central + 24, stated)
    archive.write_bytes(content)
    refused(archive, match)


def test_two_members_of_one_name_are_refused(tmp_path):
    refused(tar(tmp_path / "evil.tar", member("a", b"1"), member("./a", b"2")), "two members of the name")


def test_a_name_that_is_file_and_folder_is_refused(tmp_path):
    refused(tar(tmp_path / "evil.tar", member("a", b"1"), member("a/b", b"2")), "both a file and a folder")


@pytest.mark.parametrize("size", [600, 2500, 4096, 4240, 4608])
def test_a_tar_truncated_anywhere_is_damaged(tmp_path, size):
    archive = honest(tmp_path / "a.tar")
    archive.write_bytes(archive.read_bytes()[:size])
    refused(archive, "truncated, damaged or no archive: fetch it again")


def test_a_tar_with_garbage_between_members_is_damaged(tmp_path):
    archive = honest(tmp_path / "a.tar")
    content = bytearray(archive.read_bytes())
    content[4096:4196] = random.Random(0).randbytes(100)
    archive.write_bytes(content)
    refused(archive, "bad checksum|invalid header")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.zip"])
def test_a_truncated_archive_is_damaged(tmp_path, name):
    archive = honest(tmp_path / name)
    archive.write_bytes(archive.read_bytes()[:2500])
    refused(archive, "truncated, damaged or no archive: fetch it again")


@pytest.mark.parametrize("content", [b"", b"<!doctype html> not an archive", random.Random(0).randbytes(50)])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", "no archive")


def test_a_flipped_byte_in_a_zip_is_damaged(tmp_path):
    archive = zipped(tmp_path / "a.zip", TREE.items(), zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[1000] ^= 255
    archive.write_bytes(content)
    refused(archive, "Bad CRC-32")


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(TrackInputError, match="expected an archive at"):
        unpack(tmp_path / "none.zip", tmp_path / "data")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_room_is_asked_for_first(tmp_path, name, monkeypatch):
    archive = honest(tmp_path / name)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": SPARE_BYTES + 5999}))
    refused(archive, "GB free in .* to unpack")
