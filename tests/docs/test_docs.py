"""The documents: commands that exist, links that lead somewhere, the model of one's own run from its own folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tracks.cli import DOORS, as_settings
from tracks.command.explained import CONF, settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])


def commands_of(page):
    """The lines of plain blocks that call vandkit, without their comments."""
    within = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            within = "" if within else line
        elif within == "```" and re.match(r"(PYTHONPATH=\S+ )?(\S+/)?vandkit ", line):
            yield page.name, line.split("  #")[0].strip()


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: str(value))
def test_a_command_and_its_settings_exist(page, line):
    words = shlex.split(line[line.index("vandkit") :])[1:]
    if words[0].startswith("-"):
        return
    door = DOORS[words[0]]
    if door.config is None or words[0] == "completion":
        return
    known = {setting.key for setting in settings_of(door.config)} | {
        path.name for path in CONF.iterdir() if path.is_dir()
    }
    for word in as_settings(words[1:], door):
        key = word.split("=")[0].split("/")[0]
        if not word.startswith("-") and "=" in word:
            assert key in known or key.split(".")[0] in ("data", "model", "weights", "prompts"), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.e2e
def test_the_model_of_ones_own_runs_from_its_own_folder(tmp_path):
    text = (ROOT / "docs/own_model.md").read_text(encoding="utf-8")
    for name, content in re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    line = next(each for _, each in COMMANDS if "PYTHONPATH=mine" in each)
    words = shlex.split(line[line.index("vandkit") :])[1:]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'mine'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tracks.cli", *words, "--categories", "marble", "--overlays", "0"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| marble |" in done.stdout
    assert list((tmp_path / "outputs/zero_shot").glob("*darkest-none*"))
