"""From Python: what the commands run, to the bit, and inputs as a person would pass them."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

import tracks.predict as door
from models.tiles import Tiled
from tracks import api
from tracks.command.settings import check_settings
from tracks.errors import TrackInputError

SMALL = {"model": "constant", "weights": "none", "categories": ["marble"], "overlays": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(3):
        pixels = draw.integers(90, 130, (60, 80, 3), dtype=np.uint8)
        pixels[20:30, 30:45] = 255 * (number == 2)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    return api.load_model(device="cpu")


def test_the_model_is_the_commands_and_takes_its_settings(model):
    assert isinstance(model, Tiled)
    assert not model.training
    whole = api.load_model(tiles="whole", max_references=5, gaussian_weight=0.25, device="cpu")
    assert whole.gaussian_weight == 0.25
    assert "of more than 5 references" in whole.protocol["few_shot_calibration"]
    assert type(api.load_model("constant", weights="none", value=0.75)).__name__ == "Constant"
    with pytest.raises(Exception, match="clip_adaptor"):
        api.load_model("clip_adaptor")


def test_scores_are_those_of_the_command(model, photos, tmp_path):
    judged = api.predict_folder(
        photos, category="steel, bracket", out=str(tmp_path / "out"), device="cpu", tiles="auto"
    )
    table = judged.table().set_index("file")
    found = api.score(model, photos, "steel, bracket")
    assert [table.loc[f"{number}.png", "score"] for number in range(3)] == pytest.approx(
        [each.score for each in found], abs=1e-6
    )
    assert json.loads((tmp_path / "out/run.json").read_text())["category"] == "steel, bracket"
    assert str(judged).split()[1] in ("DEFECT", "OK")
    assert found[0].anomaly_map.shape == (60, 80)


def test_images_are_taken_as_they_come(model, photos):
    paths = [photos / "0.png", str(photos / "1.png")]
    pictures = [PIL.Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    expected = [each.score for each in api.score(model, paths)]
    for images in (pictures, arrays, [pictures[0], arrays[1]]):
        assert [each.score for each in api.score(model, images)] == expected
    assert api.score(model, arrays[0])[0].score == pytest.approx(expected[0], abs=1e-5)


def test_what_was_learnt_counts(photos):
    model = api.load_model(device="cpu")
    before = api.score(model, photos, "nut")
    api.learn(model, photos, "nut")
    after = api.score(model, photos, "nut")
    assert max(one.anomaly_map.max() for one in after) < max(one.anomaly_map.max() for one in before)


def test_a_track_is_the_commands(tmp_path, capsys):
    run = api.run_track("zero_shot", **SMALL, outputs=str(tmp_path))
    assert capsys.readouterr().out == ""
    assert "| marble |" in str(run)
    assert list(run.table()["category"]) == ["marble", "mean"]
    assert "constant-none-synthetic" in run.folder.name
    with pytest.raises(TrackInputError, match="zero_shot or few_shot"):
        api.run_track("few-shot")


def test_reading_a_configuration_twice_leaves_nothing_behind(photos):
    assert api.composed("predict", {}) == api.composed("predict", {})
    assert door.describe(api.composed("predict", {"images": "a,b [c]"}))["images"].endswith("a,b [c]")
    assert torch.is_grad_enabled()


def test_a_command_called_after_it_checks_no_settings_of_an_earlier_call():
    check_settings(api.composed("predict", {"images": "photos"}))
