"""The YAML of the baselines: each argument has a key, defaults are the constructors', whole set-ups build on `tiny`."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

import tracks.command.config
import tracks.predict  # noqa: F401  (registers the resolver of PROMPT)
from models.base import AnomalyModel
from models.errors import ModelInputError
from models.saa.saliency.prompt import Saliency
from tracks.command.variants import variants

CONF = Path(__file__).resolve().parents[3] / "conf"
NAMES = (
    "constant",
    "random",
    "patchcore",
    "anomaly_dino",
    "anomaly_dino_batch",
    "padim",
    "spade",
    "subspace_ad",
    "subspace_ad_batch",
    "superadd",
    "winclip",
    "musc",
    "utad",
    "clipseg",
    "ensemble",
    "vector_adapter",
)
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


MEMBERS = sorted(name for group, name, _ in variants() if group == "model/members")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_what_the_model_is_alone(name):
    member = composed("model=ensemble", f"model/members=[{name}]").model.members[name]
    alone = composed(f"model={name}").model
    assert OmegaConf.to_container(member, resolve=True) == OmegaConf.to_container(alone, resolve=True)


def test_every_model_but_the_reference_line_can_be_a_member():
    assert {"ensemble", "constant", "random", "subspace_ad_batch", "anomaly_dino_batch", "musc", *MEMBERS} == {
        path.stem for path in (CONF / "model").glob("*.yaml")
    }


def test_members_have_settings_and_prompts_of_their_own():
    members = composed(
        "model=ensemble", "model/members=[saa,saa_plus]", "model.members.saa_plus.rules=released",
        "prompts@model.members.saa_plus.prompts=saa_expert",
    ).model.members  # fmt: skip
    assert (members.saa_plus.saliency_map.rule, members.saa.saliency_map.rule) == ("released", "paper")
    assert (len(members.saa_plus.prompts.products), len(members.saa.prompts.products)) == (29, 0)


def test_saa_votes_with_others():
    model = instantiate(composed("model=ensemble", "model/members=[clip_adapter,saa_plus]").model)
    generator = torch.Generator().manual_seed(0)
    image, *references = torch.randint(90, 110, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    image[:, 20:32, 20:32] = 250
    model.fit(references, "steel")
    prediction = model.predict([image], ["steel"])
    assert prediction.anomaly_maps.shape == (1, 256, 256)
    assert prediction.image_scores[0] > model.reference_prediction("steel").image_scores.max()
    assert {"clip_adapter.method", "saa_plus.method"} <= set(model.protocol)


@pytest.mark.parametrize(("name", "remedy"), [("clipseg", "weights=clipseg"), ("winclip", "laion_vitb16_plus_240")])
def test_weights_that_lack_what_a_model_needs_are_refused(name, remedy):
    with pytest.raises(Exception, match=remedy) as caught:
        instantiate(composed(f"model={name}", "weights=none").model)
    assert any(isinstance(error, ModelInputError) for error in (caught.value, caught.value.__cause__))


PUBLISHED = [
    ("patchcore", "wide_resnet50_2", (1, 784, 1024)),
    ("padim", "wide_resnet50_2", (1, 3136, 550)),
    ("padim", "resnet18", (1, 3136, 100)),
    ("spade", "wide_resnet50_2", (1, 3136, 1792)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "net", "shape"), PUBLISHED)
def test_the_published_set_up_learns_and_sees_one_image_with_random_weights(name, net, shape):
    model = instantiate(composed(f"model={name}", f"weights={net}", "weights.backbone.weights=random:0").model)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model.fit(images[:1], "nut")
    assert model._states["nut"]["tokens" if name == "padim" else "patches"].shape == shape
    known_image, other = (model.predict(image[None], ["nut"]) for image in images)
    assert other.anomaly_maps.shape == (1, 224, 224)
    assert other.anomaly_maps.isfinite().all()
    assert known_image.anomaly_maps.max() < 0.01 * other.anomaly_maps.min()


@pytest.mark.slow
def test_the_published_utad_sees_one_image_with_random_weights():
    overrides = ["model=utad", "weights=wide_resnet50_2", "weights.saa.features.weights=random:0"]
    model = instantiate(composed(*overrides).model)
    image = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prediction = model.predict([image], ["nut"])
    assert prediction.anomaly_maps.shape == (1, 256, 256)
    assert prediction.anomaly_maps.isfinite().all()
    assert prediction.image_scores[0] > 0
