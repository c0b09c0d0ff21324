"""The path of a mask runs along its pixels' edges, and nowhere else."""

import re

import numpy as np
import pytest

from tracks.report_page.outline import LARGEST_GRID, LONGEST_PATH, coarsen, count_turns, outline_path


def steps(path):
    """Every unit edge that the path walks, as (x, y, dx, dy)."""
    walked = []
    for loop in re.findall(r"M[^M]*z", path):
        x, y = map(int, re.match(r"M(\d+) (\d+)", loop).groups())
        start = (x, y)
        for axis, length in re.findall(r"([hv])(-?\d+)", loop):
            for _ in range(abs(int(length))):
                dx, dy = (np.sign(int(length)), 0) if axis == "h" else (0, np.sign(int(length)))
                walked.append((x, y, int(dx), int(dy)))
                x, y = x + dx, y + dy
        while (x, y) != start:  # z closes the loop along the last edge
            dx, dy = np.sign(start[0] - x), np.sign(start[1] - y)
            assert dx == 0 or dy == 0
            walked.append((x, y, int(dx), int(dy)))
            x, y = x + dx, y + dy
    return walked


def edges(mask):
    """Every edge between a True and a False pixel, slowly, as the unordered pair of its ends."""
    padded = np.pad(mask, 1)
    found = set()
    for y, x in np.ndindex(mask.shape):
        if mask[y, x]:
            for dy, dx, start, end in (
                (-1, 0, (x, y), (x + 1, y)),
                (1, 0, (x, y + 1), (x + 1, y + 1)),
                (0, -1, (x, y), (x, y + 1)),
                (0, 1, (x + 1, y), (x + 1, y + 1)),
            ):
                if not padded[y + 1 + dy, x + 1 + dx]:
                    found.add(frozenset([start, end]))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_path_walks_every_edge_once_with_the_mask_on_one_side(seed, density):
    mask = np.random.default_rng(seed).random((9, 13)) < density
    path, unit = outline_path(mask)
    walked = steps(path)
    assert unit == 1
    assert len(walked) == len(edges(mask))
    assert {frozenset([(x, y), (x + dx, y + dy)]) for x, y, dx, dy in walked} == edges(mask)
    assert sum(-y * dx for x, y, dx, dy in walked) == mask.sum()  # Green's theorem: clockwise in a picture


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_where_a_walk_along_the_outline_changes_its_direction(seed):
    mask = np.random.default_rng(seed).random((9, 13)) < 0.4
    path, _ = outline_path(mask)
    loops = re.findall(r"M[^M]*z", path)
    runs = sum(len(re.findall("[hv]", loop)) for loop in loops)
    assert count_turns(mask) in range(
        runs, runs + len(loops) + 1
    )  # z stands for a run unless the loop starts inside one


def test_a_rectangle_is_a_few_characters():
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 10:25] = True
    assert outline_path(mask)[0] == "M10 5h15v4h-15z"
    assert outline_path(np.zeros((4, 4), dtype=bool)) == ("", 1)


def test_a_speck_of_a_large_mask_is_not_lost():
    mask = np.zeros((1000, 700), dtype=bool)
    mask[999, 699] = True
    path, unit = outline_path(mask)
    assert unit == 4
    assert 1000 / unit <= LARGEST_GRID
    assert path == f"M{699 // 4} {999 // 4}h1v1h-1z"


def test_a_wild_mask_gets_a_coarser_outline_instead_of_a_long_one():
    mask = np.indices((256, 256)).sum(0) % 2 == 0
    path, unit = outline_path(mask)
    assert 0 < len(path) <= LONGEST_PATH
    assert unit > 1


def test_cells_are_true_where_any_pixel_is():
    mask = np.random.default_rng(0).random((7, 10)) < 0.1
    cells = coarsen(mask, 3)
    assert cells.shape == (3, 4)
    for y, x in np.ndindex(3, 4):
        assert cells[y, x] == mask[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].any()
