"""Images much larger than a model's input are said once in a run."""

import logging
from pathlib import Path

import PIL.Image
import pytest

from tests.support.fakes import BrightnessModel, FakeDataset
from tracks.datasets.files import FileSample
from tracks.datasets.notices import counted_notices
from tracks.decide import judge
from tracks.run.input_size import mention_small_input
from tracks.run.runner import RunnerOptions, predict_category
from tracks.run.store import PredictionStore


def said(caplog: pytest.LogCaptureFixture, *sizes: tuple[int, int], **protocol: object) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING), counted_notices():
        for number, size in enumerate(sizes):
            sample = FileSample(f"{number}.png", "part", 0, "good", Path(f"{number}.png"))
            mention_small_input(protocol, sample, PIL.Image.new("L", size))
    return caplog.messages


def test_the_first_large_image_is_named_with_the_setting_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, last = said(caplog, (960, 960), (40, 961), (961, 40), model_image_size=240)
    assert first.startswith("1.png: more than 4 times the 240 x 240 pixels at which the model sees it")
    assert 'ARGS="tiles=auto"' in first
    assert last.startswith("1.png and 1 more: ")
    (only,) = said(caplog, (2000, 2000), model_image_size=352, method="CLIPSeg")
    assert 'ARGS="tiles=auto"' in only


def test_nothing_is_said_where_it_is_not_so_or_not_known(caplog: pytest.LogCaptureFixture) -> None:
    large = (4000, 3000)
    assert said(caplog, (960, 960), model_image_size=240) == []
    assert said(caplog, large) == []
    assert said(caplog, large, model_image_size="each member's own") == []
    assert said(caplog, large, model_image_size=240, tiles="2 x 2") == []
    assert len(said(caplog, large, model_image_size=240, tiles="whole")) == 1


class SmallModel(BrightnessModel):
    protocol = {"model_image_size": 7}  # noqa: RUF012  (the base class has a property)


def test_tracks_and_predict_say_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = FakeDataset().test("bolt")
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    with counted_notices():
        predict_category(SmallModel(), samples, "bolt", store, RunnerOptions(resolution=32))
    assert ["and 9 more: more than 4 times" in message for message in caplog.messages] == [False, True]
    caplog.clear()
    with counted_notices():
        judge._load(SmallModel(), samples[1])
    assert len(caplog.messages) == 1
