import os
from pathlib import Path

import pytest

from tracks.command.paths import LONGEST_NAME, below, folder_name, name_below, shortened
from tracks.errors import TrackInputError


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a/..", "..", "", ".", "/", "\\x", "a\\..\\x", "C:\\x", "c:/x", "a\0b"]
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(TrackInputError, match="leads out of it"):
        below(tmp_path, "predictions", name)


@pytest.mark.parametrize("name", ["a", "a/b.png", "...", "..a", "a..b/c", "nut#1", "a:b", "ü\udce9"])
def test_other_names_stay_as_they_are(tmp_path, name):
    assert below(tmp_path, "maps", name) == tmp_path / "maps" / name
    assert shortened(name) == name


def test_long_names_are_cut_but_stay_apart_and_keep_their_ending():
    long = ["部" * 83 + f"{number}.png" for number in range(2)]  # 254 bytes
    cut = [shortened(f"test/crack/{name}") for name in long]
    assert len(set(cut)) == 2
    assert all(name.startswith("test/crack/部") and name.endswith(".png") for name in cut)
    assert all(len(os.fsencode(part)) <= LONGEST_NAME for name in cut for part in name.split("/"))
    assert len(os.fsencode(shortened("\udce9" * 250))) <= LONGEST_NAME


def test_a_text_names_one_folder():
    assert folder_name("constant-none-my/set-0shot") == "constant-none-my_set-0shot"
    assert folder_name("../x:y") == ".._x_y"
    assert len(os.fsencode(folder_name("x" * 300))) <= LONGEST_NAME


def test_a_file_has_one_name_however_its_path_is_spelled(tmp_path):
    root = tmp_path / "listed"
    (root / "test").mkdir(parents=True)
    spellings = ["test/0.png", "test//0.png", "test/../test/0.png", "./test/./0.png"]
    assert {name_below(root / spelling, root) for spelling in spellings} == {"test/0.png"}
    outside = [root / "../data/0.png", tmp_path / "data/0.png"]
    assert {name_below(path, root) for path in outside} == {"data/0.png"}
    (tmp_path / "link").symlink_to(root)
    assert name_below(root / "test/0.png", tmp_path / "link") == "test/0.png"
    assert name_below(Path("/etc/x"), tmp_path) == "etc/x"
