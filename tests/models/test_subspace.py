"""Moments that add up, the subspace of most of the variance, the distance to it: each against numpy's own."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models.subspace import Moments


def tokens(count=400, width=12, seed=0):
    """Of falling variance along mixed axes, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) * torch.logspace(0, -2, width) @ mixed + 3


def plain_residuals(known, rows, variance):
    """Two passes, as the paper says it: what a reconstruction by the principal axes leaves, squared."""
    mean = known.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(known.T))
    values, axes = values[::-1], axes[:, ::-1]
    count = int(np.argmax(np.cumsum(values) / values.sum() >= variance)) + 1
    inside = axes[:, :count]
    again = mean + (rows - mean) @ inside @ inside.T
    return count, np.square(rows - again).sum(axis=1)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 0.9999])
def test_the_subspace_is_that_of_two_passes(variance):
    known, rows = tokens(), tokens(50, seed=1)
    subspace = Moments.of(known).subspace(variance)
    count, expected = plain_residuals(known.double().numpy(), rows.double().numpy(), variance)
    assert known.shape[1] - subspace.outside.shape[1] == count
    assert_close(subspace.residuals(rows), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-6)


def test_moments_add_up_and_what_was_added_can_be_taken_away():
    one, other = tokens(), tokens(seed=1)
    both = Moments.of(one) + Moments.of(other)
    for name, expected in vars(Moments.of(torch.cat([one, other]))).items():
        assert_close(getattr(both, name), expected, rtol=1e-12, atol=0)
    for name, expected in vars(Moments.of(one)).items():
        assert_close(getattr(both - Moments.of(other), name), expected, rtol=1e-12, atol=0)


def test_tokens_that_are_all_one_are_0_apart_and_one_token_is_enough():
    for count in (1, 5):
        subspace = Moments.of(torch.ones(count, 3)).subspace(0.99)
        assert subspace.residuals(torch.ones(2, 3)).tolist() == [0, 0]
        assert torch.isfinite(subspace.residuals(tokens(4, 3))).all()
