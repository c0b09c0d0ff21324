"""`make reproduce`: what is refused and listed, and a small run on two pictures of each category."""

import json
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from eval.published.reader import load
from models.weights.catalogue import missing_files
from tracks.command.cli import CONF, run_main
from tracks.comparison import plan
from tracks.comparison.answers import Need
from tracks.errors import TrackInputError
from tracks.reproduce import main, planned, reproduce

SMALL = [
    "use_weights=tiny", "device=cpu", "+settings.resolution=64", "+settings.overlays=0",
    "+settings.weights.backbone.precision=float32",
]  # fmt: skip


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Settings of the command, with Hydra set up as the command does it."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "no_weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no_hub"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("reproduce", [f"outputs={tmp_path / 'outputs'}", *overrides])


@pytest.mark.parametrize(("setting", "known"), [("models=[winclip]", "clip_adapter"), ("only=[mvtec]", "visa")])
def test_a_model_or_data_set_that_the_table_does_not_need_is_refused(settings, setting, known):
    with pytest.raises(TrackInputError, match=f"to be {known}, got|to be one of {known}, got"):
        reproduce(settings("table=april_gan/9", setting))


def test_weights_that_are_not_here_are_named(settings):
    found = missing_files({"a": ["sam_vit_b", "tiny_clip", {"b": "april_gan_visa"}], "c": 3})
    assert [entry.name for entry in found] == ["sam_vit_b", "april_gan_visa"]


def test_what_is_missing_is_said_by_name_with_the_time_it_takes(settings, tmp_path):
    with pytest.raises(TrackInputError) as refused:
        reproduce(settings("table=saa_report/1", "models=[saa_plus]"))
    message = str(refused.value)
    for named in (
        "VisA",
        "MVTec AD",
        "sam_vit_h",
        "wide_resnet50_2",
        "groundingdino_swint_ogc",
        "3,887 images",
        "hours",
    ):
        assert named in message
    assert "a folder for each of mvtec, visa" in message
    with pytest.raises(TrackInputError, match=f"no folder {tmp_path / 'gone'}; make data DATA=visa") as refused:
        reproduce(settings("table=april_gan/9", f"root={tmp_path / 'gone'}"))
    assert "openai_vitl14_336, april_gan_mvtec" in str(refused.value)
    assert "1 run of 2,162 images in all, roughly 4 minutes on a GPU or 9 hours on" in str(refused.value)
    assert "MVTec AD" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"), [("april_gan/13", "expected TABLE to be one of april_gan/1, "), ("april_gan/1", "are not public")]
)
def test_a_table_that_cannot_be_computed_is_refused(settings, name, said):
    with pytest.raises(TrackInputError, match=said):
        reproduce(settings(f"table={name}"))


def test_the_command_lists_the_tables_and_leaves_with_exit_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "no_weights"))
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    run_main(main)
    assert "april_gan/9 1 run Zero-shot APRIL-GAN on VisA by category" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(sys, "argv", ["reproduce", "table=april_gan/9", f"outputs={tmp_path}"])
    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: expected all that april_gan/9 needs")


@pytest.mark.parametrize("weights", ["tiny", "random_vitl14_336"])
def test_other_weights_are_as_they_are_by_themselves(settings, tmp_path, weights):
    run = planned(settings(f"use_weights={weights}"), Need("april_gan_visa", 1, 2), tmp_path, tmp_path)
    composed = compose("few_shot", list(run.words))
    assert composed.weights == compose("few_shot", [f"weights={weights}"]).weights
    assert (composed.data.name, composed.shots, composed.seed, composed.resolution) == ("visa", 1, 2, 518)


def visa_of_two_pictures(root):
    """The converted layout of VisA: in each category a normal and a defective test image."""
    generator = np.random.default_rng(0)
    for row in load("april_gan/9").rows[:-1]:
        folder = root / row.words["Object"]
        for part in ("train/good", "test/good", "test/bad", "ground_truth/bad"):
            (folder / part).mkdir(parents=True)
        normal = generator.integers(90, 110, (48, 64, 3), dtype=np.uint8)
        bad, mask = normal.copy(), np.zeros((48, 64), dtype=np.uint8)
        bad[10:20, 20:34], mask[10:20, 20:34] = 240, 1
        for part, picture in (("train/good/0", normal), ("test/good/1", normal), ("test/bad/2", bad)):
            PIL.Image.fromarray(picture).save(folder / f"{part}.JPG")
        PIL.Image.fromarray(mask).save(folder / "ground_truth/bad/2.png")
    return root


def test_a_small_run_ends_in_the_comparison_and_is_found_again(settings, tmp_path, capsys, monkeypatch):
    root = visa_of_two_pictures(tmp_path / "visa")
    lines, failed = reproduce(settings("table=april_gan/9", f"root={root}", *SMALL))
    printed = capsys.readouterr().out
    assert failed == []
    assert "april_gan/9, Zero-shot APRIL-GAN on VisA by category: 1 run of 2,162 images" in printed
    assert "weights tiny, not the published set-up's openai_vitl14_336" in printed
    assert "settings that are not the published set-up's: resolution\n" in printed
    assert "24 images, where the table is over 2,162" in printed
    assert "ours, 1 of the 1 runs behind the table:" in printed
    assert "pro: the paper's PRO is taken at 200 evenly spaced thresholds" in printed
    assert len(lines) == 13 * 8
    assert all(line.ours is not None for line in lines)
    out = tmp_path / "outputs/reproduce/april_gan/9"
    assert len((out / "comparison.csv").read_text().splitlines()) == 1 + len(lines)
    assert (out / "comparison.md").read_text() in printed
    run = next((tmp_path / "outputs/zero_shot").glob("clip_adapter-tiny-visa-0shot-seed0-*"))
    results = json.loads((run / "results.json").read_text())
    candle = next(line for line in lines if (line.row, line.metric) == ("candle", "pro_seg"))
    assert candle.ours == pytest.approx(100 * results["categories"]["candle"]["pro_seg"])
    shutil.rmtree(root)
    assert reproduce(settings("table=april_gan/9", *SMALL)) == (lines, [])
    assert str(run) in capsys.readouterr().out
    assert reproduce(settings("table=april_gan/9", f"run={run}")) == (lines, [])
    monkeypatch.setattr(plan, "_run_child", lambda run, log: log.write_text("error: no room\n") and 2)
    root.mkdir()
    with pytest.raises(TrackInputError, match=r"expected a run behind april_gan/9 to end well, got: .*: no room"):
        reproduce(settings("table=april_gan/9", f"root={root}", *SMALL[:2], "+settings.resolution=32"))
