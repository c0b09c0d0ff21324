"""The Makefile: what `make help` lists, and what each target would run."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments):
    done = subprocess.run(["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_has_a_sentence_for_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    listed = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", make("help"), re.MULTILINE))
    assert set(listed) == set(phony)
    assert all(sentence.endswith(".") for sentence in listed.values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["zero-shot"], "bin/vandkit zero-shot"),
        (["few-shot", "SHOTS=4"], "bin/vandkit few-shot shots=4"),
        (["few-shot", "SHOTS=2", "DATA=mvtec", "ROOT=../a b", "SEED=3"],
         "bin/vandkit few-shot data=mvtec 'data.root=${oc.env:VANDKIT_ROOT}' seed=3 shots=2"),
        (["zero-shot", "MODEL=saa", "WEIGHTS=w", "CATEGORIES=a b,c", "DEVICE=cpu", "OUT=x"],
         "bin/vandkit zero-shot model=saa weights=w device=cpu 'categories=${env_words:VANDKIT_CATEGORIES}' "
         "'out=${oc.env:VANDKIT_OUT}'"),
        (["sweep", "LAUNCHER=joblib", "ARGS=shots=1,2"], "bin/vandkit sweep hydra/launcher=joblib shots=1,2"),
        (["zero-shot", "SHOTS=0"], "bin/vandkit zero-shot shots=0"),
    ],
)  # fmt: skip
def test_a_target_runs_the_command_with_the_variables_as_settings(arguments, expected, monkeypatch):
    for name in ("ROOT", "OUT", "CATEGORIES"):
        monkeypatch.delenv(name, raising=False)
    ran = make("-n", "-o", ".venv/.ready", *arguments)
    assert expected in re.sub(r"\s+", " ", ran)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["few-shot", "MODLE=saa"], r"got MODLE; did you mean MODEL\?"),
        (["few-shot", "SHOT=4"], r"got SHOT; did you mean SHOTS\?"),
        (["zero-shot", "weights=tiny"], r"got weights; did you mean WEIGHTS\?"),
        (["predict", "SEED=3"], r"`make predict` .* got SEED\b"),
        (["score", "OUT=x", "RUN=y"], r"`make score` .*RUN.* got OUT\b"),
        (["compare", "MODEL=saa"], r"got MODEL; did you mean MODELS\?"),
        (["SEED=3"], r"`make help` .* got SEED\b"),
    ],
)
def test_a_variable_that_the_target_does_not_take_is_refused_by_name(arguments, said):
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/.ready", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.search(said, done.stderr)
    assert not done.stdout


def test_what_stands_in_the_environment_or_within_a_value_is_not_taken_for_a_misspelt_variable(monkeypatch):
    monkeypatch.setenv("SHOT", "4")
    monkeypatch.setenv("SEED", "3")
    assert "bin/vandkit predict" in make("-n", "-o", ".venv/.ready", "predict", "CATEGORY=bolt SEED=4")


def test_every_variable_that_a_recipe_reads_is_one_that_its_target_takes():
    text = (ROOT / "Makefile").read_text()
    taken = dict(re.findall(r"^TAKEN_([a-z-]+) := (.*)$", text, re.MULTILINE))
    track = re.search(r"^TRACK := (.*)$", text, re.MULTILINE)[1]
    for target, recipe in re.findall(r"^([a-z-]+): \$\(READY\).*\n((?:\t.*\n)+)", text, re.MULTILINE):
        known = taken.get(target, "").replace("$(TRACK)", track).split()
        read = set(re.findall(r"\$\(if \$\(([A-Z]+)\)", recipe)) | set(track.split() if "$(SETTINGS)" in recipe else ())
        assert read <= set(known), target
