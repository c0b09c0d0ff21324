"""The YAML of the baselines: each argument has a key, defaults are the constructors', whole set-ups build on `tiny`."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate

import tracks.config
import tracks.predict  # noqa: F401  (registers the resolver of PROMPT)
from models.base import AnomalyModel
from models.errors import ModelInputError
from models.saa.saliency import Saliency

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = ("constant", "random", "patchcore", "padim", "spade", "winclip", "utad", "clipseg", "ensemble")
ON_TINY = [name for name in NAMES if name != "clipseg"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("few_shot", list(overrides))


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_key_and_the_defaults_are_the_constructors(name):
    node = composed(f"model={name}", "weights=none").model
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    assert set(node) - {"_target_", "_convert_"} == set(parameters)
    for key, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and key != "shares":
            assert node[key] == (list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default)


def test_the_saliency_of_utad_has_a_key_for_every_argument():
    node = composed("model=utad", "weights=none").model.saliency_map
    assert set(node) - {"_target_"} == set(inspect.signature(Saliency).parameters)


@pytest.mark.parametrize("name", ON_TINY)
def test_what_ships_builds_and_says_what_it_is(name):
    model = instantiate(composed(f"model={name}", "weights=tiny").model)
    assert isinstance(model, AnomalyModel)
    assert model.protocol["method"]


def test_the_number_of_channels_follows_the_weights():
    channels = {w: composed("model=padim", f"weights={w}").model.num_channels for w in ("resnet18", "wide_resnet50_2")}
    assert channels == {"resnet18": 100, "wide_resnet50_2": 550}


def test_members_of_the_ensemble_are_settled_one_by_one():
    model = instantiate(
        composed("model=ensemble", "model.members.patchcore.coreset=0.5", "+model.shares.patchcore=2").model
    )
    assert model.members["patchcore"].coreset == 0.5
    assert model.shares == {"clip_adapter": 1, "patchcore": 2}


@pytest.mark.parametrize(("name", "remedy"), [("clipseg", "weights=clipseg"), ("winclip", "laion_vitb16_plus_240")])
def test_weights_that_lack_what_a_model_needs_are_refused(name, remedy):
    with pytest.raises(Exception, match=remedy) as caught:
        instantiate(composed(f"model={name}", "weights=none").model)
    assert any(isinstance(error, ModelInputError) for error in (caught.value, caught.value.__cause__))
