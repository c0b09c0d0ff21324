"""Nearest reference tokens: the chunked search against the whole matrix in float64, exclusions against loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models import nearest
from models.features import ImageFeatures
from models.nearest import CategoryMemory, MemoryBank, near_own_position, nearest_distance, nearest_rows


def unit(count: int, channels: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=-1)


def whole_matrix(tokens: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    a, b = tokens.double(), bank.double()
    cosine = (a @ b.T) / (a.norm(dim=-1)[:, None] * b.norm(dim=-1)[None])
    return (1 - cosine).amin(dim=1).float()


@pytest.mark.parametrize("max_elements", [1, 7, 50, 64, 1000, 10**9])
def test_chunks_of_any_size_give_the_whole_matrix(max_elements):
    tokens, bank = unit(23, 16, 0), unit(50, 16, 1)
    assert_close(
        nearest_distance(tokens, bank, max_elements=max_elements), whole_matrix(tokens, bank), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("max_elements", [1, 7, 40, 64, 333])
def test_no_matrix_is_larger_than_asked(max_elements, monkeypatch):
    largest = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: largest.append(len(a) * b.shape[1]) or matmul(a, b))
    nearest_distance(unit(23, 16, 0), unit(50, 16, 1), max_elements=max_elements)
    assert max(largest) <= max_elements
    assert sum(largest) == 23 * 50
    largest.clear()
    monkeypatch.setattr(nearest, "CPU_ELEMENTS", 21)
    nearest_distance(unit(23, 16, 0), unit(50, 16, 1), max_elements=max_elements)
    assert max(largest) <= min(21, max_elements), "a processor holds less than a device may"


def test_a_token_of_the_bank_has_distance_0_and_its_opposite_2():
    bank = unit(5, 8, 0)
    assert not nearest_distance(bank, bank).any()
    assert not nearest_distance(unit(50, 1024, 1), F.normalize(3 * unit(50, 1024, 1), dim=-1)).any()
    assert_close(nearest_distance(-bank[:1], bank[:1]), torch.tensor([2.0]))
    assert (nearest_distance(bank, bank) >= 0).all()


def tokens_of(count: int, grid: tuple[int, int], channels: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, grid[0] * grid[1], channels, generator=torch.Generator().manual_seed(seed))


def test_distance_is_of_cosines_so_scale_does_not_matter():
    references, images = tokens_of(2, (3, 4)), tokens_of(3, (3, 4), seed=1)
    expected = whole_matrix(images.flatten(0, 1), references.flatten(0, 1)).view(3, 3, 4)
    bank = MemoryBank(references * 7, (3, 4))
    assert_close(bank.distance(images * 0.01), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_leaving_a_reference_out_is_a_bank_without_it(index):
    references = tokens_of(3, (4, 4))
    left_out = MemoryBank(references, (4, 4)).distance(references[index : index + 1], leave_out=index)
    without = MemoryBank(references[[n for n in range(3) if n != index]], (4, 4))
    assert_close(left_out, without.distance(references[index : index + 1]))
    assert left_out.min() > 0.01


@pytest.mark.parametrize(
    ("grid", "window", "radius"),
    [((7, 7), 0.45, 2), ((7, 9), 0.3, 1), ((4, 4), 0.9, 1), ((5, 5), 0.9, 1), ((2, 2), 0.5, 0), ((12, 9), 0.5, 2)],
)
def test_a_single_reference_is_compared_outside_a_window(grid, window, radius):
    references = tokens_of(1, grid)
    bank = MemoryBank(references, grid, own_window=window, max_elements=97)
    vectors = F.normalize(references[0].double(), dim=-1).view(*grid, -1)
    expected = torch.empty(grid, dtype=torch.float64)
    for y in range(grid[0]):
        for x in range(grid[1]):
            others = [
                float(vectors[y, x] @ vectors[v, u])
                for v in range(grid[0])
                for u in range(grid[1])
                if max(abs(v - y), abs(u - x)) > radius
            ]
            expected[y, x] = 1 - max(others)
    assert_close(bank.distance(references, leave_out=0)[0], expected.float(), rtol=0, atol=1e-6)
    assert torch.isfinite(bank.distance(references, leave_out=0)).all()


def test_the_default_window_at_the_published_grid_is_7_by_7():
    bank = MemoryBank(tokens_of(1, (37, 37)), (37, 37))
    near = near_own_position(bank.grid, bank.own_window, torch.device("cpu"))(slice(684, 685), slice(0, 37**2))
    assert near.view(37, 37).nonzero().aminmax(dim=0).min.tolist() == [15, 15]
    assert near.sum() == 7 * 7


def test_a_grid_of_one_token_has_nothing_to_leave_out():
    references = tokens_of(1, (1, 1))
    assert MemoryBank(references, (1, 1)).distance(references, leave_out=0).item() == pytest.approx(0, abs=1e-6)


def test_the_map_is_the_sum_over_stages_at_corner_aligned_places():
    grids = ((4, 4), (2, 2))
    references = [tokens_of(2, grid, seed=n) for n, grid in enumerate(grids)]
    images = [tokens_of(3, grid, seed=5 + n) for n, grid in enumerate(grids)]
    banks = [MemoryBank(tokens, grid) for tokens, grid in zip(references, grids, strict=True)]
    features = ImageFeatures(torch.zeros(3, 2), tuple(images), grids)
    maps = CategoryMemory(banks, (0, 1), size=7).maps(features)
    distances = [bank.distance(tokens) for bank, tokens in zip(banks, images, strict=True)]
    assert maps.shape == (3, 7, 7)
    assert_close(maps[:, 0, 0], distances[0][:, 0, 0] + distances[1][:, 0, 0])
    assert_close(maps[:, 6, 6], distances[0][:, 3, 3] + distances[1][:, 1, 1])
    assert_close(maps[:, 0, 3], (distances[0][:, 0, 1] + distances[0][:, 0, 2]) / 2 + distances[1][:, 0].mean(dim=1))
    assert_close(CategoryMemory(banks[1:], (1,), size=7).maps(features)[:, 0, 0], distances[1][:, 0, 0])


def rows_of(count: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("max_elements", [7, 100, 10**6])
@pytest.mark.parametrize("count", [1, 3])
def test_nearest_rows_are_what_a_loop_finds(count, max_elements):
    queries, bank = rows_of(11), rows_of(20, seed=1)
    distances, rows = nearest_rows(queries, bank, count, max_elements=max_elements)
    for query, found, apart in zip(queries, rows, distances, strict=True):
        plain = sorted((float((query - row).norm()), i) for i, row in enumerate(bank))[:count]
        assert found.tolist() == [i for _, i in plain]
        assert apart.tolist() == pytest.approx([d for d, _ in plain], rel=1e-5)


def test_equal_rows_are_nothing_apart_however_large_they_are():
    bank = 1000 + rows_of(30)
    distances, rows = nearest_rows(bank, bank)
    assert torch.equal(distances, torch.zeros(30, 1))
    assert rows[:, 0].tolist() == list(range(30))


def test_excluded_rows_are_not_found():
    patches = rows_of(16)
    distances, rows = nearest_rows(patches, patches, excluded=near_own_position((4, 4), 0.15, patches.device))
    others = torch.cdist(patches, patches) + torch.diag(torch.full((16,), torch.inf))
    assert_close(distances[:, 0], others.amin(dim=1))
    assert torch.equal(rows[:, 0], others.argmin(dim=1))


def test_a_window_around_each_patch_leaves_every_patch_some_others():
    near = near_own_position((9, 12), 0.5, torch.device("cpu"))(slice(0, 108), slice(0, 108))
    rows, columns = np.divmod(np.arange(108), 12)
    plain = (abs(rows[:, None] - rows) <= 2) & (abs(columns[:, None] - columns) <= 2)
    assert np.array_equal(near.numpy(), plain)
    assert not near_own_position((3, 3), 0.99, torch.device("cpu"))(slice(0, 9), slice(0, 9)).all(dim=1).any()
