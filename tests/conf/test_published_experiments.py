"""The set-ups of the published comparisons: what they run, and the figures that their first lines promise."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.published.reader import load
from tracks.command.cli import CONF
from tracks.comparison import answers

COMPARED = {"saa": "SAA", "clipseg": "ClipSeg", "utad": "UTAD"}
COLUMNS = {"mvtec": "MVTec-AD", "visa": "VisA", "ksdd2": "KSDD2", "mtd": "MTD"}
QUOTED = {"winclip": "WinCLIP", "spade": "SPADE", "padim": "PaDiM", "patchcore": "PatchCore"}
SHOWN = ("AUROC-segm", "F1-max-segm", "PRO-segm", "AUROC-cls", "F1-max-cls", "AP-cls")
EXPERIMENTS = yaml.safe_load(Path(answers.__file__).with_suffix(".yaml").read_text())["experiments"]


def composed(name, track="zero_shot"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(track, [f"experiment={name}", "data.root=/nowhere"], return_hydra_config=True)


def lines_of(name):
    return (CONF / f"experiment/{name}.yaml").read_text().splitlines()


def test_the_index_knows_every_experiment():
    assert set(EXPERIMENTS) == {path.stem for path in (CONF / "experiment").glob("*.yaml")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_model_and_data_are_those_of_the_index(name):
    choices = composed(name).hydra.runtime.choices
    assert (choices["model"], choices["data"]) == (EXPERIMENTS[name]["model"], EXPERIMENTS[name]["data"])
    assert lines_of(name)[0] == "# @package _global_"
    assert f'ARGS="experiment={name}"' in lines_of(name)[1]


@pytest.mark.parametrize("data", COLUMNS)
@pytest.mark.parametrize("model", COMPARED)
def test_zero_shot_comparisons_see_what_saa_plus_sees_and_state_the_papers_figure(model, data):
    cfg, beside = composed(f"{model}_{data}"), composed(f"saa_plus_{data}")
    assert (cfg.data, cfg.resolution) == (beside.data, beside.resolution)
    line = next(line for line in lines_of(f"{model}_{data}") if line.startswith("#     "))
    pixels, regions = float(line.split()[1]), float(line.partition("F1-max ")[2].split()[0])
    table = load("saa_extended/1")
    assert pixels == pytest.approx(table.cell(COLUMNS[data], Metric="F_p", Method=COMPARED[model]), abs=0.051)
    assert regions == table.cell(COLUMNS[data], Metric="F_r", Method=COMPARED[model])


def test_plain_saa_has_the_published_weights_and_no_prompts_but_anomaly():
    cfg = composed("saa_mvtec")
    assert (cfg.model.refiner.weights, cfg.model.generator.weights) == ("sam_vit_h", "groundingdino_swint_ogc")
    assert (cfg.model.language, cfg.model.property, cfg.model.saliency, cfg.model.confidence) == (
        "naive", False, False, False,
    )  # fmt: skip
    assert list(cfg.prompts.general) == ["anomaly"]


@pytest.mark.parametrize("data", ["mvtec", "visa"])
@pytest.mark.parametrize("model", QUOTED)
def test_few_shot_comparisons_state_the_papers_figures(model, data):
    table = load({"mvtec": "april_gan/3", "visa": "april_gan/4"}[data])
    expected = {
        row.words["Setting"][0].replace("z", "0"): [row.figures[column] for column in SHOWN]
        for row in table.rows
        if row.words["Method"] == QUOTED[model]
    }
    stated = [line.split()[1:] for line in lines_of(f"{model}_{data}") if line.startswith("#     ") and "shot" in line]
    assert {words[0]: [float(word) for word in words[2:]] for words in stated} == expected
    cfg = composed(f"{model}_{data}", "few_shot")
    assert cfg.resolution == cfg.model.backbone.image_size == (240 if model == "winclip" else 224)
