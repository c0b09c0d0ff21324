"""What a model learnt of a category goes to a file and comes back: the same scores and maps, to the bit."""

import numpy as np
import PIL.Image
import pytest
import torch

from models.base import AnomalyModel, Prediction
from models.errors import ModelInputError
from models.tensor_file import read_tensors, write_tensors
from models.tiles import Tiled
from tests.models.test_model_contract import FEW_SHOT_MODELS, MODELS, pictures
from tests.support.clip_stand_ins import small_model


def assert_equal(got: Prediction, expected: Prediction) -> None:
    assert torch.equal(got.anomaly_maps, expected.anomaly_maps)
    assert torch.equal(got.image_scores, expected.image_scores)
    assert got.scalars.keys() == expected.scalars.keys()
    assert all(torch.equal(got.scalars[name], values) for name, values in expected.scalars.items())


def there_and_back(model: AnomalyModel, fresh: AnomalyModel, shots: int, path, size=(70, 50)) -> None:
    references = [model.preprocess(picture) for picture in pictures(shots, 10, size)]
    images = [model.preprocess(picture) for picture in pictures(2, 3, size)]
    with torch.inference_mode():
        model.fit(references, "nut")
        write_tensors(path, model.state("nut"), {})
        fresh.load_state(read_tensors(path)[0], "nut", references)
        assert_equal(fresh.predict(images, ["nut"] * 2), model.predict(images, ["nut"] * 2))
        assert_equal(fresh.reference_prediction("nut"), model.reference_prediction("nut"))


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("name", FEW_SHOT_MODELS)
def test_what_was_learnt_comes_back_to_the_bit(name, shots, tmp_path):
    there_and_back(MODELS[name](), MODELS[name](), shots, tmp_path / "state.safetensors")


@pytest.mark.parametrize("size", [(70, 50), (200, 60)])
def test_so_does_what_tiles_learnt(size, tmp_path):
    both = [Tiled(MODELS["shipped"](), 2, max_references=2) for _ in range(2)]
    there_and_back(*both, 3, tmp_path / "state.safetensors", size)


def test_references_that_are_not_remembered_are_scored_as_before(tmp_path):
    both = [small_model("resnet", max_references=2, gaussian_weight=0.5) for _ in range(2)]
    there_and_back(*both, 5, tmp_path / "state.safetensors")


def test_turned_references_come_back(tmp_path):
    both = [small_model("resnet", turns=1e-9, flipped=True) for _ in range(2)]
    picture = np.asarray(pictures(1)[0].resize((64, 64)))
    references = [both[0].preprocess(PIL.Image.fromarray(np.rot90(picture, i).copy())) for i in range(3)]
    with torch.inference_mode():
        both[0].fit(references, "nut")
        assert both[0].state("nut")["bank0.tokens"].shape[0] == 24
        both[1].load_state(both[0].state("nut"), "nut", references)
        assert_equal(both[1].reference_prediction("nut"), both[0].reference_prediction("nut"))
        assert_equal(both[1].predict(references, ["nut"] * 3), both[0].predict(references, ["nut"] * 3))


def test_a_category_that_was_not_fitted_has_no_state(tmp_path):
    for model in (small_model("vit"), Tiled(small_model("vit"), 2)):
        with pytest.raises(KeyError, match="screw"):
            model.state("screw")


class Forgetful(AnomalyModel):
    """Keeps what it learnt where nobody looks."""

    def fit(self, references, category):
        self.seen = references

    def predict(self, images, categories):
        raise NotImplementedError

    @property
    def protocol(self):
        return {}


def test_a_model_that_keeps_its_state_elsewhere_says_so_by_name():
    model = Forgetful()
    model.fit([], "nut")
    with pytest.raises(ModelInputError, match="Forgetful, which cannot be kept in a file"):
        model.state("nut")
