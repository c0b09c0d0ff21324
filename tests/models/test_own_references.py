"""References from the test images themselves: which they are, how each image is then scored, and of which models."""

import pytest
import torch

from models.base import BOTH, INDUCTIVE, Prediction
from models.baselines.ensemble import Ensemble
from models.baselines.padim import PaDiM
from models.baselines.utad import UTAD
from models.contract import assert_same, batch, together
from models.errors import ModelInputError
from models.own_references import OWN, SHARE, OwnReferences, unfitted
from models.tiles import Tiled
from tests.models.test_model_contract import MODELS
from tests.support.baseline_stand_ins import small_resnet
from tests.support.clip_stand_ins import small_model
from tests.support.fakes import BrightnessModel, FromTheMean

OF_BOTH = [name for name, build in MODELS.items() if set(build().serves) == set(BOTH)]


@pytest.mark.parametrize(("count", "ranks"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (8, [0, 1, 2])])
@pytest.mark.parametrize("tiled", [False, True])
def test_it_is_the_model_beside_images_of_the_lowest_score_each_of_them_without_itself(count, ranks, tiled):
    model = Tiled(small_model("vit"), 2) if tiled else small_model("vit")
    images = batch(model, 31)
    found = together(OwnReferences(model, count), images)
    first = model.predict(images, ["nut"] * 31)
    own = first.image_scores.argsort()[ranks].tolist()
    known = unfitted(model)
    known.fit(images[own], "nut")
    beside, left_out = known.predict(images, ["nut"] * 31), known.reference_prediction("nut")
    maps, scores = beside.anomaly_maps.clone(), beside.image_scores.clone()
    maps[own], scores[own] = left_out.anomaly_maps[: len(own)], left_out.image_scores[: len(own)]
    taken = torch.tensor([float(number in own) for number in range(31)])
    assert_same(found, Prediction(maps, scores, {OWN: taken}))
    assert not torch.allclose(found.anomaly_maps[own[0]], beside.anomaly_maps[own[0]], atol=1e-4)


def test_of_many_images_they_are_spread_over_the_lowest_tenth():
    model, levels = BrightnessModel(), torch.randperm(200, generator=torch.Generator().manual_seed(0)) / 200
    model.reference_prediction = lambda category: Prediction(torch.zeros(4, 32, 32), torch.zeros(4))
    found = together(OwnReferences(model, 4), levels[:, None, None, None].expand(200, 3, 32, 32))
    assert sorted((200 * levels[found.scalars[OWN] == 1]).round().int().tolist()) == [0, 5, 10, 15]


@pytest.mark.parametrize(("images", "taken"), [(2, 1), (19, 1), (20, 2), (80, 8), (99, 8)])
def test_of_few_images_fewer_are_taken(images, taken):
    model = BrightnessModel()
    model.reference_prediction = lambda category: Prediction(torch.zeros(taken, 32, 32), torch.zeros(taken))
    found = together(OwnReferences(model, 8), torch.rand(images, 3, 32, 32))
    assert int(found.scalars[OWN].sum()) == taken <= max(1, SHARE * images)


@pytest.mark.parametrize("name", OF_BOTH)
def test_every_model_of_both_tracks_will_do_and_learns_nothing_for_good(name):
    model = MODELS[name]()
    images = batch(model, 5)
    before = model.predict(images, ["nut"] * 5)
    found = together(OwnReferences(model, 1), images)
    assert found.scalars[OWN].sum() == 1
    assert_same(model.predict(images, ["nut"] * 5), before)


def test_the_copy_that_learns_shares_all_weights():
    model = small_model("vit")
    copy = unfitted(model)
    assert copy is not model
    mine, its = ([*each.parameters(), *each.buffers()] for each in (model, copy))
    assert all(one is other for one, other in zip(mine, its, strict=True))
    copy.fit(batch(model, 2), "nut")
    with pytest.raises(KeyError):
        copy.predict(batch(model, 1), ["bolt"])
    model.predict(batch(model, 1), ["bolt"])


def test_of_several_views_of_a_reference_the_image_as_it_is_counts():
    model = BrightnessModel()
    views = torch.arange(4.0)
    model.reference_prediction = lambda category: Prediction(
        views[:, None, None].expand(4, 32, 32), views, {"reference": torch.tensor([0, 0, 1, 1])}
    )
    images = torch.rand(20, 3, 32, 32)
    found = together(OwnReferences(model, 2), images)
    own = model.predict(images, ["nut"] * 20).image_scores.argsort()[:2]
    assert found.image_scores[own].tolist() == [0, 2]
    assert found.anomaly_maps[own].amax(dim=(1, 2)).tolist() == [0, 2]


def test_it_says_what_it_did_and_keeps_what_scores_are():
    model = small_model("vit")
    own = OwnReferences(model, 4)
    assert "4 images of the 10% of the lowest zero-shot score, evenly spread" in own.protocol["own_references"]
    assert own.scores_are_probabilities == model.scores_are_probabilities
    assert own.protocol.items() >= model.protocol.items()


def test_what_cannot_do_without_references_or_with_them_is_refused():
    model = small_model("vit")
    for unable in (PaDiM(small_resnet()), UTAD(small_resnet()), FromTheMean(), OwnReferences(model, 2)):
        with pytest.raises(ModelInputError, match=r"expected a model of both tracks .* got \w+; choose"):
            OwnReferences(unable, 2)
    with pytest.raises(ModelInputError, match="own_references"):
        OwnReferences(model, 0)
    with pytest.raises(ModelInputError, match="all test images of a category together"):
        OwnReferences(model, 2).predict(batch(model, 1), ["nut"])
    with pytest.raises(ModelInputError, match=r"each image by itself"):
        Ensemble({"one": OwnReferences(model, 2)})
    assert model.setting == INDUCTIVE
