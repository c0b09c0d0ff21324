"""The adapter that reads all stages and the references together: its parts against slow ones, its file, its model."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from models.clip_adapter.adapter import AdapterHeader
from models.clip_adapter.checkpoint import load_adapter, save_adapter
from models.clip_adapter.comparisons import (
    BULK_TEMPERATURE,
    COMPARISONS,
    DENSITIES,
    comparisons,
    densities,
    deviations,
    distances,
)
from models.clip_adapter.context_adapter import ContextAdapter, References, difference_of
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from tests.support.clip_stand_ins import PROMPTS, small_backbone

GRID = (6, 6)


def unit_tokens(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def reach(first: int, second: int) -> int:
    (y, x), (v, u) = divmod(first, GRID[1]), divmod(second, GRID[1])
    return max(abs(y - v), abs(x - u))


def small_adapter() -> tuple[ContextAdapter, ClipAdapter]:
    backbone = small_backbone("resnet")
    torch.manual_seed(3)
    adapter = ContextAdapter(backbone.stage_widths, backbone.embed_dim, hidden=8)
    torch.nn.init.normal_(adapter.score.weight, std=0.1)
    torch.nn.init.constant_(adapter.score.bias, 1.5)
    return adapter, ClipAdapter(backbone, adapter.eval(), PROMPTS).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


def test_density_is_that_of_the_places_further_off():
    unit = unit_tokens(0, 2, 36, 5)
    found = densities(unit, GRID)
    cosine = unit @ unit.transpose(1, 2)
    slow = torch.zeros(2, 36, DENSITIES)
    for image in range(2):
        for place in range(36):
            others = [j for j in range(36) if reach(place, j) > 1]
            for n, temperature in enumerate((BULK_TEMPERATURE / 5, BULK_TEMPERATURE)):
                slow[image, place, n] = temperature * torch.logsumexp(cosine[image, place, others] / temperature, 0)
            slow[image, place, 2] = cosine[image, place].mean()
    expected = (slow.mean(1, keepdim=True) - slow) / (slow.std(1, keepdim=True, correction=0) + 0.01)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_distance_is_to_the_nearest_of_all_references_and_to_the_nearest_near_by(count):
    unit, bank = unit_tokens(1, 2, 36, 5), unit_tokens(2, count, 36, 5)
    found = distances(unit, GRID, bank)
    for image in range(2):
        for place in range(0, 36, 5):
            cosine = unit[image, place] @ bank.flatten(0, 1).T
            assert found[image, place, 0] == pytest.approx(4 * float(1 - cosine.max()), abs=1e-5)
    radius = 1  # 0.15 of 6, rounded
    local = torch.stack(
        [
            1 - torch.stack([unit[0, i] @ bank[:, j].T for j in range(36) if reach(i, j) <= radius]).max()
            for i in range(36)
        ]
    )
    assert_close(found[0, :, 2], local / (local.median() + 0.005) / 4, atol=1e-5, rtol=1e-5)


def test_banks_of_each_image_are_those_of_all():
    unit, bank = unit_tokens(1, 2, 36, 5), unit_tokens(2, 3, 36, 5)
    assert_close(distances(unit, GRID, bank.expand(2, -1, -1, -1)), distances(unit, GRID, bank))


def test_an_image_beside_itself_does_not_find_its_own_places():
    unit = unit_tokens(1, 1, 36, 5)
    assert_close(distances(unit, GRID, unit)[..., 0], torch.zeros(1, 36), atol=1e-5, rtol=0)
    own = distances(unit, GRID, unit, own=True)[0, :, 0]
    cosine = unit[0] @ unit[0].T
    slow = [1 - max(float(cosine[i, j]) for j in range(36) if reach(i, j) > 1) for i in range(36)]
    assert_close(own, 4 * torch.tensor(slow), atol=1e-5, rtol=1e-5)


def test_without_references_their_channels_are_empty():
    found, grid = comparisons(torch.randn(1, 36, 5), GRID, None)
    assert found.shape == (1, 36, COMPARISONS)
    assert grid == GRID
    assert not found[..., DENSITIES:].any()
    assert found[..., :DENSITIES].abs().sum() > 0


def test_leaving_out_the_only_reference_makes_it_the_images_own():
    kept = References((torch.arange(3.0).view(3, 1, 1),))
    assert kept.without(torch.tensor([1])).left_out.tolist() == [[False, True, False]]
    assert not kept.without(torch.tensor([1])).own
    assert References((torch.zeros(1, 1, 1),)).without(torch.tensor([0])).own


@pytest.mark.parametrize("count", [2, 40])
def test_a_reference_left_out_of_each_image_is_a_bank_without_it(count):
    unit, bank = unit_tokens(1, 2, 36, 5), unit_tokens(2, count, 36, 5)
    found = distances(unit, GRID, bank, left_out=torch.arange(count) == torch.tensor([[1], [0]]))
    for image, left_out in enumerate((1, 0)):
        others = bank[[i for i in range(count) if i != left_out]]
        assert_close(found[image], distances(unit[image : image + 1], GRID, others)[0])


def test_equal_tokens_are_0_apart():
    bank = unit_tokens(2, 3, 36, 64)
    assert not distances(bank[:1], GRID, bank)[..., 0].any()


def test_a_constant_image_gives_finite_maps():
    _, model = small_adapter()
    flat = torch.zeros(1, 3, 96, 96)
    model.fit(flat, "nut")
    prediction = model.predict(flat, ["nut"])
    assert prediction.anomaly_maps.isfinite().all()
    assert prediction.image_scores.isfinite().all()


def test_references_change_the_map_and_a_batch_is_as_one_at_a_time():
    _, model = small_adapter()
    queries = images(3)
    before = model.predict(queries, ["nut"] * 3)
    model.fit(images(2, 1), "nut")
    model.fit(images(1, 2), "bolt")
    together = model.predict(queries, ["nut", "bolt", "nut"])
    assert not torch.allclose(before.anomaly_maps, together.anomaly_maps)
    for i, category in enumerate(["nut", "bolt", "nut"]):
        alone = model.predict(queries[i : i + 1], [category])
        assert_close(alone.anomaly_maps[0], together.anomaly_maps[i], atol=1e-5, rtol=1e-5)
        assert_close(alone.image_scores[0], together.image_scores[i], atol=1e-5, rtol=1e-5)


def test_the_file_gives_the_adapter_back_and_a_damaged_one_is_refused(tmp_path):
    adapter, model = small_adapter()
    header = AdapterHeader(
        backbone="resnet", stages=model.backbone.stages, image_size=96, activation="gelu", trained_on=("x",)
    )
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter, header)
    again, found = load_adapter(path)
    assert isinstance(again, ContextAdapter)
    assert found == replace(header, kind="context")
    assert_close(again.state_dict(), adapter.state_dict())
    adapter.merge = adapter.merge[:1]
    save_adapter(path, adapter, header)
    with pytest.raises(ModelInputError, match="tensors of a context adapter"):
        load_adapter(path)


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_flipped_is_the_mean_of_both_views(shots):
    adapter, plain = small_adapter()
    both = ClipAdapter(plain.backbone, adapter, PROMPTS, flipped=True, memory_weight=0.0, memory_score_weight=0.0)
    plain = ClipAdapter(plain.backbone, adapter, PROMPTS, memory_weight=0.0, memory_score_weight=0.0)
    queries, references = images(3), images(max(shots, 1), seed=1)
    expected = []
    for flipped in (False, True):
        turn = (lambda x: x.flip(-1)) if flipped else (lambda x: x)
        if shots:
            plain.fit(turn(references), "nut")
        found = plain.predict(turn(queries), ["nut"] * 3)
        expected.append((turn(found.anomaly_maps), found.image_scores, found.scalars["text_score"]))
    if shots:
        both.fit(references, "nut")
    got = both.predict(queries, ["nut"] * 3)
    assert_close(got.anomaly_maps, (expected[0][0] + expected[1][0]) / 2, rtol=1e-5, atol=1e-6)
    assert_close(got.image_scores, (expected[0][1] + expected[1][1]) / 2, rtol=1e-5, atol=1e-6)
    assert_close(got.scalars["text_score"], (expected[0][2] + expected[1][2]) / 2, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected[0][0], expected[1][0], atol=1e-4)


def test_images_that_share_references_are_compared_together_and_come_back_in_their_places():
    _, model = small_adapter()
    for seed, category in enumerate(("nut", "bolt")):
        model.fit(images(2, seed=5 + seed), category)
    queries, categories = images(5), ["nut", "bolt", "nut", "bolt", "bolt"]
    together = model.predict(queries, categories)
    for i, category in enumerate(categories):
        alone = model.predict(queries[i : i + 1], [category])
        assert_close(together.anomaly_maps[i : i + 1], alone.anomaly_maps, rtol=1e-4, atol=1e-5)
        assert_close(together.image_scores[i : i + 1], alone.image_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_the_quick_difference_of_logits_is_that_of_the_tokens(shots):
    adapter, model = small_adapter()
    features = model.backbone.encode_image(images(2))
    known = adapter.remember(model.backbone.encode_image(images(shots, seed=1))) if shots else None
    text = functional.normalize(torch.randn(2, model.backbone.embed_dim, 2), dim=1)
    with torch.enable_grad():  # the search by numbers, which training needs
        (tokens,), _ = adapter.adapt(features, known)
    with torch.no_grad():
        assert_close(
            adapter.difference(features, text, known), difference_of(tokens, text), rtol=1e-5, atol=1e-3
        )  # of +-100


@pytest.mark.parametrize("own", [False, True])
def test_distances_are_the_same_with_and_without_gradients(own):
    unit = functional.normalize(torch.randn(3, 36, 4), dim=-1)
    bank = functional.normalize(torch.randn(1 if own else 5, 36, 4), dim=-1)
    left_out = None if own else torch.eye(5, dtype=torch.bool)[[0, 2, 4]]
    with torch.enable_grad():
        expected = distances(unit, (6, 6), bank, own, left_out)
    with torch.no_grad():
        assert_close(distances(unit, (6, 6), bank, own, left_out), expected, rtol=1e-5, atol=1e-5)


def test_deviations_are_z_scores_of_the_image_and_their_sizes():
    tokens = torch.randn(2, 7, 3) * 5 + 2
    for image, got in zip(tokens, deviations(tokens), strict=True):
        for channel in range(3):
            values = image[:, channel]
            z = (values - values.mean()) / (values.var(correction=0).sqrt() + 1e-3)
            assert_close(got[:, channel], z)
            assert_close(got[:, 3 + channel], z.abs())
    assert deviations(torch.ones(1, 4, 2)).abs().max() == 0
