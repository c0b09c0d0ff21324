"""From regions to the answer: the map of Eq. 9, saliency below the regions, the choice of a source, the image score."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ModelInputError
from models.saa.confidence import PackedMask, TopRegions
from models.saa.result import anomaly_map, image_score, most_agreed, with_dense_saliency
from tests.support.saa_stand_ins import SIZE, rectangles


def regions_of(masks, scores):
    return TopRegions(SIZE, tuple(PackedMask.pack(masks)), scores, torch.arange(len(scores)), len(scores))


def slow_map(masks, scores, extra):
    out = torch.zeros(SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            here = [s for mask, s in zip(masks, scores.tolist(), strict=True) if mask[y, x]]
            if here:
                out[y, x] = sum(here) / (extra + len(here))
    return out


@pytest.mark.parametrize("extra", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_map_is_equation_9(extra, seed):
    masks, scores = rectangles(6, seed), torch.rand(6, generator=torch.Generator().manual_seed(seed))
    regions = regions_of(masks, scores)
    torch.testing.assert_close(anomaly_map(regions, extra_weight=extra), slow_map(masks, scores, extra))


def test_the_published_denominator_halves_a_lone_region_and_rewards_agreement():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, :4], masks[1, 2:4] = True, True
    regions = regions_of(masks, torch.tensor([0.6, 0.6]))
    got = anomaly_map(regions, extra_weight=1.0)
    assert got[0, 0].item() == pytest.approx(0.3)
    assert got[3, 0].item() == pytest.approx(0.4)
    assert got[8, 0].item() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 0.02, 0.5, 9.0]))
def test_dense_saliency_ranks_the_rest_and_never_lifts_the_ground_over_a_region(seed, weight):
    masks = rectangles(4, seed)
    scores = torch.rand(4, generator=torch.Generator().manual_seed(seed)) + 0.01
    region_map = anomaly_map(regions_of(masks, scores))
    saliency = torch.rand(SIZE, generator=torch.Generator().manual_seed(seed + 1))
    got = with_dense_saliency(region_map, saliency, highest=1.0, weight=weight)
    covered = region_map > 0
    if covered.any() and not covered.all():
        assert got[covered].min() > got[~covered].max()
    ground = ~covered
    assert torch.equal(got[ground].argsort(), saliency[ground].argsort())
    apart = region_map[:, :, None, None] - region_map[None, None] > weight
    assert (got[:, :, None, None] > got[None, None])[apart].all()


def test_dense_saliency_means_the_same_in_every_image():
    saliency = torch.full(SIZE, 0.25)
    got = with_dense_saliency(torch.zeros(SIZE), saliency, highest=0.5, weight=0.02)
    torch.testing.assert_close(got, torch.full(SIZE, 0.01))
    with_region = torch.zeros(SIZE)
    with_region[0] = 0.3
    got = with_dense_saliency(with_region, saliency, highest=0.5, weight=0.02)
    torch.testing.assert_close(got, with_region + 0.01)


def test_dense_saliency_refuses_shapes_that_do_not_fit():
    with pytest.raises(ModelInputError, match="one shape"):
        with_dense_saliency(torch.zeros(3, 3), torch.zeros(4, 4), highest=1.0, weight=0.1)


def test_no_region_is_a_map_of_zeros():
    nothing = regions_of(torch.zeros(0, *SIZE, dtype=torch.bool), torch.zeros(0))
    assert torch.equal(anomaly_map(nothing), torch.zeros(SIZE))


def test_the_map_that_agrees_is_chosen_and_a_constant_one_never():
    saliency = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(SIZE, generator=torch.Generator().manual_seed(1))
    maps = [torch.ones(SIZE), noise, 3 * saliency + noise]
    assert most_agreed(maps, saliency) == 2
    assert most_agreed([maps[2], maps[2]], None) == 0, "of equals the first"


@pytest.mark.parametrize(("typical", "unusual"), [(None, 0.8), (0.4, 0.5), (0.2, 16 / 17)])
def test_the_image_score_blends_confidence_and_saliency(typical, unusual):
    mu = None if typical is None else torch.tensor(typical)
    got = image_score(torch.tensor(3.0), torch.full(SIZE, 0.4), 0.5, share=0.25, typical=mu)
    torch.testing.assert_close(got, torch.tensor(0.75 * 0.75 + 0.25 * unusual))
    assert image_score(torch.tensor(3.0), None, 0.5, share=0.25) == 0.75
