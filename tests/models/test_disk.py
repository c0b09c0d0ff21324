"""Files are there whole or not at all, and room is asked for before it is needed."""

import shutil
from pathlib import Path

import pytest

from models.disk import SPARE_BYTES, lacking_room, replaced, write_atomically


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
