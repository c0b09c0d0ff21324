"""The published trainings as settings, and the room that their tokens take."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from train.adapter import usage
from train.adapters.config import TrainOptions, read_options
from train.adapters.source import KNOWN_TARGETS
from train.adapters.token_cache import Layout

CONF = Path(__file__).resolve().parents[2] / "conf"
VIT_L_518 = Layout(embedding=768, stages=((1369, 1024),) * 4, grids=((37, 37),) * 4, mask=(518, 518))
COURSES = {"mvtec_for_visa": (3, 0.2, 1725), "visa_for_mvtec": (15, 0.0, 2162)}


@pytest.mark.parametrize("name", COURSES)
def test_a_course_is_the_published_training(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"course={name}", "data.root=/nowhere"])
    options = read_options(cfg)
    source, _, target = name.partition("_for_")
    assert cfg.data._target_.split(".")[-2] == source, "the reader of that data set"
    assert options.target == target
    assert {source, target} < set(KNOWN_TARGETS)
    assert (options.epochs, options.aug_rate) == COURSES[name][:2]
    assert (options.batch_size, options.learning_rate, options.betas) == (8, 1e-3, [0.5, 0.999])
    backbone = cfg.model.backbone
    assert (backbone.name, backbone.image_size, list(backbone.stages)) == ("ViT-L-14-336", 518, [6, 12, 18, 24])
    assert len(cfg.model.prompts.templates) == 35


@pytest.mark.parametrize("name", COURSES)
def test_a_course_repeats_its_command_and_its_room(name):
    lines = (CONF / f"course/{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# make train")
    assert lines[1].endswith(f'ARGS="course={name}"')
    gigabytes = VIT_L_518.bytes_per_image * COURSES[name][2] / 1e9
    assert any(f"The token cache takes {gigabytes:.1f} GB" in line for line in lines)
    assert gigabytes < TrainOptions().max_cache_gb


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target=mvtec"], "vandkit zero-shot weights=tiny weights.adapter.path='a b' data=mvtec root=FOLDER"),
        ([], "vandkit predict photos weights=tiny weights.adapter.path='a b'"),
        (["model=vector_adapter"], "vandkit zero-shot weights=tiny model=vector_adapter model.adapter.path='a b'"),
    ],
)
def test_a_training_says_how_to_use_what_it_made_and_where_no_threshold_comes_with_it(words, said):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfgs = [compose("train", [*words, more]) for more in ("epochs=1", "validation_share=0.2")]
    without, with_threshold = (usage(cfg, Path("a b")).splitlines() for cfg in cfgs)
    assert f"    {said}" in with_threshold
    assert without[:-1] == with_threshold
    assert "judge by 0.5" in without[-1]
