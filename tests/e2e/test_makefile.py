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
        (["zero-shot"], "-m tracks.zero_shot"),
        (["few-shot", "SHOTS=4"], "-m tracks.few_shot shots=4"),
        (["few-shot", "SHOTS=2", "DATA=mvtec", "ROOT=../a b", "SEED=3"],
         "-m tracks.few_shot data=mvtec 'data.root=${oc.env:ROOT}' seed=3 shots=2"),
        (["zero-shot", "MODEL=saa", "WEIGHTS=w", "CATEGORIES=a b,c", "DEVICE=cpu", "OUT=x"],
         "-m tracks.zero_shot model=saa weights=w device=cpu 'categories=[a b,c]' 'out=${oc.env:OUT}'"),
        (["sweep", "LAUNCHER=joblib", "ARGS=shots=1,2"], "-m tracks.sweep hydra/launcher=joblib shots=1,2"),
        (["zero-shot", "SHOTS=0"], "-m tracks.zero_shot shots=0"),
    ],
)  # fmt: skip
def test_a_target_runs_the_module_with_the_variables_as_settings(arguments, expected):
    ran = make("-n", "-o", ".venv/.ready", *arguments)
    assert expected in re.sub(r"\s+", " ", ran)
