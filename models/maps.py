"""From values of patches to maps of pixels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampled(
    values: Tensor, grid: tuple[int, int], size: int | tuple[int, int], sigma: float, radius: int | None = None
) -> Tensor:  # fmt: skip
    """(B, h * w) values of patches to (B, H, W) pixels: bilinear, then a Gaussian of `sigma` pixels (0 for none).

    `size` is (H, W), or the side of a square; for `radius` see `blurred`.
    """
    target = (size, size) if isinstance(size, int) else size
    maps = F.interpolate(values.view(-1, 1, *grid), target, mode="bilinear", align_corners=False)
    return blurred(maps, sigma, radius)[:, 0]


def blurred(maps: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """(B, 1, H, W) maps under a Gaussian cut off at a radius, of 4 sigma if None (or the side), edges reflected."""
    if sigma <= 0:
        return maps
    radius = min(math.ceil(4 * sigma) if radius is None else radius, min(maps.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))


def hill(values: Tensor, half: Tensor, exponent: float) -> Tensor:
    """values^k / (values^k + half^k) for values >= 0: 0 at 0, 0.5 where a value equals `half`, towards 1 beyond."""
    tiny = torch.finfo(values.dtype).tiny
    return torch.sigmoid(exponent * (values.clamp(min=tiny).log() - half.clamp(min=tiny).log()))


def top_mean(maps: Tensor, share: float) -> Tensor:
    """The mean of the highest share of the values of maps (B, ...), of one value at the least: (B,)."""
    pixels = maps.flatten(1)
    return pixels.topk(max(1, int(share * pixels.shape[1])), dim=1).values.mean(dim=1)
