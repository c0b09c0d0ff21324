"""SubspaceAD's numbers from given tokens, in a large net's width, as its authors compute them: numpy and OpenCV.

Two passes of PCA in float64, residuals of a reconstruction in float32, `cv2.resize` and `cv2.GaussianBlur`, a sort.
"""

import cv2
import numpy as np
import torch

from models.maps import top_mean, upsampled
from models.subspace import Moments

WIDTH, GRID, SIDE = 384, 24, 336


def drawn(count: int, seed: int) -> np.ndarray:
    """Tokens whose variance falls along mixed axes."""
    generator = np.random.default_rng(seed)
    axes = np.random.default_rng(9).standard_normal((WIDTH, WIDTH)) * np.logspace(0, -2, WIDTH)[:, None]
    return (generator.standard_normal((count, WIDTH)) @ axes + 2).astype(np.float32)


def test_residuals_maps_and_scores_are_theirs():
    known, seen = drawn(4 * GRID * GRID, 0), drawn(GRID * GRID, 1)
    mean = known.astype(np.float64).mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(known.astype(np.float64).T))
    shares = np.cumsum(values[::-1]) / values.sum()
    inside = axes[:, ::-1][:, : np.searchsorted(shares, 0.99) + 1].astype(np.float32)
    centred = seen - mean.astype(np.float32)
    squares = np.square(centred - centred @ inside @ inside.T).sum(axis=1)
    resized = cv2.resize(squares.reshape(GRID, GRID), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    anomaly_map = cv2.GaussianBlur(resized, (3, 3), 4.0)
    score = np.sort(anomaly_map, axis=None)[-int(0.01 * SIDE * SIDE) :].mean()

    first, second = np.array_split(known, 2)
    subspace = (Moments.of(torch.from_numpy(first)) + Moments.of(torch.from_numpy(second))).subspace(0.99)
    residuals = subspace.residuals(torch.from_numpy(seen))
    maps = upsampled(residuals[None], (GRID, GRID), SIDE, 4.0, 1)
    assert subspace.outside.shape == (WIDTH, WIDTH - inside.shape[1])
    np.testing.assert_allclose(residuals, squares, rtol=1e-4)
    np.testing.assert_allclose(maps[0], anomaly_map, rtol=1e-4)
    np.testing.assert_allclose(top_mean(maps, 0.01)[0], score, rtol=1e-4)
