import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import tracks.command.config  # noqa: F401  (registers the schema of the tracks)
from tracks.command.cli import CONF
from tracks.command.text_settings import keep_text, quote_yaml, split_words

ODD = ["1.10", "1_0", "2024_01", "1e3", "null", "m6=bolt", "nut#1", "true", "nan", "007", "0x10", "-1", "{a}", "nut(1)",
       "it's", 'say "hi"', "a\\'b", "x\\", "größe 日本", "~/parts"]  # fmt: skip
ROOT = Path(CONF).parent


def parsed(argument: str):
    return OverridesParser.create().parse_override(keep_text(argument)).value()


@pytest.mark.parametrize("name", ODD)
def test_a_name_on_the_command_line_is_itself(name):
    assert parsed(f"data.category={name}") == name
    assert parsed(f"+data.name={name}") == name
    if "\\" not in name:  # before a comma or a bracket a backslash is Hydra's own escape
        assert parsed(f"categories=[{name}, plain,{name}]") == [name, "plain", name]


@pytest.mark.parametrize(
    "argument",
    ["shots=1,2", "model.weight=1.10", "out=null", "references=", "data.root=${oc.env:VANDKIT_ROOT}", "categories=[]",
     "data.category='x'", "--config-dir=1.10", "-m", "outputs=a\\,b", "data.category=choice(1,2)"],
)  # fmt: skip
def test_other_settings_are_left_as_they_are(argument):
    assert keep_text(argument) == argument


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("categories=marble", ["marble"]), ("data.categories='a, b'", ["a, b"]), ("models=patchcore", ["patchcore"]),
        ("runs=outputs/a", ["outputs/a"]), ("prompts.defects=1.10", ["1.10"]), ("+weight_files=clip", ["clip"]),
        ("categories=null", None), ("categories=", ""),
    ],
)  # fmt: skip
def test_one_name_alone_is_a_list_of_one(argument, value):
    assert parsed(argument) == value


def test_a_list_of_the_environment_stays_one():
    assert keep_text("categories=${env_words:VANDKIT_CATEGORIES}") == "categories=${env_words:VANDKIT_CATEGORIES}"


def test_a_sweep_over_names_keeps_them():
    assert keep_text("categories=marble,1.10") == "categories=[marble],['1.10']"
    swept = OverridesParser.create().parse_override(keep_text("categories=[1.10],[nut#1,2.0]"))
    assert list(swept.sweep_string_iterator()) == ["['1.10']", "['nut#1','2.0']"]


def test_names_in_yaml_are_themselves(tmp_path):
    text = "category: 1.10 # one\nname: null\nshots: 1_0\nsub: {categories: [1e3, null, on, it's, 'y']}\nmask_dir:\n"
    text += "normal_dir: 2024_01\nroot: ???\nout: ${oc.env:HOME}\nabnormal_dir:\n  - 0x10\n  - 1_0\n"
    (tmp_path / "mine.yaml").write_text(text)
    cfg = OmegaConf.load(tmp_path / "mine.yaml")
    assert (cfg.category, cfg.name, cfg.shots, cfg.mask_dir, cfg.normal_dir) == ("1.10", None, 10, None, "2024_01")
    assert cfg.sub.categories == ["1e3", "null", "on", "it's", "y"]
    assert cfg.abnormal_dir == ["0x10", "1_0"]
    assert OmegaConf.is_missing(cfg, "root")
    assert cfg.out == os.environ["HOME"]
    assert quote_yaml("a: [") == "a: ["


def test_an_experiment_of_a_user_names_categories_as_text(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ncategories: [1.10, 2024_01]\nseed: 2\n")
    with initialize_config_dir(str(Path(CONF).resolve()), version_base="1.3"):
        cfg = compose("few_shot", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert (list(cfg.categories), cfg.seed) == (["1.10", "2024_01"], 2)


def test_words_are_split_at_commas():
    assert split_words("scratch, dent ,a deep, dark hole,,") == ["scratch", "dent", "a deep", "dark hole"]
    assert split_words("") == split_words(None) == []


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_hands_categories_on_as_they_are(tmp_path):
    """The settings that `make` passes, composed as the command composes them."""
    told = """import sys, tracks.command.config
from tracks.cli import DOORS, as_settings
from hydra import compose, initialize_config_dir
from tracks.command.cli import CONF, keep_text
with initialize_config_dir(str(CONF), version_base="1.3"):
    settings = as_settings(sys.argv[2:], DOORS[sys.argv[1]])
    print(list(compose("zero_shot", [keep_text(word) for word in settings]).categories))
"""
    vandkit = tmp_path / "bin/vandkit"
    vandkit.parent.mkdir()
    vandkit.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$TOLD" "$@"\n')
    vandkit.chmod(0o755)
    (tmp_path / ".ready").touch()
    ran = subprocess.run(
        ["make", "-s", "zero-shot", "-o", f"{tmp_path}/.ready", f"VENV={tmp_path}",
         "CATEGORIES=1.10,1_0,null,m6=bolt,nut#1,it's a, [b]"],
        cwd=ROOT, env={**os.environ, "TOLD": told}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.stdout.strip(), ran.stderr) == (str(["1.10", "1_0", "null", "m6=bolt", "nut#1", "it's a", "[b]"]), "")
