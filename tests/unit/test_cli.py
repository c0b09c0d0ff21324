import errno

import pytest

from tracks.cli import check_choices, explain, reports_errors
from tracks.errors import TrackInputError


def test_an_error_of_the_user_ends_in_one_paragraph_and_exit_code_2(capsys):
    @reports_errors
    def task():
        raise TrackInputError("expected a, got b; do c")

    with pytest.raises(SystemExit) as stopped:
        task()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: expected a, got b; do c\n"


def test_a_fault_of_ours_is_not_hidden():
    @reports_errors
    def task():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        task()


def test_an_interruption_says_that_the_work_is_kept(capsys):
    @reports_errors
    def task():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        task()
    assert stopped.value.code == 2
    assert "kept" in capsys.readouterr().err


def test_a_full_disk_is_explained():
    assert "room on the disk for /big" in explain(OSError(errno.ENOSPC, "No space left on device", "/big"))


def test_an_error_inside_a_constructor_is_found():
    outer = RuntimeError("instantiation failed")
    outer.__cause__ = TrackInputError("expected x")
    assert explain(outer) == "expected x"


def test_an_unknown_choice_names_the_near_one(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "clip_adapter.yaml").touch()
    with pytest.raises(SystemExit) as stopped:
        check_choices(["model=clip_adaptor", "shots=4"], tmp_path)
    assert stopped.value.code == 2
    assert "did you mean clip_adapter?" in capsys.readouterr().err
    check_choices(["model=clip_adapter", "seed=0,1"], tmp_path)
