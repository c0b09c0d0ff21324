"""A plan of runs: each found, made, refused or crashed, two commands never at one run, and what the log says."""

import json
import os
import sys
import threading
import time

import pytest

from models.disk import alone
from tracks.comparison import plan
from tracks.comparison.finished import finished_in
from tracks.comparison.plan import PlannedRun, as_words, counted, find_or_run, run_all, time_left


def run_in(tmp_path, model="spade", shots=1, seed=0):
    words = (f"model={model}", f"shots={shots}", f"seed={seed}")
    return PlannedRun(f"{model} seed {seed}", model, shots, seed, words, tmp_path, tmp_path / f"{model}-{shots}-{seed}")


def find(run):
    return finished_in(run.out)


class Child:
    """Stands for the process of a run: writes what a run writes, or fails as told."""

    def __init__(self, code=0, printed=""):
        self.code, self.printed, self.ran = code, printed, []

    def __call__(self, run, log):
        self.ran.append(run.out.name)
        log.write_text(self.printed)
        if not self.code:
            run.out.mkdir(exist_ok=True)
            results = {"data": "toy", "shots": 1, "seed": 0, "categories": {}, "score": 0.5}
            (run.out / "results.json").write_text(json.dumps(results))
        return self.code


@pytest.fixture
def child(monkeypatch):
    def install(**told):
        made = Child(**told)
        monkeypatch.setattr(plan, "_run_child", made)
        return made

    return install


def test_a_finished_run_is_found_and_not_made_again_unless_its_results_are_broken(tmp_path, child, capsys):
    made, run = child(), run_in(tmp_path)
    (first,), (second,) = (list(run_all([run], find, tmp_path / "logs")) for _ in range(2))
    assert (first.found, second.found, made.ran) == (False, True, [run.out.name])
    assert second.finished.results == first.finished.results
    assert capsys.readouterr().out.count("[1/1] spade seed 0: track score 50.0") == 2
    (run.out / "results.json").write_text("{")
    (third,) = run_all([run], find, tmp_path / "logs")
    assert not third.found
    assert len(made.ran) == 2


def test_what_is_refused_is_listed_with_its_reason_and_asked_once(tmp_path, child, capsys):
    made = child(code=2, printed="WARNING: x\n 5%|\rerror: expected net to be CLIPSeg, got none\n")
    todo = [run_in(tmp_path, "clipseg", *each) for each in ((1, 0), (1, 1), (2, 0))]
    outcomes = list(run_all(todo, find, tmp_path / "logs"))
    assert made.ran == ["clipseg-1-0", "clipseg-2-0"]
    assert {outcome.error for outcome in outcomes} == {"expected net to be CLIPSeg, got none"}
    assert not any(outcome.crashed for outcome in outcomes)
    assert "[1/3] clipseg seed 0: no result: expected net" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "printed", "expected"),
    [
        (1, "Traceback\nKeyError: 'x'\n", "exit code 1: KeyError: 'x'"),
        (-9, "", "SIGKILL"),
        (2, "", "nothing was printed"),
    ],
)
def test_a_crash_is_told_from_a_refusal_and_stops_no_other(tmp_path, child, code, printed, expected):
    made = child(code=code, printed=printed)
    outcomes = list(run_all([run_in(tmp_path, seed=0), run_in(tmp_path, seed=1)], find, tmp_path / "logs"))
    assert [outcome.crashed for outcome in outcomes] == [True, True]
    assert expected in outcomes[0].error
    assert len(made.ran) == 2


def test_a_command_that_leaves_no_results_has_crashed(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_run_child", lambda run, log: 0)
    outcome = find_or_run(run_in(tmp_path), find, tmp_path)
    assert outcome.crashed
    assert str(tmp_path / "spade-1-0.log") in outcome.error


def test_two_commands_never_make_the_same_run_at_once(tmp_path, child, caplog):
    made, run, logs = child(), run_in(tmp_path), tmp_path / "logs"
    logs.mkdir()
    with alone(logs / f"{run.file_name}.lock", "the test"):
        other = threading.Thread(target=find_or_run, args=(run, find, logs))
        other.start()
        time.sleep(0.2)
        assert made.ran == []
    other.join(timeout=10)
    assert made.ran == [run.out.name]
    assert "another process is at the run of spade seed 0; waiting" in caplog.text


def test_the_child_is_given_its_paths_whatever_their_characters_and_all_it_says_is_kept(tmp_path, monkeypatch):
    script = tmp_path / "child"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(*sys.argv[2:], flush=True)\n"
        "print(os.environ['VANDKIT_PLAN_DATA_ROOT'], file=sys.stderr)\nsys.exit(3)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    root = tmp_path / "a, [b] ${c}"
    run = PlannedRun("x", "m", 0, 0, ("a=1",), tmp_path, root=root)
    assert plan._run_child(run, tmp_path / "log") == 3
    words, said = (tmp_path / "log").read_text().splitlines()
    assert words == (
        "tracks.zero_shot a=1 outputs=${oc.env:VANDKIT_PLAN_OUTPUTS} data.root=${oc.env:VANDKIT_PLAN_DATA_ROOT}"
    )
    assert said == str(root)
    assert "VANDKIT_PLAN_OUTPUTS" not in os.environ


def test_words_counts_and_the_time_that_is_left():
    assert as_words({"a": {"b": 1, "c": ["x", None]}, "d": True}) == ["a.b=1", 'a.c=["x", null]', "d=true"]
    assert [counted(2, 12), counted(2, 0)] == ["[ 2/12]", "[2]"]
    assert time_left(600, 5, 10) == "; about 20 minutes left"
    assert time_left(600, 0, 10) == time_left(600, 5, 0) == ""
