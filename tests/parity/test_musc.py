"""MuSc against the recipe of its authors' code, step by step and without blocks, from the same features.

Their code (xrli-U/MuSc) lays values out by channel and averages adaptively, measures every image against all others
concatenated, and zeroes all but k similarities of a full matrix.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from models.baselines.musc import MuSc
from models.contract import together
from models.mutual import Scratch, mutual_scores
from tests.support.clip_stand_ins import small_backbone

COUNT = 11


def aggregated(tokens: Tensor, side: int, degree: int) -> Tensor:
    """LNAMD of one image: (L, C)."""
    width = tokens.shape[-1]
    grid = tokens.T.reshape(1, width, side, side)
    grid = (grid - grid.mean()) / (grid.var(unbiased=False) + 1e-5).sqrt()
    around = F.unfold(grid, degree, padding=(degree - 1) // 2)[0].T  # (L, C * r * r)
    pooled = F.adaptive_avg_pool1d(around[:, None], width)[:, 0]
    return pooled / pooled.norm(dim=1, keepdim=True)


def scored(patches: list[Tensor]) -> Tensor:
    """MSM of N images: (N, L)."""
    rows = []
    for i, own in enumerate(patches):
        others = [torch.cdist(own, other).amin(dim=1) for j, other in enumerate(patches) if j != i]
        nearest = torch.stack(others).sort(dim=0).values
        rows.append(nearest[: int(len(others) * 0.3)].mean(dim=0))
    return torch.stack(rows)


def shared(scores: Tensor, embeddings: Tensor, neighbours: list[int]) -> Tensor:
    """RsCIN."""
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    similarity = embeddings @ embeddings.T
    means = []
    for k in neighbours:
        kept = torch.zeros_like(similarity)
        for i, row in enumerate(similarity):
            best = row.argsort(descending=True)[:k]
            kept[i, best] = row[best]
        means.append((kept / kept.sum(dim=1, keepdim=True)) @ scores)
    return torch.stack(means).mean(dim=0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(COUNT, 3, 48, 48, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("neighbours", [[1, 2, 3], [1, 8, 9], []])
def test_maps_and_scores_are_those_of_the_recipe(images, neighbours):
    backbone = small_backbone("vit")
    features = backbone.encode_image(images)
    by_degree = []
    for degree in (1, 3, 5):
        by_stage = [
            scored([aggregated(tokens.double(), grid[0], degree) for tokens in stage])
            for stage, grid in zip(features.stages, features.grids, strict=True)
        ]
        by_degree.append(torch.stack(by_stage).mean(dim=0))
    side = features.grids[0][0]
    values = torch.stack(by_degree).mean(dim=0).view(COUNT, 1, side, side)
    maps = F.interpolate(values, (48, 48), mode="bilinear", align_corners=True)[:, 0]
    highest = maps.amax(dim=(1, 2))
    found = together(MuSc(backbone, neighbours=neighbours), images)
    assert_close(found.anomaly_maps, maps.float(), rtol=0, atol=1e-5)
    expected = shared(highest, features.embedding.double(), neighbours) if neighbours else highest
    assert_close(found.image_scores, expected.float(), rtol=0, atol=1e-4)
    assert maps.std() > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 10])
@pytest.mark.parametrize("max_elements", [1, 6 * 6 * 4, 10**8])
def test_some_rows_of_distances_at_a_time_give_the_numbers_of_all(rows, max_elements):
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(COUNT, 6, 8, generator=generator, dtype=torch.float64), dim=-1)
    expected = scored(list(patches))
    for size in (rows, COUNT):
        scratch = torch.full((size, COUNT, 6), torch.nan)
        found = mutual_scores(
            patches.float(), 0.3, scratch=scratch, device=torch.device("cpu"), max_elements=max_elements
        )
        assert_close(found, expected, rtol=0, atol=1e-6)


def test_distances_take_what_is_left_of_the_memory_or_a_quarter_of_it():
    with Scratch(1) as scratch:
        assert scratch.rows(5, 1024).shape == (5, 1024)
        assert scratch.rows(1000, 1024).shape == (251, 1024)  # 1 MB holds 256 rows of 4 kB
        assert scratch.rows(1000, 1024).shape == (64, 1024)
        assert scratch.rows(1000, 1024, 1024).shape == (1, 1024, 1024)


@pytest.mark.parametrize("memory_mb", [0, 100])
@pytest.mark.parametrize("max_elements", [1, 36 * 36 * 9, 10**8])
def test_neither_blocks_nor_files_change_a_number(images, memory_mb, max_elements):
    backbone = small_backbone("vit")
    expected = together(MuSc(backbone), images)
    found = together(MuSc(backbone, memory_mb=memory_mb, max_elements=max_elements), images, at_once=4)
    assert_close(found.anomaly_maps, expected.anomaly_maps, rtol=0, atol=1e-5)
    assert_close(found.image_scores, expected.image_scores, rtol=0, atol=1e-4)
