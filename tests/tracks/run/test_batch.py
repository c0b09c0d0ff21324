"""Images of one size travel as a batch, those of several as a list; a model that keeps sizes is run with either."""

from dataclasses import dataclass

import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from models.base import Prediction, stacked
from models.errors import ModelInputError
from tests.models.test_model_contract import DEVICES
from tests.support.fakes import BrightnessModel, FakeDataset, FakeSample
from tests.support.saa_stand_ins import small_saa
from tracks.run.batch import as_batch
from tracks.run.runner import RunnerOptions, fit_references, predict_category
from tracks.run.store import PredictionStore


def test_one_size_is_a_batch_and_several_are_a_list():
    same = [torch.full((3, 4, 5), float(n)) for n in range(3)]
    assert as_batch(same, "cpu").shape == (3, 3, 4, 5)
    mixed = [*same, torch.zeros(3, 5, 4)]
    batch = as_batch(mixed, "cpu")
    assert isinstance(batch, list)
    assert [tuple(image.shape) for image in batch] == [(3, 4, 5)] * 3 + [(3, 5, 4)]


def test_a_model_of_one_size_stacks_a_list_and_refuses_several_sizes():
    images = [torch.rand(3, 4, 5) for _ in range(2)]
    assert_close(stacked(images), torch.stack(images))
    assert stacked(torch.stack(images)).shape == (2, 3, 4, 5)
    with pytest.raises(ModelInputError, match=r"images of one size, got \(3, 4, 5\), \(3, 5, 4\)"):
        stacked([images[0], torch.rand(3, 5, 4)])


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_travel_to_the_device_and_bytes_stay(device):
    numbers, pixels = [torch.rand(3, 4, 5)] * 2, [torch.zeros(3, 4, 5, dtype=torch.uint8)] * 2
    assert as_batch(numbers, device).device.type == torch.device(device).type
    assert_close(as_batch(numbers, device).cpu(), torch.stack(numbers))
    assert [image.device.type for image in as_batch(pixels, device)] == ["cpu", "cpu"]


def test_a_prediction_leaves_the_device_once_for_each_batch(tmp_path, monkeypatch):
    moved, cpu = [], Prediction.cpu
    monkeypatch.setattr(Prediction, "cpu", lambda self: moved.append(len(self.image_scores)) or cpu(self))
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    samples = FakeDataset().test("bolt")
    predict_category(BrightnessModel(), samples, "bolt", store, RunnerOptions(batch_size=4))
    assert moved == [4, 4, 2]


@dataclass(frozen=True)
class OblongSample(FakeSample):
    """Each image has a size of its own."""

    def load_image(self) -> PIL.Image.Image:
        return super().load_image().resize((self.size + self.number, self.size))

    def load_mask(self) -> None:
        return None


def test_the_runner_takes_images_of_several_sizes(tmp_path):
    samples = [OblongSample(**vars(sample)) for sample in FakeDataset().test("bolt")]
    references = [OblongSample(**vars(sample)) for sample in FakeDataset().train("bolt")]
    model = small_saa()
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    fit_references(model, references[:3], "bolt", "cpu")
    assert predict_category(model, samples, "bolt", store, RunnerOptions(resolution="native", batch_size=4)) == 10
    for row, sample in zip(store.rows("bolt"), samples, strict=True):
        assert store.read_map(row).shape == (sample.size, sample.size + sample.number)
        alone = model.predict([model.preprocess(sample.load_image())], ["bolt"])
        assert row.image_score == pytest.approx(float(alone.image_scores[0]), rel=1e-5)
