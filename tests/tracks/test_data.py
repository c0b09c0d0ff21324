"""`make data`: fetched from a loopback host, checked, unpacked, looked over; by hand where that does not work."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from models.disk import SPARE_BYTES
from models.weights.download import REMEDIES, Failure
from tests.support.loopback_host import Host
from tracks.command.cli import run_main
from tracks.data import get, innermost, main
from tracks.datasets.registry import Archive, registry
from tracks.errors import TrackInputError

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [f"nut/{part}/{index}.png" for part in ("train/good", "test/good", "test/hole") for index in range(2)]


def picture(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def packed(names, top=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for seed, name in enumerate(names):
            info = tarfile.TarInfo(top + name)
            content = picture(seed)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def host(tmp_path, monkeypatch):
    for variable in ("VANDKIT_OFFLINE", "HF_HUB_OFFLINE", "VANDKIT_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VANDKIT_CACHE", str(tmp_path / "cache"))
    host = Host()
    host.files["/set.tar.xz"] = packed(NAMES)
    yield host
    host.close()


def entry(host, checked=True, **changes):
    content = host.files["/set.tar.xz"]
    size, digest = (len(content), hashlib.sha256(content).hexdigest()) if checked else (None, None)
    archive = Archive("set.tar.xz", (f"{host.address}/set.tar.xz",), size, digest)
    return replace(registry()["mvtec"], name="nuts", title="Nuts", archives=(archive,), **changes)


@pytest.mark.parametrize("top", ["", "Nuts_2023/", "a/b/"])
def test_a_set_is_fetched_unpacked_and_its_root_found(host, tmp_path, top, capsys):
    host.files["/set.tar.xz"] = packed(NAMES, top)
    root = get(entry(host), tmp_path / "set")
    assert root == tmp_path / "set" / top
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png")) == sorted(NAMES)
    assert "CC BY-NC-SA 4.0; commercial use forbidden" in capsys.readouterr().out
    assert get(entry(host), tmp_path / "set") == root
    assert "nothing is fetched" in capsys.readouterr().out
    assert len(host.requests) == 1


def test_data_put_there_by_hand_are_left_alone_and_those_of_other_sets_are_not_taken_for_it(host, tmp_path):
    for name in NAMES:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(0))
    assert get(entry(host), tmp_path / "set") == tmp_path / "set"
    assert not host.requests
    (tmp_path / "data").mkdir()
    (tmp_path / "set").rename(tmp_path / "data/other")
    with pytest.raises(TrackInputError, match="expected a new folder to unpack"):
        get(entry(host), tmp_path / "data")


def test_the_archive_is_kept_and_used_again(host, tmp_path):
    get(entry(host), tmp_path / "one")
    get(entry(host), tmp_path / "two")
    assert len(host.requests) == 1
    (tmp_path / "cache/archives/set.tar.xz").write_bytes(b"broken")
    with pytest.raises(TrackInputError, match=r"set\.tar\.xz of Nuts .* got 6: the file is truncated; delete it"):
        get(entry(host), tmp_path / "three")


def test_a_broken_download_is_continued(host, tmp_path, monkeypatch):
    monkeypatch.setattr("models.weights.download.TRIES", 1)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    host.script = ["cut 300", "cut 200", *["cut 0"] * 30]  # how often the releases of huggingface_hub try differs
    with pytest.raises(TrackInputError, match="500 bytes are kept"):
        get(entry(host), tmp_path / "set")
    host.script = []
    get(entry(host), tmp_path / "set")
    asked = [headers.get("Range") for _, headers in host.requests]
    assert asked[:3] + asked[-1:] == [None, "bytes=300-", "bytes=500-", "bytes=500-"]


@pytest.mark.parametrize(
    ("answer", "failure"), [("status 404", Failure.NOT_FOUND), ("tampered", Failure.WRONG_CONTENT)]
)
def test_a_dead_or_changed_address_says_how_to_get_it_by_hand(host, tmp_path, answer, failure):
    host.script = [answer]
    set_entry = entry(host)
    with pytest.raises(TrackInputError) as caught:
        get(set_entry, tmp_path / "set")
    message = str(caught.value)
    assert REMEDIES[failure] in message
    assert f"Get it by hand from {set_entry.page}: {set_entry.by_hand}" in message
    assert f"make data DATA=nuts ROOT={tmp_path / 'set'} ARGS=archive=FILE checks and unpacks set.tar.xz" in message
    assert not (tmp_path / "set").exists()


def test_without_an_address_it_says_how_to_get_it_by_hand(host, tmp_path):
    with pytest.raises(TrackInputError, match=r"got: none is known\. Get it by hand from .*make doctor DATA=nuts"):
        get(replace(entry(host), archives=()), tmp_path / "set")


def test_an_archive_fetched_by_hand_is_checked_and_unpacked(host, tmp_path):
    own = tmp_path / "download.bin"
    own.write_bytes(host.files["/set.tar.xz"])
    assert get(entry(host), tmp_path / "set", own) == tmp_path / "set"
    own.write_bytes(own.read_bytes()[:-1] + b"!")
    with pytest.raises(TrackInputError, match="the content was changed or damaged"):
        get(entry(host), tmp_path / "other", own)
    with pytest.raises(TrackInputError, match="expected an archive at"):
        get(entry(host), tmp_path / "other", tmp_path / "none.tar")
    assert not host.requests


def test_without_a_published_digest_the_first_is_trusted_and_enforced(host, tmp_path):
    get(entry(host, checked=False), tmp_path / "one")
    (tmp_path / "cache/archives/set.tar.xz").unlink()
    host.files["/set.tar.xz"] = packed([*NAMES, "nut/test/hole/9.png"])
    with pytest.raises(TrackInputError, match="wrong content"):
        get(entry(host, checked=False), tmp_path / "two")


def test_an_evil_archive_is_refused(host, tmp_path):
    host.files["/set.tar.xz"] = packed([*NAMES, "../../evil.png"])
    with pytest.raises(TrackInputError, match="leads out of the folder"):
        get(entry(host), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert not list(tmp_path.parent.rglob("evil.png"))


def test_room_for_archive_and_content_is_asked_before_anything_is_fetched(host, tmp_path, monkeypatch):
    size = len(host.files["/set.tar.xz"])
    enough = 2 * size + SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": enough - 1}))
    with pytest.raises(TrackInputError, match=r"GB free in .*for the archive of Nuts and what is unpacked from it"):
        get(entry(host), tmp_path / "set")
    assert not host.requests
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": enough}))
    assert get(entry(host), tmp_path / "set") == tmp_path / "set"


def test_offline_is_said(host, tmp_path, monkeypatch):
    monkeypatch.setenv("VANDKIT_OFFLINE", "1")
    with pytest.raises(TrackInputError, match="VANDKIT_OFFLINE=1, which forbids downloads"):
        get(entry(host), tmp_path / "set")


def test_the_innermost_folder_is_where_the_layout_begins(tmp_path):
    (tmp_path / "a/b/nut/train/good").mkdir(parents=True)
    assert innermost(tmp_path) == tmp_path / "a/b"
    (tmp_path / "a/other").mkdir()
    assert innermost(tmp_path / "a") == tmp_path / "a"


@pytest.mark.parametrize("name", sorted(registry()))
def test_every_set_says_how_to_get_it(name):
    known = registry()[name]
    assert known.page.startswith("http")
    assert known.by_hand
    for archive in known.archives:
        assert all(address.startswith("https://") for address in archive.urls)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["data", "DATA=visa", "ROOT=a b"], "bin/vandkit data data=visa 'data.root=${oc.env:VANDKIT_ROOT}'"),
     (["doctor", "DATA=mtd", "ROOT=x", "WEIGHTS=official"],
      "bin/vandkit doctor data=mtd 'data.root=${oc.env:VANDKIT_ROOT}' 'weight_files=[official]'"),
     (["doctor"], "bin/vandkit doctor"), (["weights", "WEIGHTS=official"], "bin/vandkit weights official")],
)  # fmt: skip
def test_the_targets_run_the_commands(arguments, expected):
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert expected in " ".join(done.stdout.split()), done.stderr


def run(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command."""
    monkeypatch.setattr(sys, "argv", ["fetch_data", *arguments])
    code = 0
    try:
        run_main(main)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_fetches_looks_over_and_its_exit_code_tells(host, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tracks.data.registry", lambda: {"mvtec": entry(host, totals={}), "mpdd": registry()["mpdd"]})
    code, printed, _ = run(monkeypatch, capsys, "data=mvtec", f"data.root={tmp_path / 'set'}")
    assert code == 0
    assert f"use it with DATA=mvtec ROOT={tmp_path / 'set'}" in printed
    assert "pictures without masks" in printed
    assert printed.endswith("no problems\n")
    (tmp_path / "set/nut/test/hole/0.png").write_bytes(b"broken")
    code, printed, _ = run(monkeypatch, capsys, "data=mvtec", f"data.root={tmp_path / 'set'}")
    assert code == 1
    code, _, error = run(monkeypatch, capsys, "data=mpdd", f"data.root={tmp_path / 'none'}")
    assert code == 2
    assert "Get it by hand from https://github.com/stepanje/MPDD" in error
    code, _, error = run(monkeypatch, capsys)
    assert code == 2
    assert "expected DATA to be one of mvtec, mpdd, got 'nothing'" in error
