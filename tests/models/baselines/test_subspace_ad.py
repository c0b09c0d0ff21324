"""SubspaceAD: references in parts, merged, left out; rotations; one size of state."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from models.baselines.subspace_ad import SubspaceAD, SubspaceADBatch
from models.contract import assert_same, batch
from models.errors import ModelInputError
from models.references import Prepared, joined
from models.subspace import Moments
from tests.support.baseline_stand_ins import small_resnet
from tests.support.clip_stand_ins import small_backbone
from tracks.run.cost import held_bytes


@pytest.fixture
def model():
    return SubspaceAD(small_backbone("vit"), rotations=2)


def test_references_that_are_added_are_to_the_bit_as_if_fitted_with_the_others(model):
    references = batch(model, 5)
    model.fit(references, "nut")
    at_once, left_out = dict(model._states["nut"]), model.reference_prediction("nut")
    model.fit(references[:2], "nut")
    model.add(references[2:4], "nut")
    model.add(references[4:], "nut")
    assert all(torch.equal(model._states["nut"][name], tensor) for name, tensor in at_once.items())
    assert torch.equal(model.reference_prediction("nut").anomaly_maps, left_out.anomaly_maps)
    with pytest.raises(KeyError, match="fitted: nut"):
        model.add(references, "bolt")


def test_shards_are_merged_into_what_one_machine_learns(model):
    references, images = batch(model, 5), batch(model, 2, seed=1)
    model.fit(references, "nut")
    expected = model.predict(images, ["nut", "nut"])
    shards = []
    for part in references.split(2):
        model.fit(part, "nut")
        shards.append(model.state("nut"))
    model.load_state(model.merged(shards), "nut", references)
    assert_same(model.predict(images, ["nut", "nut"]), expected)
    assert len(model.reference_prediction("nut").image_scores) == 5


def test_what_is_held_has_one_size_however_many_references_there_are(model):
    image, held = batch(model, 1)[0], []
    for count in (2, 9):
        model.fit(Prepared(range(count), lambda _: image), "nut")
        held.append((held_bytes(model), {name: tensor.shape for name, tensor in model.state("nut").items()}))
    assert held[0] == held[1]


def test_a_single_reference_is_scored_under_its_mirror_image(model):
    image = batch(model, 1)
    model.fit(image, "nut")
    left_out = model.reference_prediction("nut")
    model.fit(image.flip(-1), "nut")
    assert_same(left_out, model.predict(image, ["nut"]))


def test_references_are_learnt_with_rotated_copies_black_outside():
    model = SubspaceAD(small_backbone("vit"), rotations=30)
    image = torch.ones(3, *batch(model, 1).shape[2:])
    seen = []
    model._tokens = lambda views: (seen.append(views), (views.flatten(1)[:, :48, None], (48, 1)))[1]  # type: ignore[assignment]
    model._view_moments(image, "nut")
    views = torch.cat(seen)
    assert torch.equal(views[0], image)
    assert len(views) == 31
    centre = views[:, :, image.shape[1] // 2, image.shape[2] // 2]
    assert_close(centre, torch.ones_like(centre))
    black = model.backbone.preprocess.mean[0] / model.backbone.preprocess.std[0]
    assert float(views[:, 0].amin()) == pytest.approx(-black, abs=1e-5)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 31


def test_angles_follow_from_seed_and_pixels_and_some_categories_have_none(model):
    one, other = batch(model, 2)
    assert model._angles(one, "nut") == model._angles(one, "bolt") != model._angles(other, "nut")
    assert all(0 <= angle < 345 for angle in SubspaceAD(model.backbone)._angles(one, "nut"))
    assert model._angles(one, "transistor") == []
    assert SubspaceAD(model.backbone, rotations=2, seed=1)._angles(one, "nut") != model._angles(one, "nut")


def test_stages_are_averaged_or_joined():
    backbone = small_backbone("vit")
    image = batch(SubspaceAD(backbone), 1)
    stages = torch.stack(backbone.encode_image(image).stages[:2])
    tokens = {how: SubspaceAD(backbone, stages=[1, 2], aggregation=how)._tokens(image)[0] for how in ("mean", "concat")}
    assert_close(tokens["mean"], stages.mean(dim=0))
    assert_close(tokens["concat"], torch.cat(list(stages), dim=-1))
    assert SubspaceAD(backbone).aggregation == "mean"
    assert SubspaceAD(small_resnet()).aggregation == "concat"
    with pytest.raises(ModelInputError, match="of stages of one width, mean, got 'mean'"):
        SubspaceAD(small_resnet(), aggregation="mean")


def test_a_batch_is_scored_by_the_subspace_of_all_of_it_in_two_passes():
    images, asked = batch(SubspaceAD(small_backbone("vit")), 6), []

    def prepare(index: int) -> torch.Tensor:
        asked.append(index)
        return images[index]

    parts = list(SubspaceADBatch(small_backbone("vit")).predict_together(Prepared(range(6), prepare), "nut", 4))
    assert asked == [*range(6), *range(6)]
    known = SubspaceAD(small_backbone("vit"), rotations=0)
    known.fit(images, "nut")
    assert_same(joined(parts, range(6)), known.predict(images, ["nut"] * 6))


def test_no_reference_is_refused(model):
    with pytest.raises(ModelInputError, match="at least one reference image of 'nut'"):
        model.fit(batch(model, 1)[:0], "nut")


def test_a_reference_left_out_takes_its_rotations_with_it(model):
    """The moments less its own are those of the others, in float64 rounding."""
    references = batch(model, 3)
    model.fit(references, "nut")
    less = model._known("nut") - model._view_moments(references[1], "nut")
    others = sum(
        map(partial(model._view_moments, category="nut"), references[[0, 2]]), Moments(*(torch.zeros(()),) * 3)
    )
    for name, expected in vars(others).items():
        assert_close(getattr(less, name), expected, rtol=1e-10, atol=1e-9)
