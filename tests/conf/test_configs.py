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
from tracks.command.variants import variants

CONF = Path(__file__).resolve().parents[2] / "conf"
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("quiet", "track", "variants"))
GROUPS = ("model", "weights", "prompts", "data", "experiment", "model/members", "tracker")
FILES = {(path.parent.name, path.stem) for path in CONF.glob("*/*.yaml")}
CHOICES = sorted(choice for choice in FILES | {(group, name) for group, name, _ in variants()} if choice[0] in GROUPS)


def composed(name, *overrides, monkeypatch):
    for variable in ("RUN", "IMAGES", "ROOT"):
        monkeypatch.setenv(variable, "somewhere")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


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


def check_signatures(cfg):
    nodes = list(targets(OmegaConf.to_container(cfg, resolve=True)))
    for node in nodes:
        module, _, name = node["_target_"].rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        keys = {key for key in node if not key.startswith("_")}
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values()), f"{node['_target_']} swallows keywords"
        assert keys <= set(parameters), f"{node['_target_']} does not know {keys - set(parameters)}"
        required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
        assert required <= keys, f"{node['_target_']} also needs {required - keys}"
    return nodes


@pytest.mark.parametrize("name", PRIMARY)
def test_every_command_composes_and_fits_the_constructors(name, monkeypatch):
    check_signatures(composed(name, monkeypatch=monkeypatch))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_on_the_few_shot_track(group, name, monkeypatch):
    words = [f"{group}={name}"] if group != "model/members" else ["model=ensemble", f"{group}=[{name}]"]
    if group == "experiment" and (group, name) in FILES:  # a set-up without a data set
        words += ["weights.adapter.path=somewhere"] if name == "april_gan" else []
    elif group == "experiment" or (group == "data" and "synthetic" not in name):
        words += ["data.root=somewhere"]
    assert check_signatures(composed("few_shot", *words, monkeypatch=monkeypatch))


def test_there_are_as_many_configurations_as_expected():
    assert {"zero_shot", "few_shot", "sweep", "predict", "score", "submit", "train", "tiny"} <= set(PRIMARY)
    assert {group for group, _ in CHOICES} == set(GROUPS)
    assert len(CHOICES) > 90


def test_a_variant_does_not_hide_behind_a_file():
    for group, name, _ in variants():
        assert not (CONF / group / f"{name}.yaml").exists()


@pytest.mark.parametrize(("model", "weights"), [("clip_adapter", "tiny"), ("saa_plus", "tiny"), ("padim", "resnet18")])
def test_a_preset_suits_the_weights_wherever_the_model_stands(model, weights, monkeypatch):
    preset = next(content for _, name, content in variants() if name == f"{model}_{weights}")
    alone = composed("few_shot", f"model={model}", f"weights={weights}", monkeypatch=monkeypatch).model
    assert {key: alone[key] for key in preset} == preset
    plain = composed("few_shot", f"model={model}", "weights=none", monkeypatch=monkeypatch).model
    assert all(plain[key] != value for key, value in preset.items())
    words = ("model=ensemble", f"model/members=[{model}]", f"weights={weights}")
    assert composed("few_shot", *words, monkeypatch=monkeypatch).model.members[model] == alone


@pytest.mark.parametrize("override", ["shots=abc", "unknown_key=1", "seed=[1]"])
def test_a_wrong_setting_is_refused_by_name(override, monkeypatch):
    with pytest.raises(Exception, match=override.split("=")[0]):
        composed("few_shot", override, monkeypatch=monkeypatch)
