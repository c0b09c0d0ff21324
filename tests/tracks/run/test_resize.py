import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from tracks.run.resize import resize_map, resize_mask


def test_a_mask_keeps_pixels_that_are_at_least_half_covered():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :4] = True
    expected = np.zeros((4, 4), dtype=bool)
    expected[:, :2] = True
    np.testing.assert_array_equal(resize_mask(mask, (4, 4)), expected)


def test_muscs_code_counts_pixels_wholly_covered_or_covered_at_all():
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:7, 2:8] = True
    grey = PIL.Image.fromarray(np.uint8(255 * mask)).resize((6, 6), PIL.Image.Resampling.BILINEAR)
    scaled = torch.from_numpy(np.asarray(grey) / 255.0)
    np.testing.assert_array_equal(resize_mask(mask, (6, 6), "full"), scaled.int().bool())
    np.testing.assert_array_equal(resize_mask(mask, (6, 6), "any"), scaled > 0)
    counts = [int(resize_mask(mask, (6, 6), rule).sum()) for rule in ("full", "bilinear", "any")]
    assert counts == sorted(set(counts))


def test_a_thin_defect_never_vanishes():
    mask = np.zeros((500, 500), dtype=bool)
    mask[250, 100:400] = True
    small = resize_mask(mask, (50, 50))
    assert small.any()
    assert set(np.nonzero(small)[0]) <= {24, 25}


def test_a_normal_mask_stays_empty_and_takes_the_size():
    resized = resize_mask(np.zeros((30, 20), dtype=bool), (7, 5))
    assert resized.shape == (7, 5)
    assert not resized.any()


def test_a_map_is_resized_once_to_height_and_width():
    ramp = torch.arange(4.0).repeat(6, 1)
    resized = resize_map(ramp, (3, 8))
    assert resized.shape == (3, 8)
    assert resized.dtype == np.float16
    np.testing.assert_allclose(resized[0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


@pytest.mark.parametrize("size", [(400, 400), (97, 211), (640, 480), (1, 3)])
@pytest.mark.parametrize("shape", [(900, 700), (231, 500), (400, 33), (64, 64)])
def test_nearest_takes_the_pixels_that_opencv_takes(shape, size):
    mask = np.random.default_rng(0).random(shape) < 0.5
    expected = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    if expected.any():
        np.testing.assert_array_equal(resize_mask(mask, size, "nearest"), expected)


def test_a_defect_that_nearest_misses_is_kept():
    mask = np.zeros((100, 100), dtype=bool)
    mask[51, 51] = True
    assert not cv2.resize(mask.astype(np.uint8), (50, 50), interpolation=cv2.INTER_NEAREST).any()
    assert np.argwhere(resize_mask(mask, (50, 50), "nearest")).tolist() == [[25, 25]]
