"""PatchCore: the coreset, locally aware patches and the image score, each against the obvious slow version."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.baselines.coreset import greedy_coreset
from models.baselines.patchcore import locally_aware, reweighted
from models.baselines.patches import check_stages
from models.errors import ModelInputError
from models.nearest import nearest_rows
from tests.support.baseline_stand_ins import small_patchcore, small_resnet


def tokens(count, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def plain_coreset(rows, count):
    """Farthest first, from the row farthest from the mean."""
    chosen = [int((rows - rows.mean(0)).norm(dim=1).argmax())]
    while len(chosen) < count:
        least = [min(float((row - rows[i]).norm()) for i in chosen) for row in rows]
        chosen.append(int(np.argmax(least)))
    return chosen


@pytest.mark.parametrize("count", [1, 2, 12, 25])
def test_the_coreset_is_the_plain_loops(count):
    rows = tokens(25, 3)
    assert greedy_coreset(rows, count).tolist() == plain_coreset(rows, count)


@pytest.mark.parametrize("candidates", [1, 2, 9, 60])
def test_the_coreset_is_the_same_however_many_candidates_are_compared(candidates):
    rows = 50 + tokens(60, 4)
    assert greedy_coreset(rows, 40, candidates=candidates).tolist() == plain_coreset(rows.double(), 40)


@pytest.mark.parametrize("candidates", [2, 512])
def test_a_coreset_takes_no_row_twice_even_of_equal_rows(candidates):
    assert sorted(greedy_coreset(torch.ones(6, 2), 9, candidates=candidates).tolist()) == list(range(6))
    assert greedy_coreset(torch.ones(6, 2), 0).shape == (0,)


def test_a_coreset_covers_planted_clusters():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    rows = (centres[:, None] + 0.1 * tokens(50, 2)).flatten(0, 1)
    assert {int(i) // 50 for i in greedy_coreset(rows, 4)} == {0, 1, 2, 3}


def test_locally_aware_patches_of_own_width_are_means_over_neighbourhoods():
    first, second = torch.rand(2, 3, 6, 6), torch.rand(2, 5, 3, 3)
    patches = locally_aware([first, second], 3, None, None)
    means = [F.avg_pool2d(each, 3, stride=1, padding=1) for each in (first, second)]
    plain = torch.cat([means[0], F.interpolate(means[1], (6, 6), mode="bilinear")], dim=1)
    assert_close(patches, plain.flatten(2).transpose(1, 2))


def test_locally_aware_patches_are_averaged_as_published():
    """The authors' order of work: neighbourhoods, resized, averaged per stage, joined, averaged again."""
    first, second = torch.rand(1, 4, 6, 6), torch.rand(1, 6, 3, 3)
    got = locally_aware([first, second], 3, 7, 9)
    rows = []
    for y, x in np.ndindex(6, 6):
        parts = []
        for stage in (first, second):
            around = F.unfold(stage, 3, padding=1).unflatten(2, stage.shape[2:])
            resized = F.interpolate(around, (6, 6), mode="bilinear")[0, :, y, x]
            parts.append(F.adaptive_avg_pool1d(resized[None], 7)[0])
        rows.append(F.adaptive_avg_pool1d(torch.cat(parts)[None], 9)[0])
    assert_close(got[0], torch.stack(rows))


def test_the_image_score_is_reweighted_as_published():
    bank, patches = tokens(12), 3 + tokens(4, seed=2)
    distances, rows = nearest_rows(patches, bank)
    got = reweighted(patches, distances[:, 0], rows[:, 0], bank, 3)
    for score, patch, row in zip(got, patches, rows[:, 0], strict=True):
        s = (patch - bank[row]).norm()
        around = (bank - bank[row]).norm(dim=1).argsort()[:3]
        weight = 1 - s.exp() / sum((patch - bank[i]).norm().exp() for i in around)
        assert_close(score, weight * s)


def test_reweighting_holds_for_large_distances_and_for_a_bank_of_one():
    bank = 1e4 * tokens(5)
    patch = bank[:1] + 1e4
    distances, rows = nearest_rows(patch, bank)
    assert reweighted(patch, distances[:, 0], rows[:, 0], bank, 9).isfinite().all()
    assert_close(reweighted(patch, torch.ones(1), torch.zeros(1, dtype=torch.long), bank[:1], 9), torch.ones(1))


def test_stages_are_the_backbones_or_refused():
    backbone = small_resnet()
    assert check_stages(backbone, None, (2, 3)) == (2, 3)
    assert check_stages(backbone, [1, 4], (2, 3)) == (1, 4)
    with pytest.raises(ModelInputError, match=r"backbone's \[1, 2, 3, 4\], got \[2, 5\]"):
        check_stages(backbone, [2, 5], (2, 3))


@pytest.mark.parametrize("radius", [0, 1])
def test_a_patch_is_compared_within_its_window_of_positions(radius):
    built = small_patchcore(pos_radius=radius)
    references, queries = (torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    built.fit(references, "nut")
    bank, own = built._states["nut"]["patches"], built._patches(queries)
    side = int(own.shape[1] ** 0.5)
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    near = torch.stack([(a.flatten()[:, None] - a.flatten()).abs() for a in (down, across)]).amax(dim=0) <= radius
    apart = (own[:, None, :, None] - bank[None, :, None]).norm(dim=4).masked_fill(~near, torch.inf)
    found, _ = built._assessed(own, built._states["nut"]["bank"], built._window(own, bank))
    assert_close(found, apart.amin(dim=(1, 3)), rtol=1e-4, atol=1e-5)
    whole, _ = built._assessed(own, built._states["nut"]["bank"])
    assert (found - whole).min() >= -1e-5
    assert (found - whole).max() > 1e-3
    one_by_one = [built.predict(queries[i : i + 1], ["nut"]).anomaly_maps[0] for i in range(2)]
    assert_close(built.predict(queries, ["nut", "nut"]).anomaly_maps, torch.stack(one_by_one), rtol=1e-4, atol=1e-5)


def test_a_window_needs_the_whole_bank():
    with pytest.raises(ModelInputError, match=r"pos_radius.*coreset 1"):
        small_patchcore(pos_radius=1, coreset=0.5)
