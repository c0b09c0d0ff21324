"""The ensemble: its average re-derived, its calibration on references alone, who sits out."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.base import FEW_SHOT, ZERO_SHOT, AnomalyModel, Prediction
from models.baselines.ensemble import Ensemble
from models.errors import ModelInputError


class Brightness(AnomalyModel):
    """Says how bright pixels are, times a factor; knows its references' own verdict."""

    def __init__(self, factor: float, serves: Sequence[str] = (ZERO_SHOT, FEW_SHOT)):
        super().__init__()
        self.factor, self.serves, self.seen = factor, tuple(serves), 0
        self.known: dict[str, Prediction] = {}

    @staticmethod
    def preprocess(image: PIL.Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)

    def fit(self, references, category):
        self.known[category] = self.predict(references, [category] * len(references))

    def predict(self, images, categories):
        self.seen += len(images)
        maps = torch.stack([image.mean(0) * self.factor for image in images])
        return Prediction(maps, maps.amax(dim=(1, 2)))

    def reference_prediction(self, category):
        return self.known[category]

    @property
    def protocol(self):
        return {"factor": self.factor, "adapter_trained_on": f"set {self.factor:g}"}


def images(*levels, size=8):
    return torch.stack([torch.full((3, size, size), level, dtype=torch.uint8) for level in levels])


def test_without_references_it_is_the_mean_of_the_members_by_their_shares():
    model = Ensemble({"a": Brightness(1), "b": Brightness(10)}, shares={"b": 3}, map_size=8)
    prediction = model.predict(images(10, 20), ["nut", "nut"])
    assert_close(prediction.image_scores, torch.tensor([10.0, 20]) * (1 * 1 + 3 * 10) / 4)
    assert_close(prediction.anomaly_maps[1], torch.full((8, 8), 20 * 31 / 4))


def test_with_references_a_members_unit_does_not_matter():
    one = Ensemble({"a": Brightness(1), "b": Brightness(1)}, map_size=8, map_exponent=2, score_exponent=4)
    other = Ensemble({"a": Brightness(1), "b": Brightness(1000)}, map_size=8, map_exponent=2, score_exponent=4)
    for model in (one, other):
        model.fit(images(20, 40), "nut")
    expected = [x**4 / (x**4 + 30**4) for x in (30, 60, 0)]
    for model in (one, other):
        prediction = model.predict(images(30, 60, 0), ["nut"] * 3)
        assert_close(prediction.image_scores, torch.tensor(expected), rtol=1e-5, atol=1e-6)
        assert_close(prediction.anomaly_maps[1, 0, 0], torch.tensor(60**2 / (60**2 + 30**2)))
    assert_close(one.reference_prediction("nut").image_scores[0], torch.tensor(20**4 / (20**4 + 30**4)))


def test_test_images_have_no_say_in_the_calibration():
    model = Ensemble({"a": Brightness(1)}, map_size=8)
    model.fit(images(20), "nut")
    alone = model.predict(images(30), ["nut"])
    among = model.predict(images(30, 250, 1), ["nut"] * 3)
    assert torch.equal(alone.image_scores, among.image_scores[:1])
    assert torch.equal(alone.anomaly_maps, among.anomaly_maps[:1])


def test_who_needs_references_sits_out_without_them_and_is_named():
    needy = Brightness(5, [FEW_SHOT])
    model = Ensemble({"a": Brightness(1), "needy": needy}, map_size=8)
    assert_close(model.predict(images(10), ["nut"]).image_scores, torch.tensor([10.0]))
    assert needy.seen == 0
    assert model.protocol["sit_out_without_references"] == "needy"
    with pytest.raises(ModelInputError, match=r"ensemble \(of needy\).*zero-shot track: clip_adapter"):
        Ensemble({"needy": needy}).predict(images(10), ["nut"])


def test_who_cannot_learn_is_calibrated_by_its_own_verdict_on_the_references():
    model = Ensemble({"a": Brightness(1), "words": Brightness(7, [ZERO_SHOT])}, map_size=8)
    model.fit(images(30), "nut")
    assert_close(model.predict(images(30), ["nut"]).image_scores, torch.tensor([0.5]))
    assert model.members["words"].known == {}
    with pytest.raises(ModelInputError, match=r"few-shot track: clip_adapter.*patchcore"):
        Ensemble({"words": Brightness(7, [ZERO_SHOT])}).fit(images(30), "nut")


def test_labels_are_those_of_all_members():
    protocol = Ensemble({"a": Brightness(1), "b": Brightness(2)}).protocol
    assert (protocol["a.factor"], protocol["b.factor"]) == (1, 2)
    assert protocol["adapter_trained_on"] == "set 1, set 2"
    assert protocol["members"] == "1 x a, 1 x b"


def test_wrong_members_and_shares_are_refused():
    with pytest.raises(ModelInputError, match="at least one model"):
        Ensemble({})
    with pytest.raises(ModelInputError, match="of members, which are a"):
        Ensemble({"a": Brightness(1)}, shares={"b": 1})
    with pytest.raises(ModelInputError, match="at least 0 each"):
        Ensemble({"a": Brightness(1)}, shares={"a": -1})
