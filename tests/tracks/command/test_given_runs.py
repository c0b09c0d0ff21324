"""The runs that `score`, `report`, `submission` and `compare-runs` are given."""

import json
import sys

import pytest

import tracks.report
import tracks.score
import tracks.submit
from tracks.command.cli import run_main
from tracks.command.given_runs import open_run, run_folders
from tracks.errors import TrackInputError


def made(folder, **settings):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(settings))
    return folder


def test_one_several_and_no_run_can_be_named(tmp_path):
    one, two = (made(tmp_path / name, track="few_shot", categories=["a"]) for name in ("one", "two"))
    assert run_folders(str(one)) == [one]
    assert run_folders([str(one), str(two)]) == [one, two]
    assert run_folders("") == run_folders(None) == run_folders([]) == []
    assert open_run(str(one)).categories == ["a"]
    with pytest.raises(TrackInputError, match="got none; name it, for example B="):
        open_run("", "B")
    with pytest.raises(TrackInputError, match=r"expected one run as RUN, got .*one, .*two"):
        open_run([str(one), str(two)])


def test_what_is_no_run_is_refused_with_what_it_is(tmp_path):
    made(tmp_path / "few_shot" / "one", track="few_shot", categories=["a"])
    photos = made(tmp_path / "photos", track="predict", category="a")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "run.json").write_text("[1]")
    (tmp_path / "few_shot" / "one" / "results.json").touch()
    for path, said in (
        (tmp_path / "few_shot" / "onn", "did you mean one"),
        (tmp_path / "few_shot", "it holds the runs one: name one of them"),
        (tmp_path / "few_shot" / "one" / "results.json", "the file .* name the folder that it lies in"),
        (photos, "`make predict` wrote it"),
        (odd, "names no categories"),
    ):
        with pytest.raises(TrackInputError, match=said):
            open_run(str(path))


@pytest.mark.parametrize("module", [tracks.score, tracks.report, tracks.submit], ids=lambda module: module.__name__)
@pytest.mark.parametrize(("run", "said"), [("", "for example run="), ("photos", "`vandkit predict` wrote it")])
def test_every_command_on_a_run_says_so(module, run, said, tmp_path, monkeypatch, capsys):
    made(tmp_path / "photos", track="predict", category="a")
    monkeypatch.setenv("VANDKIT_RUN", str(tmp_path / run) if run else "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", [module.__name__])
    with pytest.raises(SystemExit) as stopped:
        run_main(module.main)
    assert stopped.value.code == 2
    page = run and module is tracks.report
    assert ("the page that `predict` ends with" if page else said) in capsys.readouterr().err
