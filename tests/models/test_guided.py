"""Outlines by the picture's brightness: against plain loops; what they mend and leave alone; how a map takes them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.frozen import one_graph
from models.guided import CELL, LEAST_VARIANCE, LUMA, NOISE, RADIUS, brightness, detail
from models.images import CLIP_MEAN, CLIP_STD, normalised
from models.maps import blurred
from tests.support.clip_stand_ins import PROMPTS, predicted, random_images, small_adapter, small_backbone

BACKBONE = small_backbone("timm")


def in_squares(count):
    return F.interpolate(random_images(count, 8), BACKBONE.image_size)


def plain_lines(cells, light):
    """Slope and offset of each window of cells, as far as the line explains them; then their means around."""

    def windows(values):
        h, w = values.shape
        near = [slice(max(0, n - RADIUS), n + RADIUS + 1) for n in range(max(h, w))]
        return [[values[near[y], near[x]] for x in range(w)] for y in range(h)]

    slopes = np.zeros_like(cells)
    offsets = np.zeros_like(cells)
    for y, (rows, lights) in enumerate(zip(windows(cells), windows(light), strict=True)):
        for x, (here, bright) in enumerate(zip(rows, lights, strict=True)):
            shared = ((here - here.mean()) * (bright - bright.mean())).mean()
            slope = shared / (bright.var() + NOISE)
            slope *= min(1, max(0, slope * shared / (here.var() + LEAST_VARIANCE)))
            slopes[y, x], offsets[y, x] = slope, slope * bright.mean()
    return (np.array([[each.mean() for each in row] for row in windows(values)]) for values in (slopes, offsets))


@pytest.mark.parametrize("sides", [(40, 24), (41, 27)])
def test_it_is_what_the_lines_of_the_cells_around_say_of_a_cell(sides):
    maps = torch.randn(2, *sides, generator=torch.Generator().manual_seed(0))
    small = F.adaptive_avg_pool2d(maps.double()[:, None], (sides[0] // CELL, sides[1] // CELL))[:, 0]
    light = (0.3 * small + torch.rand(small.shape, generator=torch.Generator().manual_seed(1))) / 2
    found = detail(maps.double(), light)
    for n in range(2):
        slope, offset = (torch.from_numpy(each) for each in plain_lines(small[n].numpy(), light[n].numpy()))
        cells = slope * light[n] - offset
        assert_close(found[n], F.interpolate(cells[None, None], sides, mode="bilinear")[0, 0], rtol=1e-9, atol=1e-9)
    with one_graph():
        assert_close(detail(maps, light.float()), found.float(), rtol=1e-4, atol=1e-4)


def test_a_blurred_spot_gets_the_outline_of_what_is_bright():
    spot = torch.zeros(1, 96, 96)
    spot[:, 40:52, 32:60] = 1
    odds = 8 * blurred(spot[:, None], 5.0)[:, 0] - 4
    sharper = odds + 2 * detail(odds, 0.3 + 0.4 * spot[:, ::CELL, ::CELL])  # its sides are those of cells
    inside, outside = spot > 0, spot == 0

    def wrong(values):  # pixels within that are no higher than the highest without
        return int((values[inside] <= values[outside].max()).sum())

    assert wrong(sharper) < wrong(odds) / 2


def test_even_brightness_and_a_map_without_relation_to_it_say_little():
    odds = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    odds = 4 * blurred(odds[:, None], 6.0)[:, 0] / 0.05
    assert_close(detail(odds, torch.full((3, 16, 16), 0.4)), torch.zeros_like(odds), rtol=0, atol=1e-3)
    other = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    own = F.avg_pool2d((odds - odds.min()) / (odds.max() - odds.min()), CELL)
    related = detail(odds, own)
    assert detail(odds, other).std() < 0.3 * related.std()


@pytest.mark.parametrize("sides", [(8, 12), (9, 15), (3, 5)])
def test_brightness_is_that_of_the_picture_before_its_statistics_were_taken_away(sides):
    pixels = torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = sum(share * pixels[:, n].float() / 255 for n, share in enumerate(LUMA))
    expected = F.adaptive_avg_pool2d(expected[:, None], (max(1, sides[0] // CELL), sides[1] // CELL))[:, 0]
    assert_close(brightness(normalised(pixels, CLIP_MEAN, CLIP_STD), CLIP_MEAN, CLIP_STD), expected)


@pytest.mark.parametrize("kind", ["linear", "context"])
@pytest.mark.parametrize("shots", [0, 1, 3])
@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_it_is_added_to_the_log_odds_of_the_whole_map_and_to_no_score(kind, shots, memory):
    adapter, images = small_adapter(kind, BACKBONE), in_squares(4)
    options = {"memory_weight": memory, "gaussian_weight": 0.5, "texture_weight": 0.5}
    without = predicted(BACKBONE, adapter, images, shots, **options)
    found = predicted(BACKBONE, adapter, images, shots, detail_weight=2.0, **options)
    assert_close(found.image_scores, without.image_scores, rtol=0, atol=0)
    highest = adapter.num_maps + memory * len(BACKBONE.stages) * bool(shots)
    odds = (without.anomaly_maps / highest).logit(1e-6)
    bright = brightness(images, BACKBONE.preprocess.mean, BACKBONE.preprocess.std)
    expected = highest * (odds + 2 * detail(odds.clamp(-9, 9), bright)).sigmoid()
    assert_close(found.anomaly_maps, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found.anomaly_maps, without.anomaly_maps, atol=1e-3)


def test_references_left_out_have_it_as_well_and_after_loading():
    adapter, references = small_adapter("context", BACKBONE), in_squares(3)
    options = {"memory_weight": 0.0, "gaussian_weight": 0.5}
    plain, model = (
        ClipAdapter(BACKBONE, adapter, PROMPTS, detail_weight=weight, **options).eval() for weight in (0.0, 2.0)
    )
    for each in (plain, model):
        each.fit(references, "nut")
    odds = plain.reference_prediction("nut").anomaly_maps.logit(1e-6)
    bright = brightness(references, BACKBONE.preprocess.mean, BACKBONE.preprocess.std)
    expected = (odds + 2 * detail(odds.clamp(-9, 9), bright)).sigmoid()
    found = model.reference_prediction("nut").anomaly_maps
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    again = ClipAdapter(BACKBONE, adapter, PROMPTS, detail_weight=2.0, **options).eval()
    again.load_state(model.state("nut"), "nut", references)
    assert_close(again.reference_prediction("nut").anomaly_maps, found, rtol=0, atol=0)


def test_a_negative_weight_is_refused_by_name():
    with pytest.raises(ModelInputError, match="detail_weight"):
        ClipAdapter(BACKBONE, small_adapter("linear", BACKBONE), PROMPTS, detail_weight=-1)
