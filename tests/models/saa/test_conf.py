"""The YAML of SAA and SAA+: whole set-ups compose, build from the command line and repeat what was published."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import tracks.command.config
import tracks.predict  # noqa: F401  (registers the resolver of PROMPT)
from models.errors import ModelInputError
from models.saa.language import PromptChoice
from models.saa.model import SAA
from models.saa.rules import Rules
from models.saa.saliency.prompt import Saliency
from models.weights.catalogue import catalogue
from tests.support.saa_stand_ins import BOOK, GridGenerator

CONF = Path(__file__).resolve().parents[3] / "conf"
EXPERIMENTS = ("saa_plus_mvtec", "saa_plus_visa", "saa_plus_ksdd2", "saa_plus_mtd")
PARTS = ("generator", "refiner", "features")


def composed(*overrides, command="zero_shot"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, list(overrides))


def built(*overrides):
    return instantiate(composed(*overrides).model)


def test_every_argument_has_a_key_and_the_defaults_are_the_constructors():
    node = composed("model=saa_plus", "weights=saa_official").model
    assert set(node) - {"_target_", "_convert_"} == set(inspect.signature(SAA).parameters)
    assert set(node.saliency_map) - {"_target_"} == set(inspect.signature(Saliency).parameters)
    assert set(node.switches) == set(vars(Rules.paper())) - {"name"}
    for name, parameter in inspect.signature(SAA).parameters.items():
        if parameter.default is not inspect.Parameter.empty and name != "switches":
            assert node[name] == parameter.default, name
    for name, parameter in inspect.signature(Saliency).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert node.saliency_map[name] == parameter.default, name


@pytest.mark.parametrize("weights", ["tiny", "saa_official", "saa_random"])
def test_every_part_of_the_weights_has_a_key_for_every_argument(weights):
    parts = OmegaConf.to_container(composed("model=saa_plus", f"weights={weights}").weights.saa, resolve=True)
    assert [part for part in PARTS if parts[part] is None] == (["refiner"] if weights == "tiny" else [])
    for part in PARTS:
        if parts[part] is None:
            continue
        module, _, name = parts[part]["_target_"].rpartition(".")
        called = getattr(__import__(module, fromlist=[name]), name)
        assert set(parts[part]) - {"_target_"} == set(inspect.signature(called).parameters), part


@pytest.mark.parametrize("path", sorted((CONF / "model" / "part").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_other_part_has_a_key_for_every_argument_and_knows_its_weights(path):
    kind = path.parent.name
    choice = f"model/part/{kind}@weights.saa.{kind}={path.stem}"
    part = composed("model=saa_plus", "weights=saa_official", choice).model[kind]
    module, _, name = part["_target_"].rpartition(".")
    called = getattr(__import__(module, fromlist=[name]), name)
    assert set(part) - {"_target_"} == set(inspect.signature(called).parameters)
    assert part.weights in catalogue()


def test_random_weights_go_with_another_detector():
    part = composed("weights=saa_random", "model/part/generator@weights.saa.generator=llmdet").weights.saa.generator
    assert (part.weights, part.text_encoder, part.architecture) == ("random:0", None, "mm_grounding_dino_tiny")


def test_the_plain_assembly_has_none_of_the_four_prompts():
    node = composed("model=saa").model
    assert (node.language, node.property, node.saliency, node.confidence) == ("naive", False, False, False)
    assert (node.merge_overlap, node.dense_saliency, node.score_saliency) == (None, 0, 0)
    assert built("model=saa").protocol["method"] == "SAA"


def test_one_word_sets_the_protocol_and_others_its_switches():
    model = built(
        "model=saa_plus", "model.rules=released", "model.switches.exponent=1", "model.saliency_map.neighbours=nearest"
    )
    assert model.rules.label == "released with exponent=1"
    assert (model.saliency_map.rule, model.saliency_map.neighbours) == ("released", "nearest")
    assert built("model=saa_plus").rules == Rules.paper()


def test_what_ships_assesses_an_image_and_says_what_it_is():
    model = built("model=saa_plus")
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prediction = model.predict([image], ["steel bracket"])
    assert prediction.anomaly_maps.shape == (1, 400, 400)
    assert prediction.anomaly_maps.isfinite().all()
    label = model.protocol
    assert "CLIP box generator" in label["generator"]
    assert "the generator's map" in label["refiner"]
    assert "synthetic:source" in label["generator_trained_on"]
    assert label["prompts"] == "SAA+ general prompts (label-free)"


def test_sources_of_prompts_can_be_left_to_the_image():
    model = built("model=saa_plus", "prompts=saa_auto")
    assert isinstance(model.prompts, PromptChoice)
    assert list(model.prompts.sources) == ["naive", "general", "expert"]
    assert model.predict([torch.zeros(3, 40, 40, dtype=torch.uint8)], ["bottle"]).anomaly_maps.isfinite().all()


@pytest.mark.parametrize("weights", ["none", "openai_vitl14_336"])
def test_weights_without_parts_name_those_that_have_them(weights):
    with pytest.raises(Exception, match="weights=tiny") as caught:
        built("model=saa_plus", f"weights={weights}")
    assert any(isinstance(error, ModelInputError) for error in (caught.value, caught.value.__cause__))


def test_a_generator_that_outlines_nothing_needs_a_refiner():
    model = built("model=saa_plus")
    assert model.refiner is model.generator
    with pytest.raises(ModelInputError, match="refiner"):
        SAA(GridGenerator(), None, model.saliency_map, BOOK)


def test_prompts_of_the_other_family_are_refused():
    with pytest.raises(Exception, match="prompts=saa_general"):
        built("model=saa_plus", "prompts=april_gan")


def test_precision_reaches_generator_and_refiner():
    parts = composed("model=saa_plus", "weights=saa_official", "weights.saa.precision=bfloat16").weights.saa
    assert parts.generator.precision == parts.refiner.precision == "bfloat16"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_the_published_code_and_weights(name):
    cfg = composed(f"experiment={name}", "data.root=/nowhere")
    assert cfg.model.rules == "released"
    assert Rules.named(cfg.model.rules, cfg.model.switches) == Rules.released()
    assert (cfg.model.generator.weights, cfg.model.generator.box_threshold) == ("groundingdino_swint_ogc", 0.1)
    assert (cfg.model.refiner.weights, cfg.model.saliency_map.net.weights) == ("sam_vit_h", "wide_resnet50_2")
    assert (cfg.model.merge_overlap, cfg.model.dense_saliency, cfg.model.score_saliency) == (None, 0, 0)
    assert cfg.model.map_size == cfg.resolution == 400
    assert len(cfg.model.prompts.products) == 29
    assert name.endswith(cfg.data._target_.split(".")[2])
    assert cfg.data.mask_above == 0


def test_prompts_of_this_family_are_refused_by_the_other():
    with pytest.raises(Exception, match="prompts=april_gan"):
        built("model=clip_adapter", "prompts=saa_expert")
