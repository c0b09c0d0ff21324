"""What the README shows runs: its Python, the scorer's page, and every make command it names (as far as make goes)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()

pytestmark = pytest.mark.e2e


PROGRAMS = re.findall(r"```python\n(.*?)```", README + (ROOT / "docs/scorer.md").read_text(), re.DOTALL)
CHECKS = [
    "assert scored[0].anomaly_map.shape == (300, 200) and len(scored) == 3",
    "import sys; assert set(scorer.compute().recall_by_type) == {'scratch'} and 'torch' not in sys.modules",
]


@pytest.mark.parametrize(("program", "check"), list(zip(PROGRAMS, CHECKS, strict=True)), ids=["a model", "the scorer"])
def test_the_python_runs(program, check, tmp_path):
    command = [sys.executable, "-c", f"{program}\n{check}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_make_command_names_a_target():
    named = re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)
    assert {"zero-shot", "few-shot", "test", "predict", "submission"} <= set(named)
    assert set(named) <= set(TARGETS)


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
