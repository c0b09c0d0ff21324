"""The console command: what it lists, what it explains, and how its words become settings."""

import subprocess
import sys
from pathlib import Path

import pytest

from tracks import cli
from tracks.command.completion import SHELLS, script
from tracks.command.explained import CONF, explained, settings_of

ROOT = Path(__file__).resolve().parents[2]


def vandkit(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, text=True, capture_output=True, timeout=120, **options
    )


def test_the_overview_lists_every_command_and_imports_next_to_nothing():
    said = vandkit("--help")
    assert said.returncode == 0
    assert all(f"  {name} " in said.stdout for name in cli.DOORS)
    light = "from tracks.cli import main; main(); import sys; print({'torch', 'hydra', 'numpy'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", light], cwd=ROOT, text=True, capture_output=True)
    assert said.stdout.endswith("set()\n")


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"]])
def test_help_of_which_only_the_beginning_is_read_says_no_more(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == (b"", 0)


def test_every_door_is_a_module_and_a_configuration():
    for door in cli.DOORS.values():
        module = ROOT / door.module.replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), door.module
        assert door.config is None or (CONF / f"{door.config}.yaml").is_file(), door.config


@pytest.mark.parametrize("name", [name for name, door in cli.DOORS.items() if door.config])
def test_the_help_of_a_command_explains_its_settings(name):
    door = cli.DOORS[name]
    settings = settings_of(door.config)
    said = explained(name, door.what, door.config, door.takes, door.aliases)
    assert all(f"  {setting.key}={setting.default}" in said for setting in settings if "." in setting.key)
    told = [setting for setting in settings if setting.what]
    assert len(told) >= 0.6 * len(settings), [setting.key for setting in settings if not setting.what]


def test_the_help_shows_the_values_that_suit_the_weights():
    door = cli.DOORS["few-shot"]
    said = explained("few-shot", door.what, door.config, door.takes, door.aliases)
    assert "model.gaussian_weight=0.6\n" in said
    assert "(for weights=tiny; otherwise 0.0)" in " ".join(said.split())
    said = explained("few-shot", door.what, door.config, door.takes, door.aliases, ["weights=openai_vitl14_336"])
    assert "model.gaussian_weight=0.0\n" in said


def test_the_help_explains_the_arguments_of_the_model_that_is_named():
    said = vandkit("few-shot", "model=patchcore", "--help").stdout
    assert "  model.coreset=1.0" in said
    assert "Settings of data=synthetic" in said


@pytest.mark.parametrize(
    ("name", "words", "settings"),
    [
        ("few-shot", ["shots=4", "seed=0,1", "-m"], ["shots=4", "seed=0,1", "-m"]),
        ("few-shot", ["--shots", "4", "--fresh", "--seed=1"], ["shots=4", "fresh=true", "seed=1"]),
        ("few-shot", ["--fresh", "shots=2"], ["fresh=true", "shots=2"]),
        ("few-shot", ["--false-alarm-rate", "0.1"], ["false_alarm_rate=0.1"]),
        ("few-shot", ["--root", "my, data", "data=mvtec"], ["data.root='my, data'", "data=mvtec"]),
        ("few-shot", ["root=x"], ["data.root=x"]),
        ("few-shot", ["--categories", "metal nut,1.10"], ["categories=['metal nut','1.10']"]),
        ("few-shot", ["--cfg", "job", "--config-dir=mine"], ["--cfg", "job", "--config-dir=mine"]),
        ("few-shot", ["--overlays", "-1"], ["overlays=-1"]),
        ("predict", ["photos", "--references", "good parts", "--category", "steel bracket, big"],
         ["references='good parts'", "category='steel bracket, big'", "images='photos'"]),
        ("predict", ["photos", "-references", "good"], ["references='good'", "images='photos'"]),
        ("predict", ["a.png", "b [1].png"], ["images=['a.png','b [1].png']"]),
        ("predict", ["photos", "--prompt", "scratch, dent"], ["prompts.defects=['scratch','dent']", "images='photos'"]),
        ("compare-runs", ["one", "it's"], ["a='one'", r"b='it\'s'"]),
        ("score", ["outputs/few_shot/latest"], ["run='outputs/few_shot/latest'"]),
        ("few-shot", ["photos"], ["photos"]),
    ],
)  # fmt: skip
def test_words_become_settings(name, words, settings):
    assert cli.as_settings(words, cli.DOORS[name]) == settings


def test_an_unknown_command_and_a_setting_nobody_knows_end_in_one_sentence():
    for words, near in (
        (["few_shot"], "did you mean few-shot?"),
        (["zero-shot", "--seeed", "3"], "did you mean seed?"),
    ):
        said = vandkit(*words)
        assert said.returncode == 2
        assert near in said.stderr
        assert said.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_name_commands_and_settings(shell):
    text = script(shell)
    assert "few-shot" in text
    assert "shots=" in text
    if shell == "bash":
        asked = f"{text}\nCOMP_WORDS=(vandkit few-shot sho); COMP_CWORD=2; _vandkit; echo ${{COMPREPLY[@]}}"
        assert subprocess.run(["bash", "-c", asked], text=True, capture_output=True).stdout == "shots=\n"
    assert vandkit("completion", "tcsh").returncode == 2


@pytest.mark.e2e
def test_the_command_runs_a_track(tmp_path):
    words = [
        "model=constant",
        "weights=none",
        "--categories",
        "marble",
        "--overlays",
        "0",
        "--out",
        str(tmp_path / "a b"),
    ]
    said = vandkit("zero-shot", *words)
    assert said.returncode == 0, said.stderr
    assert "| marble |" in said.stdout
    assert (tmp_path / "a b/results.json").is_file()
