"""Every configuration composes, and every node that names a constructor fits its signature."""

import importlib
import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import tracks.command.config
import tracks.predict  # noqa: F401  (registers the resolver of PROMPT)
import train.adapters.config  # noqa: F401

CONF = Path(__file__).resolve().parents[2] / "conf"
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("quiet", "track"))
GROUPS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


def composed(name, *overrides, monkeypatch):
    for variable in ("RUN", "IMAGES", "ROOT"):
        monkeypatch.setenv(variable, "somewhere")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=False)


def targets(node):
    """Every mapping with a `_target_` below a plain container."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def check_signature(node):
    module, _, name = node["_target_"].rpartition(".")
    called = getattr(importlib.import_module(module), name)
    keys = {key for key in node if not key.startswith("_")}
    parameters = inspect.signature(called).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values()), f"{node['_target_']} swallows keywords"
    assert keys <= set(parameters), f"{node['_target_']} does not know {keys - set(parameters)}"
    required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    assert required <= keys, f"{node['_target_']} also needs {required - keys}"


@pytest.mark.parametrize("name", PRIMARY)
def test_every_command_composes_and_fits_the_constructors(name, monkeypatch):
    container = OmegaConf.to_container(composed(name, monkeypatch=monkeypatch), resolve=True)
    for node in targets(container):
        check_signature(node)


GROUPS_ON_TRACKS = ("model", "weights", "prompts", "data", "experiment")


@pytest.mark.parametrize("path", [p for p in GROUPS if p.parts[0] in GROUPS_ON_TRACKS], ids=str)
def test_every_choice_composes_on_the_few_shot_track(path, monkeypatch):
    override = f"{path.parts[0]}={path.stem}"
    with_root = path.parts[0] == "experiment" or "root: ???" in (CONF / path).read_text()
    extra = ["data.root=somewhere"] if with_root else []
    cfg = composed("few_shot", override, *extra, monkeypatch=monkeypatch)
    found = list(targets(OmegaConf.to_container(cfg, resolve=True)))
    assert found
    for node in found:
        check_signature(node)


def test_there_are_as_many_configurations_as_expected():
    assert {"zero_shot", "few_shot", "sweep", "predict", "score", "submit", "train", "tiny"} <= set(PRIMARY)
    assert len(GROUPS) >= 12


@pytest.mark.parametrize("override", ["shots=abc", "unknown_key=1", "seed=[1]"])
def test_a_wrong_setting_is_refused_by_name(override, monkeypatch):
    with pytest.raises(Exception, match=override.split("=")[0]):
        composed("few_shot", override, monkeypatch=monkeypatch)
