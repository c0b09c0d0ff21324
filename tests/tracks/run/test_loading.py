"""Images are loaded ahead in order, travel as a batch or a list, and large ones are said once in a run."""

import logging
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from models.base import Prediction, as_batch, stacked
from models.errors import ModelInputError
from tests.models.test_model_contract import DEVICES
from tests.support.fakes import BrightnessModel, FakeDataset, FakeSample
from tests.support.saa_stand_ins import small_saa
from tracks.datasets.files import FileSample
from tracks.datasets.notices import counted_notices
from tracks.run.loading import BATCHES_AHEAD, cut, load_ahead, mention_small_input
from tracks.run.runner import RunnerOptions, fit_references, predict_category, score_images
from tracks.run.store import PredictionStore


def test_batches_come_in_order_with_what_was_loaded_of_them():
    batches = list(load_ahead(cut(range(7), 3), lambda number: number * number, workers=3))
    assert batches == [(range(3), [0, 1, 4]), (range(3, 6), [9, 16, 25]), (range(6, 7), [36])]


def test_no_more_is_loaded_than_what_may_wait():
    loaded = []
    next(load_ahead(cut(range(100), 4), loaded.append, workers=2))
    assert len(loaded) <= 4 * (BATCHES_AHEAD + 1)


def test_what_came_before_an_error_is_handed_out():
    batches = load_ahead(cut([1, 2, 0, 4], 1), lambda number: 8 // number, workers=2)
    assert [next(batches)[1], next(batches)[1]] == [[8], [4]]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_one_size_is_a_batch_and_several_are_a_list_that_a_model_of_one_size_refuses():
    same = [torch.full((3, 4, 5), float(n)) for n in range(3)]
    assert_close(as_batch(same, "cpu"), torch.stack(same))
    mixed = as_batch([*same, torch.zeros(3, 5, 4)], "cpu")
    assert [tuple(image.shape) for image in mixed] == [(3, 4, 5)] * 3 + [(3, 5, 4)]
    assert_close(stacked(same), torch.stack(same))
    assert stacked(torch.stack(same)).shape == (3, 3, 4, 5)
    with pytest.raises(ModelInputError, match=r"images of one size, got \(3, 4, 5\), \(3, 5, 4\)"):
        stacked(mixed)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_travel_to_the_device_and_bytes_stay(device):
    numbers, pixels = [torch.rand(3, 4, 5)] * 2, [torch.zeros(3, 4, 5, dtype=torch.uint8)] * 2
    assert as_batch(numbers, device).device.type == torch.device(device).type
    assert_close(as_batch(numbers, device).cpu(), torch.stack(numbers))
    assert [image.device.type for image in as_batch(pixels, device)] == ["cpu", "cpu"]


def test_a_prediction_leaves_the_device_once_for_each_batch(monkeypatch):
    moved, cpu = [], Prediction.cpu
    monkeypatch.setattr(Prediction, "cpu", lambda self: moved.append(len(self.image_scores)) or cpu(self))
    list(score_images(BrightnessModel(), FakeDataset().test("bolt"), "bolt", RunnerOptions(batch_size=4)))
    assert moved == [4, 4, 2]


@dataclass(frozen=True)
class OblongSample(FakeSample):
    """Each image has a size of its own."""

    def load_image(self) -> PIL.Image.Image:
        return super().load_image().resize((self.size + self.number, self.size))

    def load_mask(self) -> None:
        return None


def test_the_runner_takes_images_of_several_sizes(tmp_path):
    samples = [OblongSample(**vars(sample)) for sample in FakeDataset().test("bolt")][:6]
    references = [OblongSample(**vars(sample)) for sample in FakeDataset().train("bolt")]
    model = small_saa()
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    fit_references(model, references[:3], "bolt", "cpu")
    assert predict_category(model, samples, "bolt", store, RunnerOptions(resolution="native", batch_size=4)) == 6
    for row, sample in zip(store.rows("bolt"), samples, strict=True):
        assert store.read_map(row).shape == (sample.size, sample.size + sample.number)
        alone = model.predict([model.preprocess(sample.load_image())], ["bolt"])
        assert row.image_score == pytest.approx(float(alone.image_scores[0]), rel=1e-5)


def said(caplog: pytest.LogCaptureFixture, *sizes: tuple[int, int], **protocol: object) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING), counted_notices():
        for number, size in enumerate(sizes):
            sample = FileSample(f"{number}.png", "part", 0, "good", Path(f"{number}.png"))
            mention_small_input(protocol, sample, size)
    return caplog.messages


def test_the_first_large_image_is_named_with_the_setting_and_the_others_are_counted(caplog):
    first, last = said(caplog, (960, 960), (40, 961), (961, 40), model_image_size=240)
    assert first.startswith("1.png: more than 4 times the 240 x 240 pixels at which the model sees it")
    assert 'ARGS="tiles=auto"' in first
    assert last.startswith("1.png and 1 more: ")
    (only,) = said(caplog, (2000, 2000), model_image_size=352, method="CLIPSeg", tiles="whole")
    assert 'ARGS="tiles=auto"' in only


@pytest.mark.parametrize(
    ("size", "protocol"),
    [
        ((960, 960), {"model_image_size": 240}),
        ((4000, 3000), {}),
        ((4000, 3000), {"model_image_size": "each member's own"}),
        ((4000, 3000), {"model_image_size": 240, "tiles": "2 x 2"}),
    ],
    ids=str,
)
def test_nothing_is_said_where_it_is_not_so_or_not_known(caplog, size, protocol):
    assert said(caplog, size, **protocol) == []


class SmallModel(BrightnessModel):
    protocol = {"model_image_size": 7}  # noqa: RUF012  (the base class has a property)


@pytest.mark.parametrize("strict", [True, False])
def test_tracks_and_predict_say_it(caplog, strict):
    with counted_notices():
        list(score_images(SmallModel(), FakeDataset().test("bolt"), "bolt", RunnerOptions(32, strict=strict)))
    assert ["and 9 more: more than 4 times" in message for message in caplog.messages] == [False, True]
