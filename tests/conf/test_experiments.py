"""The set-ups of the published comparisons: what each name composes to, and the figures that the files promise."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import tracks.command.config  # noqa: F401  (registers the schema and the variants)
from eval.published.reader import load
from tracks.command.cli import CONF
from tracks.command.variants import variants
from tracks.comparison import answers

RESNET = ("weights=wide_resnet50_2", "resolution=224")
SAA = ("weights=saa_official", "resolution=400", "mask_resize=nearest", "batch_size=1", "model.rules=released")
SET_UPS = {
    "april_gan": ("model=clip_adapter", "weights=openai_vitl14_336", "resolution=518", "map_precision=float32"),
    "winclip": ("model=winclip", "weights=laion_vitb16_plus_240", "prompts=winclip", "resolution=240"),
    "padim": ("model=padim", *RESNET),
    "patchcore": ("model=patchcore", *RESNET),
    "spade": ("model=spade", *RESNET),
    "subspace_ad": (
        "model=subspace_ad",
        "weights=dinov2_vitg14_reg",
        "seed=42",
        "draw=shuffled",
        "resolution=672",
        "mask_resize=nearest",
    ),
    "superadd": (
        "model=superadd",
        "weights=dinov3_vith16_plus",
        "resolution=native",
        "batch_size=1",
        "model.map_size=640",
        "model.max_references=1000",
    ),
    "anomaly_dino": (
        "model=anomaly_dino",
        "weights=dinov2_vits14",
        "draw=slices",
        "resolution=native",
        "model.side=448",
        "model.rotations=agnostic",
        "model.map_size=1024",
    ),
    "saa_plus": ("model=saa_plus", "prompts=saa_expert", *SAA),
    "saa": ("model=saa", "prompts=saa_naive", *SAA),
    "clipseg": ("model=clipseg", "weights=clipseg", "prompts=saa_expert", "resolution=400"),
    "utad": ("model=utad", "weights=wide_resnet50_2", "resolution=400"),
    "musc": ("model=musc", "weights=openai_vitl14_336", "resolution=518", "map_precision=float32"),
}
ON_DATA = {
    "april_gan_mvtec": ("weights.adapter.path=april_gan_visa", "weights.adapter.trained_on=[visa]"),
    "april_gan_visa": ("weights.adapter.path=april_gan_mvtec", "weights.adapter.trained_on=[mvtec]"),
    "musc_mvtec": ("mask_resize=full",),
    "musc_visa": ("mask_resize=any", "model.neighbours=[1,8,9]"),
    "anomaly_dino_visa": ("model.masking=always",),
    "ksdd2": ("data.split=swapped",),
    "mtd": ("data.mask_above=0", "data.unmarked=normal"),
}
EXPERIMENTS = yaml.safe_load(Path(answers.__file__).with_suffix(".yaml").read_text())["experiments"]
COLUMNS = {"mvtec": "MVTec-AD", "visa": "VisA", "ksdd2": "KSDD2", "mtd": "MTD"}
ZERO_SHOT = {"saa_plus": "SAA+", "saa": "SAA", "clipseg": "ClipSeg", "utad": "UTAD"}
FEW_SHOT = {"april_gan": "Ours", "winclip": "WinCLIP", "spade": "SPADE", "padim": "PaDiM", "patchcore": "PatchCore"}
SHOWN = ("AUROC-segm", "F1-max-segm", "AP-segm", "PRO-segm", "AUROC-cls", "F1-max-cls", "AP-cls")


def composed(*overrides, track="zero_shot"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(track, [*overrides, "data.root=/nowhere"])


def parts_of(name):
    """The set-up and the data set of an experiment's name."""
    set_up = max((each for each in SET_UPS if name.startswith(f"{each}_")), key=len)
    return set_up, name.removeprefix(f"{set_up}_")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_these_settings_in_one_word(name):
    set_up, data = parts_of(name)
    words = (f"data={data}", *SET_UPS[set_up], *ON_DATA.get(name, ON_DATA.get(data, ())))
    for track in ("zero_shot", "few_shot"):
        assert composed(f"experiment={name}", track=track) == composed(*words, track=track)
    assert (EXPERIMENTS[name]["model"], EXPERIMENTS[name]["data"]) == (SET_UPS[set_up][0].partition("=")[2], data)


def test_the_published_tables_know_every_experiment():
    assert set(EXPERIMENTS) == {name for group, name, _ in variants() if group == "experiment"}
    assert set(SET_UPS) == {path.stem for path in (CONF / "experiment").glob("*.yaml")}


def lines_of(set_up):
    """The lines of a set-up's file, which opens with the command of each of its experiments."""
    lines = (CONF / f"experiment/{set_up}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_", "Hydra looks for it in the first line only"
    commands = re.findall(r'ROOT=/data/(\w+) ARGS="experiment=(\w+)', "\n".join(lines))
    assert dict.fromkeys(f"{set_up}_{data}" for data, _ in commands) == dict.fromkeys(name for _, name in commands)
    assert {name for _, name in commands} == {name for name in EXPERIMENTS if parts_of(name)[0] == set_up}
    return [line.lstrip("# ") for line in lines if line.startswith("#  ") or re.match(r"# (mvtec|visa)  ", line)]


@pytest.mark.parametrize(("set_up", "method"), ZERO_SHOT.items())
def test_zero_shot_set_ups_state_the_papers_figures(set_up, method):
    rows = [line.split() for line in lines_of(set_up)[1:]]
    table = load("saa_extended/1")
    for data, pixels, regions in rows:
        assert float(pixels) == pytest.approx(table.cell(COLUMNS[data], Metric="F_p", Method=method), abs=0.051)
        assert float(regions) == table.cell(COLUMNS[data], Metric="F_r", Method=method)
    assert [row[0] for row in rows] == list(COLUMNS)


@pytest.mark.parametrize(("set_up", "method"), FEW_SHOT.items())
def test_few_shot_set_ups_state_the_papers_figures(set_up, method):
    rows = [line.split() for line in lines_of(set_up)]
    half = len(rows) // 2
    shown = [column for column in SHOWN if column != "AP-segm" or set_up == "april_gan"]
    for data, number, stated in (("mvtec", 3, rows[:half]), ("visa", 4, rows[half:])):
        assert stated[0][0] == data
        expected = {
            row.words["Setting"][0].replace("z", "0"): [row.figures[column] for column in shown]
            for row in load(f"april_gan/{number}").rows
            if row.words["Method"] == method
        }
        assert {words[0]: [float(word) for word in words[2:]] for words in stated[1:]} == expected
