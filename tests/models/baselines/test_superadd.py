"""SuperADD, its tiles, its thinned bank and its line closings, against obvious slow versions."""

import math
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.baselines.closing import LineClosing
from models.baselines.native_tiles import spans, tiled_maps
from models.baselines.superadd import SuperADD
from models.baselines.thinning import thinned
from models.errors import ModelInputError
from models.images import ScaledPreprocess
from tests.support.baseline_stand_ins import small_resnet, small_vit


def image(high: int, wide: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, high, wide), generator=generator, dtype=torch.uint8)


def model(**options) -> SuperADD:
    backbone = small_vit("vit_small_patch16_dinov3", stages=[1, 3])
    return SuperADD(backbone, **{"scale": 0.8, "tile": 48, "overlap": 16, "brightness": 0.0, "map_size": 20, **options})


def tokens_of(built: SuperADD, given: torch.Tensor) -> list[torch.Tensor]:
    """The stages (h, w, C) of an image: each token from the tile that owns it, cell by cell."""
    backbone, cell = built.backbone, 16
    pixels = ScaledPreprocess(built.scale, cell, backbone.preprocess.mean, backbone.preprocess.std)(
        PIL.Image.fromarray(given.permute(1, 2, 0).numpy())
    )
    high, wide = (side // cell for side in pixels.shape[1:])
    found = [torch.zeros(high, wide, width) for width in backbone.stage_widths]
    for row in range(high):
        for column in range(wide):
            top, left = owner(row, high, 3, 1), owner(column, wide, 3, 1)
            cut = pixels[:, top * cell : (top + 3) * cell, left * cell : (left + 3) * cell]
            features = backbone.encode_image(cut[None])
            for stage, tokens, grid in zip(found, features.stages, features.grids, strict=True):
                stage[row, column] = tokens[0].unflatten(0, grid)[row - top, column - left]
    return found


def owner(cell: int, length: int, tile: int, overlap: int) -> int:
    """Where the tile begins that a cell's token is from."""
    if length <= tile:
        return 0
    count = math.ceil((length - tile) / (tile - 2 * overlap)) + 1
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    for one, other in pairwise(starts):
        if cell < (one + tile + other) // 2:
            return one
    return starts[-1]


def slow_map(built: SuperADD, query: torch.Tensor, references: list[torch.Tensor]) -> torch.Tensor:
    """At a quarter of the image's size: each patch meets every patch of every reference."""
    layers, theirs = [], [tokens_of(built, each) for each in references]
    for stage, own in enumerate(tokens_of(built, query)):
        distances = torch.full(own.shape[:2], torch.inf)
        for i in range(own.shape[0]):
            for j in range(own.shape[1]):
                for bank in theirs:
                    for other in bank[stage].flatten(0, 1):
                        distances[i, j] = min(distances[i, j], (own[i, j] - other).square().sum().sqrt())
        quarter = tuple(side // 4 for side in query.shape[1:])
        layers.append(F.interpolate(distances[None, None] / own.shape[2], quarter, mode="bilinear")[0, 0])
    return torch.stack(layers).mean(dim=0)


def squared(quarter: torch.Tensor) -> torch.Tensor:
    return F.interpolate(quarter[None, None], (20, 20), mode="bilinear", antialias=True)[0, 0]


def test_maps_scores_and_threshold_are_those_of_a_loop():
    built = model()
    references, query = [image(60, 100, 1), image(60, 100, 2)], image(60, 100, 3)
    built.fit(references, "nut")
    got = built.predict([query], ["nut"])
    expected = slow_map(built, query, references)
    assert_close(got.anomaly_maps[0], squared(expected), rtol=1e-5, atol=1e-5)
    worst = expected.flatten().sort(descending=True).values[: int(expected.numel() * 0.01)]
    assert len(worst) == 3
    assert_close(got.image_scores[0], worst.mean(), rtol=1e-5, atol=1e-5)
    left_out = [squared(slow_map(built, references[i], [references[1 - i]])) for i in range(2)]
    threshold = 1.421 * np.percentile(torch.stack(left_out).numpy(), 95)
    assert built.map_threshold("nut") == pytest.approx(threshold, rel=1e-5)


def test_of_eight_references_the_first_is_held_out_and_gives_the_threshold():
    built, references = model(), [image(40, 40, seed) for seed in range(8)]
    built.fit(references, "nut")
    few = model()
    few.fit(references[1:], "nut")
    expected = few.predict(references[:1], ["nut"])
    assert built.map_threshold("nut") == pytest.approx(1.421 * np.percentile(expected.anomaly_maps.numpy(), 95))
    assert_close(built.reference_prediction("nut").anomaly_maps[0], expected.anomaly_maps[0])
    assert_close(built.predict(references[:1], ["nut"]).anomaly_maps, expected.anomaly_maps)


def test_the_banks_images_are_brighter_or_darker_within_bounds_whatever_else_is_learnt():
    built, flat = model(brightness=0.2), torch.full((3, 32, 32), 200, dtype=torch.uint8)
    lit = [int(built._lit(flat + seed).unique()) / (200 + seed) for seed in range(40)]
    assert 0.79 < min(lit) < 0.85
    assert 1.15 < max(lit) < 1.21
    assert [int(built._lit(flat + seed).unique()) / (200 + seed) for seed in range(40)] == lit
    assert int(model(brightness=0.9, seed=3)._lit(torch.full((3, 4, 4), 255, dtype=torch.uint8)).max()) <= 255


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [(40, 40, 8), (41, 40, 8), (64, 40, 8), (65, 40, 8), (87, 40, 8), (7, 3, 1), (9, 4, 0)],
)
def test_tiles_cover_a_side_once_and_share_what_they_must(length, tile, overlap):
    found = spans(length, tile, overlap)
    assert [cell for span in found for cell in range(span.first, span.end)] == list(range(length))
    assert (found[0].start, found[-1].start) == (0, length - tile)
    for one, other in pairwise(found):
        assert one.start + tile - other.start >= 2 * overlap
        assert min(one.start + tile - one.end, other.first - other.start) >= overlap
    assert len(found) == math.ceil((length - tile) / (tile - 2 * overlap)) + 1


def test_finer_stages_are_joined_at_their_own_stride():
    backbone = small_resnet()
    pixels = torch.randn(3, 96, 160, generator=torch.Generator().manual_seed(0))
    maps = tiled_maps(backbone, pixels, (2, 3), 64, 0)
    assert [tuple(each.shape[1:]) for each in maps] == [(12, 20), (6, 10)]
    corner = backbone.encode_image(pixels[None, :, 32:, 96:])
    for each, tokens, grid in zip(maps, corner.stages[1:3], corner.grids[1:3], strict=True):
        whole = tokens[0].T.unflatten(1, grid)
        high, wide = grid[0] // 2, grid[1] // 2
        assert_close(each[:, -high:, -wide:], whole[:, -high:, -wide:])


def test_of_a_crowd_few_stay_and_as_many_as_are_wanted():
    generator = torch.Generator().manual_seed(0)
    crowd = 0.01 * torch.randn(900, 8, generator=generator)
    alone = 10 * torch.randn(100, 8, generator=generator)
    rows = torch.cat([crowd, alone])
    chosen = thinned(rows, 150, seed=0, parts=2, neighbours=20)
    assert len(chosen.unique()) == 150
    assert torch.equal(chosen, chosen.sort().values)
    assert int((chosen >= 900).sum()) > 80  # of 100, where chance would keep 15
    assert torch.equal(thinned(rows, 1000, seed=0), torch.arange(1000))
    assert len(thinned(torch.zeros(50, 3), 7, seed=0, parts=3)) == 7  # no radius holds rows that are all one


def test_those_that_stay_are_those_of_a_loop():
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    order, chance = torch.randperm(60, generator=generator).tolist(), torch.rand(60, generator=generator).tolist()
    near = {i: sorted(float((rows[i] - rows[j]).norm()) for j in range(60) if j != i)[:10] for i in range(60)}
    radius = sum(map(sum, near.values())) / 600 / 10
    stays = order
    while len(stays) > 20:
        stays = [i for i in order if chance[i] < 1 / (1 + sum(apart < radius for apart in near[i]))]
        radius *= 1.1
    stays = [*stays, *(i for i in order if i not in stays)][:20]
    assert thinned(rows, 20, seed=5, parts=1, neighbours=10).tolist() == sorted(stays)


def test_a_thinned_bank_has_its_size_and_leaves_a_single_reference_out_near_each_patch():
    built = model(bank_size=6)
    built.fit([image(90, 110)], "nut")
    assert len(built.state("nut")["bank0"]) == 6
    assert built.reference_prediction("nut").anomaly_maps.min() > 0


def slow_binary(values: np.ndarray, threshold: float, closing: LineClosing) -> np.ndarray:
    """Pixel by pixel: grown along a line, shrunk along it, over all lines; then filled and shrunk by a pixel."""
    high, wide = values.shape
    found = np.zeros(values.shape, bool)
    for line in closing.lines():
        offsets = np.argwhere(line) - closing.radius
        grown = {(y + dy, x + dx) for y, x in np.argwhere(values > threshold) for dy, dx in offsets}
        for y in range(high):
            for x in range(wide):
                found[y, x] |= all((y + dy, x + dx) in grown for dy, dx in offsets)
    found &= values > np.float64(0.8 * threshold)
    outside = np.pad(~found, 1, constant_values=True)
    reached, seen = [(0, 0)], np.zeros(outside.shape, bool)
    while reached:
        y, x = reached.pop()
        if 0 <= y < high + 2 and 0 <= x < wide + 2 and outside[y, x] and not seen[y, x]:
            seen[y, x] = True
            reached += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    filled = np.pad(~seen[1:-1, 1:-1], 1, constant_values=True)
    return filled[1:-1, 1:-1] & filled[:-2, 1:-1] & filled[2:, 1:-1] & filled[1:-1, :-2] & filled[1:-1, 2:]


@pytest.mark.parametrize("seed", [0, 1])
def test_binary_maps_are_closed_along_lines_as_pixel_by_pixel(seed):
    generator = np.random.default_rng(seed)
    values = 0.75 + 0.3 * generator.random((18, 22))
    values[6:15, 4:18] = 1.2  # a ring around what is filled
    values[9:12, 7:15] = 0.1
    closing = LineClosing(radius=4)
    got = closing(values.astype(np.float16), 1.0)
    assert np.array_equal(got, slow_binary(values.astype(np.float16), 1.0, closing))
    assert got[10, 10]
    assert 0 < got.mean() < 1


def test_lines_are_sixteen_the_same_both_ways_and_reach_to_the_edges():
    lines = LineClosing().lines()
    assert len(lines) == len({line.tobytes() for line in lines}) == 16
    assert {line.shape for line in lines} == {(53, 53)}
    assert all(np.array_equal(line, line[::-1, ::-1]) for line in lines)
    assert lines[0].any(axis=0).all()
    assert lines[8].any(axis=1).all()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0}, {"tile": 8}, {"overlap": 32}, {"brightness": 1}, {"bank_size": 0}, {"quantile": 0}, {"factor": 0}],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ModelInputError, match=f"expected {next(iter(wrong))} to be"):
        model(**wrong)
