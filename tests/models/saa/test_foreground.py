"""Objects found by the border of their picture: planted bodies come out, surfaces do not."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models.saa.generator.blobs import foreground_boxes

SIZES = [(120, 160), (300, 400), (400, 90)]


def picture(size, *bodies, seed=0, slope=0.0):
    """A grey, noisy (3, H, W) picture with a sloping light and bodies at (x0, y0, x1, y1) in fractions."""
    rng = np.random.default_rng(seed)
    pixels = 90 + 6 * rng.standard_normal((*size, 3)) + slope * np.linspace(0, 1, size[1])[None, :, None]
    for x0, y0, x1, y1 in bodies:
        rows, columns = slice(round(y0 * size[0]), round(y1 * size[0])), slice(round(x0 * size[1]), round(x1 * size[1]))
        pixels[rows, columns] += 80
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slope", [0.0, 60.0])
def test_a_planted_body_is_boxed(size, slope):
    boxes, scores = foreground_boxes(picture(size, (0.2, 0.3, 0.6, 0.9), slope=slope))
    assert_close(boxes, torch.tensor([[0.4, 0.6, 0.4, 0.6]]), atol=0.03, rtol=0)
    assert scores.shape == (1,)
    assert 0.5 < scores[0] <= 1


def test_several_bodies_largest_first():
    boxes, scores = foreground_boxes(picture((200, 200), (0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.9, 0.8)))
    assert_close(boxes, torch.tensor([[0.7, 0.65, 0.4, 0.3], [0.2, 0.2, 0.2, 0.2]]), atol=0.03, rtol=0)
    assert scores.shape == (2,)


def test_a_surface_has_no_object():
    for seed in range(3):
        assert len(foreground_boxes(picture((150, 150), seed=seed, slope=40.0))[0]) == 0


def test_a_pattern_that_reaches_the_border_is_a_surface():
    stripes = [(0.1 * k, 0.0, 0.1 * k + 0.05, 1.0) for k in range(10)]
    assert len(foreground_boxes(picture((160, 160), *stripes))[0]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (40, 400), (9, 9)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_picture_of_any_size_has_no_object(size, value):
    boxes, scores = foreground_boxes(torch.full((3, *size), value, dtype=torch.uint8))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert boxes.dtype == scores.dtype == torch.float32
