"""Files are there whole or not at all, and room is asked for before it is needed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.disk import SPARE_BYTES, alone, lacking_room, replaced, write_atomically


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_the_old_content_and_no_part(tmp_path, error):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(error), replaced(path) as part:  # noqa: PT012  (the block is what fails)
        part.write_bytes(b"half of the new")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_no_part(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a.json", b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "written"), [("a.csv", b"\xe9,\xc3\xbc"), ("a.md", b"\\udce9,\xc3\xbc")])
def test_a_name_that_is_no_utf_8_keeps_its_bytes_in_a_table_and_shows_its_escape_elsewhere(tmp_path, name, written):
    write_atomically(tmp_path / name, "\udce9,\u00fc")
    assert (tmp_path / name).read_bytes() == written


def test_room_is_what_is_needed_and_some_to_spare(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": SPARE_BYTES + 10**9}))
    assert lacking_room(Path("disk"), 10**9) == ""
    assert lacking_room(Path("disk"), 10**9 + 1) == "expected 1.07 GB free in disk, got 1.07 GB"
    assert lacking_room(Path("disk"), 2 * 10**9, spare_bytes=0) == "expected 2.00 GB free in disk, got 1.07 GB"


ROOT = Path(__file__).resolve().parents[2]
ANOTHER = """
import sys, pathlib, time
from models.disk import alone
lock, trace = map(pathlib.Path, sys.argv[1:])
with alone(lock, "the test"):
    with trace.open("a") as file:
        file.write("in "); file.flush(); time.sleep(0.1); file.write("out ")
"""


def test_processes_take_turns_say_so_and_leave_no_file(tmp_path):
    lock, trace = tmp_path / "folder" / ".lock", tmp_path / "trace"
    command = [sys.executable, "-c", ANOTHER, str(lock), str(trace)]
    with alone(lock, "the test"):
        others = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [other.stderr.readline() for other in others]
        assert not trace.exists()
    for other in others:
        other.communicate(timeout=30)
    assert all("another process is at the test; waiting" in line for line in said)
    assert trace.read_text() == "in out " * 3
    assert not lock.exists()


def test_a_process_that_died_holds_nothing(tmp_path):
    lock = tmp_path / ".lock"
    held = (
        "import sys, os, pathlib; from models.disk import alone\n"
        "with alone(pathlib.Path(sys.argv[1]), 'x'):\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", held, str(lock)], cwd=ROOT)
    started = time.monotonic()
    with alone(lock, "the test"):
        assert time.monotonic() - started < 5
