"""Eq. 6 to 8: lazy top-K against a plain re-derivation, and how many boxes it outlines."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models.saa.confidence
from models.errors import ModelInputError
from models.saa.confidence import PackedMask, top_regions
from tests.support.saa_stand_ins import SIZE, rectangles, whole


class Table:
    """Masks by row number: box (i, 0, 0, 0) has mask i. Remembers what was asked for."""

    def __init__(self, masks):
        self.table, self.asked = masks, []

    def __call__(self, boxes):
        self.asked += [int(box[0]) for box in boxes]
        return self.table[boxes[:, 0].long()]

    @property
    def boxes(self):
        return torch.stack([torch.tensor([float(i), 0, 0, 0]) for i in range(len(self.table))])


def plain(masks, scores, saliency, factor, top_k, keep, merge):
    """The definition, one region after the other in Python: (proposal, score) of those that count."""
    ranked = []
    for i, (mask, score) in enumerate(zip(masks.numpy(), scores.tolist(), strict=True)):
        if keep is not None and not keep(masks[i : i + 1])[0]:
            continue
        mean = float(saliency.numpy().astype(np.float64)[mask].mean()) if saliency is not None and mask.any() else 0.0
        ranked.append((-float(np.float32(score * math.exp(factor * mean))), i))
    chosen = []
    for negative, i in sorted(ranked):
        for _, j in chosen:
            union = int((masks[i] | masks[j]).sum())
            if merge is not None and union and int((masks[i] & masks[j]).sum()) / union >= merge:
                break
        else:
            chosen.append((-negative, i))
    return [(i, score) for score, i in chosen[: top_k or len(chosen)]]


def large(masks):
    return masks.flatten(1).sum(dim=1) > 10


cases = st.fixed_dictionaries(
    {
        "count": st.integers(1, 40), "seed": st.integers(0, 10**6), "top_k": st.sampled_from([1, 2, 5, 60, None]),
        "factor": st.sampled_from([0.0, 1.0, 3.0]), "keep": st.sampled_from([None, large]),
        "merge": st.sampled_from([None, 0.3, 0.7, 1.0]), "at_once": st.sampled_from([1, 3, 16]),
        "levels": st.sampled_from([2, 5, 1000]), "salient": st.sampled_from(["none", "flat", "random"]),
    }
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(cases)
def test_lazy_is_the_definition(case):
    generator = torch.Generator().manual_seed(case["seed"])
    masks = rectangles(case["count"], case["seed"])
    levels = torch.randint(1, case["levels"] + 1, (case["count"],), generator=generator)
    scores = levels / case["levels"]  # few levels: many ties
    random = 0.5 * torch.rand(*SIZE, generator=generator)
    saliency = {"none": None, "flat": torch.full(SIZE, 0.3), "random": random}[case["salient"]]
    options = {"factor": case["factor"], "top_k": case["top_k"], "keep": case["keep"], "merge_overlap": case["merge"]}
    table = Table(masks)
    with mock.patch.object(models.saa.confidence, "AT_ONCE", case["at_once"]):
        regions = top_regions(table, table.boxes, scores, SIZE, saliency=saliency, **options)
    expected = plain(masks, scores, saliency, case["factor"], case["top_k"], case["keep"], case["merge"])
    assert regions.proposals.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(regions.scores, torch.tensor([score for _, score in expected]), rtol=1e-6, atol=0)
    assert torch.equal(whole(regions), masks[regions.proposals])
    assert regions.num_outlined == len(table.asked) == len(set(table.asked))


def test_boxes_are_outlined_in_descending_score_and_only_as_far_as_needed(monkeypatch):
    monkeypatch.setattr(models.saa.confidence, "AT_ONCE", 4)
    masks = torch.zeros(100, *SIZE, dtype=torch.bool)
    masks[:, 2:4, 2:4] = True
    scores = torch.linspace(0.01, 1, 100)
    table = Table(masks)
    regions = top_regions(table, table.boxes, scores, SIZE, saliency=torch.full(SIZE, 0.1), top_k=5)
    assert table.asked == [99, 98, 97, 96, 95, 94, 93, 92]  # the fifth, 95, settled once the next of 91 came up
    assert regions.proposals.tolist() == [99, 98, 97, 96, 95]


def test_a_late_region_of_high_saliency_is_still_found():
    masks = torch.zeros(50, *SIZE, dtype=torch.bool)
    masks[:, :3] = True
    masks[30] = False
    masks[30, 5:, 5:] = True
    saliency = torch.zeros(SIZE)
    saliency[5:, 5:] = 0.5
    scores = torch.linspace(1, 0.5, 50)
    table = Table(masks)
    regions = top_regions(table, table.boxes, scores, SIZE, saliency=saliency, factor=3.0, top_k=1)
    assert regions.proposals.tolist() == [30]
    assert regions.scores.item() == pytest.approx(scores[30].item() * math.exp(1.5))


def test_an_empty_mask_keeps_its_score():
    table = Table(torch.zeros(1, *SIZE, dtype=torch.bool))
    regions = top_regions(table, table.boxes, torch.tensor([0.4]), SIZE, saliency=torch.ones(SIZE), factor=3.0)
    assert regions.scores.tolist() == [pytest.approx(0.4)]


def test_a_duplicate_counts_again_once_its_double_is_a_duplicate_itself():
    """A over B over C, each overlapping the next: B falls to A, so C stays, however they are drawn."""
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, :, 0:6], masks[1, :, 2:8], masks[2, :, 4:10] = True, True, True
    table = Table(masks)
    for scores, expected in (([0.9, 0.8, 0.7], [0, 2]), ([0.8, 0.9, 0.7], [1]), ([0.7, 0.8, 0.9], [2, 0])):
        regions = top_regions(table, table.boxes, torch.tensor(scores), SIZE, merge_overlap=0.5)
        assert regions.proposals.tolist() == expected


def test_nothing_proposed_gives_no_region():
    table = Table(torch.zeros(0, *SIZE, dtype=torch.bool))
    regions = top_regions(table, torch.zeros(0, 4), torch.zeros(0), SIZE, saliency=torch.ones(SIZE))
    assert whole(regions).shape == (0, *SIZE)
    assert regions.num_outlined == 0


@pytest.mark.parametrize("seed", range(8))
def test_packed_masks_unpack_and_overlap_as_whole_ones(seed):
    masks = rectangles(12, seed) ^ rectangles(12, seed + 100)
    packed = PackedMask.pack(masks)
    for a, p in zip(masks, packed, strict=True):
        assert np.array_equal(p.rectangle, a[p.rows, p.columns].numpy())
        assert p.area == int(a.sum())
        for b, q in zip(masks, packed, strict=True):
            union = int((a | b).sum())
            assert p.overlap(q) == (int((a & b).sum()) / union if union else 0.0)


def test_a_large_image_is_outlined_a_few_boxes_at_a_time():
    size, most = (3000, 4000), []

    def masks(boxes):
        most.append(len(boxes))
        out = torch.zeros(len(boxes), *size, dtype=torch.bool)
        out[:, 10:20, 10:20] = True
        return out

    scores = torch.tensor([0.5, 0.4, 0.3])
    regions = top_regions(masks, torch.zeros(3, 4), scores, size, saliency=torch.full(size, 0.5), top_k=2)
    assert max(most) == 1
    torch.testing.assert_close(regions.scores, scores[:2] * math.exp(0.5))
    assert sum(packed.bits.nbytes for packed in regions.packed) < 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": torch.tensor([0.1])}, "score >= 0"), ({"scores": torch.tensor([0.1, torch.nan])}, "score >= 0"),
        ({"scores": torch.tensor([0.1, -1])}, "score >= 0"), ({"saliency": torch.ones(3, 3)}, "saliency"),
        ({"saliency": torch.full(SIZE, torch.nan)}, "saliency"), ({"saliency": -torch.ones(SIZE)}, "saliency"),
        ({"factor": -1.0}, "factor"), ({"top_k": 0}, "top_k"),
        ({"merge_overlap": 0.0}, "merge_overlap"), ({"merge_overlap": 1.5}, "merge_overlap"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_input_is_refused(change, words):
    table = Table(rectangles(2, 0))
    arguments = {"scores": torch.tensor([0.1, 0.2]), **change}
    with pytest.raises(ModelInputError, match=words):
        top_regions(table, table.boxes, arguments.pop("scores"), SIZE, **arguments)
