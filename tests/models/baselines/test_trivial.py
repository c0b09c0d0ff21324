"""The models that know nothing, and that they stay what they are."""

import pytest
import torch

from eval.ranking.curves import f1_max
from models.baselines.trivial import Constant, Random
from tests.models.test_model_contract import DEVICES, pictures


def test_constant_is_the_same_for_every_pixel_and_image():
    model = Constant(value=0.25, map_size=8)
    images = [model.preprocess(picture) for picture in pictures(3)]
    prediction = model.predict(images, ["nut"] * 3)
    assert torch.equal(prediction.anomaly_maps, torch.full((3, 8, 8), 0.25))
    assert torch.equal(prediction.image_scores, torch.full((3,), 0.25))
    model.fit(images[:2], "nut")
    assert torch.equal(model.reference_prediction("nut").image_scores, torch.full((2,), 0.25))
    with pytest.raises(KeyError, match=r"screw.*nut"):
        model.predict(images[:1], ["screw"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [Constant, Random])
def test_what_knows_nothing_is_on_its_device_too(build, device):
    model = build(map_size=8)
    images = [model.preprocess(picture) for picture in pictures(2)]
    model.fit(images, "nut")
    expected = model.predict(images, ["nut"] * 2), model.reference_prediction("nut")
    model.to(device)
    for got, known in zip(
        (model.predict(images, ["nut"] * 2), model.reference_prediction("nut")), expected, strict=True
    ):
        assert got.anomaly_maps.device == got.image_scores.device == model.device
        assert torch.equal(got.anomaly_maps.cpu(), known.anomaly_maps)
        assert torch.equal(got.image_scores.cpu(), known.image_scores)


def test_the_constants_best_f1_is_that_of_calling_all_anomalous():
    labels = torch.tensor([1, 0, 0, 1, 1]).numpy()
    assert f1_max(torch.full((5,), 0.5).numpy(), labels).value == pytest.approx(2 * 3 / (3 + 5))


def test_noise_depends_on_the_pixels_alone():
    first, second = (Random(map_size=32) for _ in range(2))
    images = [first.preprocess(picture) for picture in pictures(3)]
    once = first.predict(images, ["nut"] * 3)
    again = second.predict([images[2], images[0]], ["bolt", "nut"])
    assert torch.equal(again.anomaly_maps, once.anomaly_maps[[2, 0]])
    assert torch.equal(again.image_scores, once.image_scores[[2, 0]])
    changed = images[0].clone()
    changed[0, 0, 0] ^= 1
    assert (first.predict([changed], ["nut"]).anomaly_maps - once.anomaly_maps[:1]).abs().mean() > 0.2
    assert not torch.equal(Random(seed=1, map_size=32).predict(images, ["nut"] * 3).image_scores, once.image_scores)


def test_noise_is_uniform():
    model = Random(map_size=128)
    values = model.predict([model.preprocess(pictures(1)[0])], ["nut"]).anomaly_maps
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)
    assert values.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert values.min() >= 0
    assert values.max() < 1
