"""A model of one's own: what is written is importable, keeps the promises and runs, outside this project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracks.errors import TrackInputError
from tracks.new_model import write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
def test_a_new_model_is_written_tested_and_run(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'my models'}{os.pathsep}{ROOT}"}

    def run(*words):
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("tracks.cli", "new-model", "rust_finder", "--folder", "my models")
    test = tmp_path / "my models/test_rust_finder.py"
    assert "model=rust_finder weights=none" in said.splitlines()[-1]
    tested = run("pytest", "-q", "-p", "no:cacheprovider", str(test))
    assert "7 passed" in tested
    config = str(tmp_path / "my models/conf")
    small = ["data.test_normal=2", "data.test_per_kind=1", "--categories", "marble", "--overlays", "0"]
    ran = run("tracks.cli", "zero-shot", "--config-dir", config, "model=rust_finder", "weights=none", *small)
    assert "| marble |" in ran
    assert list((tmp_path / "outputs/zero_shot").glob("*rust_finder-none*"))


@pytest.mark.parametrize("name", ["", "Darkest", "my-idea", "2nd", "class", "patchcore", "random", "../out"])
def test_a_name_that_is_no_modules_or_taken_is_refused(name, tmp_path):
    with pytest.raises(TrackInputError, match=r"expected a (new )?name"):
        write_model(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    first = write_model("rust_finder", tmp_path)
    first[0].unlink()
    first[1].write_text("mine")
    with pytest.raises(TrackInputError, match=r"rust_finder\.yaml, which is there"):
        write_model("rust_finder", tmp_path)
    assert first[1].read_text() == "mine"
    assert not first[0].exists()
