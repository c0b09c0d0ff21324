"""The YAML of the CLIP adapter family: every key is an argument of what it names, and whole set-ups compose."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

import tracks.command.config  # noqa: F401  (registers the schema)
from models.clip.weights import ClipHeader, save_clip
from models.clip_adapter.adapter import AdapterHeader, random_adapter
from models.clip_adapter.checkpoint import save_adapter
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from tests.support.clip_stand_ins import CONFIGS, SIZES, STAGES, random_clip

CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = sorted(
    path.relative_to(CONF).as_posix()
    for path in [CONF / "model/clip_adapter.yaml", CONF / "prompts/april_gan.yaml", *(CONF / "weights").glob("*.yaml")]
)
EXPERIMENTS = ("april_gan_visa", "april_gan_mvtec")


def targets(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("zero_shot", overrides=list(overrides))


@pytest.mark.parametrize("file", FILES)
def test_every_key_is_an_argument_and_every_argument_has_a_key(file):
    for node in targets(yaml.safe_load((CONF / file).read_text())):
        signature = inspect.signature(get_object(node["_target_"]))
        assert set(node) - {"_target_", "_convert_", "defaults"} == set(signature.parameters), node["_target_"]


def test_defaults_of_the_model_are_those_of_the_constructor_unless_the_weights_say_otherwise():
    node = composed("weights=openai_vitl14_336").model
    for name, parameter in inspect.signature(ClipAdapter).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert node[name] == parameter.default, name


def test_no_weights_file_names_a_path():
    for path in (CONF / "weights").glob("*.yaml"):
        for node in targets(yaml.safe_load(path.read_text())):
            assert not any("/" in str(value) for value in node.values())


def test_the_small_prompts_and_the_published_ones_differ_in_names_only():
    tiny, openai = composed("weights=tiny"), composed("weights=openai_vitl14_336")
    assert tiny.model.prompts.clean_names is True
    assert openai.model.prompts.clean_names is False
    assert openai.model.memory_stages is None
    assert tiny.model.prompts.templates == openai.model.prompts.templates


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_the_published_set_up_and_cross_the_data_sets(name):
    cfg = composed(f"experiment={name}", "data.root=/nowhere")
    model = OmegaConf.to_container(cfg.model, resolve=True)
    assert model["backbone"] == {
        "_target_": "models.clip.backbone.load_backbone", "name": "ViT-L-14-336",
        "weights": "openai_vitl14_336", "image_size": 518, "stages": [6, 12, 18, 24], "activation": "gelu",
        "precision": "float32",
    }  # fmt: skip
    other = {"april_gan_visa": "mvtec", "april_gan_mvtec": "visa"}[name]
    assert model["adapter"]["path"] == f"april_gan_{other}"
    assert model["adapter"]["trained_on"] == [other]
    assert model["prompts"]["clean_names"] is False
    assert len(model["prompts"]["templates"]) == 35
    assert cfg.data._target_.split(".")[2] == name.removeprefix("april_gan_")
    assert cfg.resolution == 518


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_set_up_of_files_is_built_from_the_command_line(kind, tmp_path):
    """The way of tiny: names of files and nothing else; size, stages and activation come from their headers."""
    clip = random_clip(kind, SIZES[kind])
    facts = {"backbone": kind, "stages": STAGES[kind], "image_size": SIZES[kind], "activation": "gelu"}
    save_clip(
        tmp_path / f"{kind}.safetensors", clip.state_dict(), CONFIGS[kind], ClipHeader(**facts, trained_on=("x",))
    )
    widths = {"vit": (48,) * 3, "resnet": (32, 64, 128)}[kind]
    save_adapter(
        tmp_path / "a.safetensors", random_adapter(widths, 24), AdapterHeader(**facts, trained_on=("synthetic",))
    )
    cfg = composed(
        f"weights.backbone.name={tmp_path}/{kind}.json",
        f"weights.backbone.weights={tmp_path}/{kind}.safetensors",
        f"weights.adapter.path={tmp_path}/a.safetensors",
        "prompts.defects=[scratch]",
        "model.memory_stages=[2]",
        "model.gaussian_stages=[1]",
        "model.neighbourhood_stages=[1]",
        "model.vectors=null",
        "model.texture_weight=0",
        "model.own_texture_weight=0",
        "model.own_texture_even=0",
    )
    model = instantiate(cfg.model)
    assert isinstance(model, ClipAdapter)
    assert (model.backbone.stages, model.backbone.image_size) == (STAGES[kind], SIZES[kind])
    assert model.prompts.clean_names
    assert model.memory_stages == (2,)
    assert model.prompts.sentences("metal_nut")[1][-1] == "this is one metal nut with scratch in the scene."
    prediction = model.predict(torch.zeros(1, 3, SIZES[kind], SIZES[kind]), ["metal_nut"])
    assert prediction.anomaly_maps.shape == (1, SIZES[kind], SIZES[kind])
    assert model.protocol["adapter_trained_on"] == "synthetic"


def test_weights_none_are_no_weights_for_this_model():
    with pytest.raises(Exception, match="choose weights that have both") as caught:
        instantiate(composed("weights=none").model)
    chain = (caught.value, caught.value.__cause__)
    assert any(isinstance(error, ModelInputError) for error in chain)
