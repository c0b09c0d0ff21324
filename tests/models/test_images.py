"""OpenCV's rounding to the bit; the statistics are open_clip's, the Gaussian SciPy's."""

import cv2
import numpy as np
import open_clip
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.testing import assert_close

from models.images import CLIP_MEAN, CLIP_STD, nearest_rows, resize_bytes
from models.maps import blurred

SIZES = [
    ((90, 70), (64, 64)), ((23, 77), (64, 64)), ((128, 64), (64, 32)), ((37, 256), (61, 256)), ((3, 500), (40, 41)),
    ((64, 64), (64, 64)), ((1, 1), (5, 3)), ((131, 131), (130, 130)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_bytes_are_resized_to_the_bit(shape, size):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    expected = np.stack([cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for image in images])
    got = resize_bytes(torch.from_numpy(images).permute(0, 3, 1, 2), size)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), expected)


def test_nearest_rows_are_opencvs_at_every_size():
    for old in (1, 2, 31, 400, 700, 1000):
        column = np.arange(old, dtype=np.int32).reshape(-1, 1).astype(np.float32)
        for new in (1, 3, 49, 97, 256, 400, 1001):
            expected = cv2.resize(column, (1, new), interpolation=cv2.INTER_NEAREST)[:, 0]
            np.testing.assert_array_equal(nearest_rows(new, old), expected.astype(int))


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_the_gaussian_is_scipys(sigma):
    maps = torch.rand(2, 1, 30, 40, generator=torch.Generator().manual_seed(0))
    plain = [
        gaussian_filter(each[0].double().numpy(), sigma, mode="mirror", truncate=np.ceil(4 * sigma) / sigma)
        for each in maps
    ]
    assert_close(blurred(maps, sigma)[:, 0], torch.from_numpy(np.stack(plain)).float())
    assert torch.equal(blurred(maps, 0), maps)


def test_the_statistics_of_clip_are_open_clips():
    assert (CLIP_MEAN, CLIP_STD) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
