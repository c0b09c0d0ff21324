"""How far a float32 result may lie from float64's: about as far as the same computed by somebody else in float32.

Rounding depends on the processor, and deep networks enlarge it: no fixed bound holds everywhere. Equality is shown in
float64, where what is left of rounding lies far below anything that a fault would cause.
"""

import torch
from torch import Tensor

SLACK = 3.0
"""Two ways of computing the same round differently: either may be the nearer one by luck."""


def distance(found: Tensor, exact: Tensor) -> float:
    """The mean distance of two tensors of one shape."""
    assert found.shape == exact.shape
    return float((found.double() - exact.double()).abs().mean())


def assert_no_farther(ours: Tensor, other: Tensor, exact: Tensor) -> None:
    """Ours in float32 lies at most `SLACK` times as far from float64's as the other way does in float32."""
    assert ours.dtype == other.dtype == torch.float32
    one_rounding = torch.finfo(torch.float32).eps * float(exact.double().abs().mean())
    assert distance(ours, exact) <= SLACK * (distance(other, exact) + one_rounding)
