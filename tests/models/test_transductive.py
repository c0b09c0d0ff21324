"""What every transductive model promises; a new one joins by one line in TRANSDUCTIVE_MODELS."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.base import FEW_SHOT, TRANSDUCTIVE, ZERO_SHOT, Prediction
from models.baselines.anomaly_dino_batch import AnomalyDINOBatch
from models.baselines.ensemble import Ensemble
from models.baselines.musc import MuSc
from models.baselines.subspace_ad import SubspaceADBatch
from models.contract import assert_same, batch, checks_of, fitted, part, together
from models.errors import ModelInputError
from models.own_references import OwnReferences
from models.references import Prepared
from models.tiles import Tiled
from models.transductive import TransductiveModel, batches
from tests.support.baseline_stand_ins import small_vit
from tests.support.clip_stand_ins import small_backbone, small_model
from tests.support.fakes import FromTheMean
from tests.support.second_device import DEVICE, second_device

TRANSDUCTIVE_MODELS: dict[str, Callable[[], TransductiveModel]] = {
    "from_the_mean": FromTheMean,
    "anomaly_dino_batch": lambda: AnomalyDINOBatch(small_vit(final_norm=True), map_size=40),
    "subspace_ad_batch": lambda: SubspaceADBatch(small_backbone("vit")),
    "own_references": lambda: OwnReferences(small_model("vit"), 2),
    "musc_vit": lambda: MuSc(small_backbone("vit")),
    "musc_resnet": lambda: MuSc(small_backbone("resnet"), degrees=(3,), neighbours=()),
}
CHECKS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name, build in TRANSDUCTIVE_MODELS.items()
    for check in checks_of(type(build()))
]


@pytest.fixture(params=TRANSDUCTIVE_MODELS)
def model(request) -> TransductiveModel:
    return TRANSDUCTIVE_MODELS[request.param]()


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_it_keeps_what_transductive_models_promise(name, check):
    check(TRANSDUCTIVE_MODELS[name]())


def test_the_others_have_a_say_in_every_prediction(model):
    images = batch(model, 7)
    with_others = together(model, torch.cat([images[:6], batch(model, 6, seed=5)]))
    alone = together(model, images[:6])
    assert (with_others.anomaly_maps[:6] - alone.anomaly_maps).abs().amax(dim=(1, 2)).min() > 1e-6


def test_it_works_under_inference_mode_and_keeps_no_gradients(model):
    images = batch(model, 6)
    if images.is_floating_point():
        images.requires_grad_()
    expected = together(model, images)
    assert not expected.anomaly_maps.requires_grad
    with torch.inference_mode():
        assert_same(together(model, images), expected)


def test_an_unfinished_iteration_can_be_left(model):
    images = batch(model, 6)
    expected = together(model, images)
    parts = model.predict_together(images, "nut", 2)
    first = next(parts)
    parts.close()
    assert_same(first, part(expected, torch.arange(len(first.image_scores))))
    assert_same(together(model, images), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU and need not play one")
def test_no_tensor_is_left_behind_on_a_device_that_is_played(model):
    images = batch(model, 6)
    expected = together(model, images)
    with second_device():
        model.to(DEVICE)
        for given in (images, images.to(DEVICE)):
            said = together(model, given)
            assert said.anomaly_maps.device == said.image_scores.device == DEVICE
            assert_same(said.cpu(), expected)


def test_labels_are_plain_and_say_that_images_are_scored_together(model):
    assert model.setting == TRANSDUCTIVE
    assert json.loads(json.dumps(model.protocol)) == model.protocol


def test_neither_tiles_nor_an_ensemble_take_a_model_that_scores_images_together(model):
    with pytest.raises(ModelInputError, match=r"by itself with tiles=auto, got .* transductive; say tiles=whole"):
        Tiled(model)
    with pytest.raises(ModelInputError, match=r"each image by itself.*members.*|members.*each image by itself"):
        Ensemble({"one": model})


def test_what_it_is_not_given_enough_of_or_does_not_serve_is_said():
    model = FromTheMean()
    images = batch(model, 3)
    with pytest.raises(ModelInputError, match=r"at least 2 images of 'nut' for fromthemean.*got 1; give more"):
        next(model.predict_together(images[:1], "nut"))
    with pytest.raises(ModelInputError, match=r"all test images.*a batch of 2; call `predict_together`"):
        model.predict(images[:2], ["nut", "nut"])
    with pytest.raises(KeyError, match=r"screw.*nut, bolt"):
        next(fitted(model).predict_together(images, "screw"))

    class OnlyFewShot(FromTheMean):
        serves = (FEW_SHOT,)

    with pytest.raises(ModelInputError, match=f"{ZERO_SHOT} track"):
        next(OnlyFewShot().predict_together(images, "nut"))


def test_images_are_asked_for_in_slices_and_none_before_it_is_due():
    asked = []
    source = Prepared(range(5), lambda number: asked.append(number) or torch.zeros(3, 2, 2))
    parts = batches(source, 2)
    assert [len(next(parts)), asked] == [2, [0, 1]]
    assert [len(each) for each in parts] == [2, 1]


class CallsItself(FromTheMean):
    """Keeps none of its promises."""

    kind = ""

    def _together(self, images: Any, category: str, at_once: int):
        for number, found in enumerate(super()._together(images, category, at_once)):
            maps = found.anomaly_maps
            yield Prediction(
                maps + number if self.kind == "block" else maps / (1 + self.order(maps)), found.image_scores
            )

    def order(self, maps):
        return torch.arange(len(maps))[:, None, None]


@pytest.mark.parametrize(
    ("kind", "check"),
    [("block", "how_many_at_once_makes_no_difference"), ("order", "images_in_another_order_are_scored_the_same")],
)
def test_a_broken_promise_is_found(kind, check):
    model = CallsItself()
    model.kind = kind
    found = {each.__name__: each for each in checks_of(CallsItself)}[check]
    with pytest.raises(AssertionError):
        found(model)
