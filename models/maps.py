"""From values of patches to maps of pixels."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.frozen import in_one_graph


def upsampled(
    values: Tensor, grid: tuple[int, int], size: int | tuple[int, int], sigma: float, radius: int | None = None
) -> Tensor:  # fmt: skip
    """(B, h * w) values of patches to (B, H, W) pixels: bilinear, then a Gaussian of `sigma` pixels (0 for none).

    `size` is (H, W), or the side of a square; for `radius` see `blurred`.
    """
    target = (size, size) if isinstance(size, int) else size
    maps = values.view(-1, 1, *grid)
    return (_by_matrices(maps, target, False, sigma, radius) if sigma > 0 else interpolated(maps, target))[:, 0]


def interpolated(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """(B, C, h, w) to another size, bilinear."""
    if in_one_graph():
        return _by_matrices(maps, size, align_corners)
    return F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)


def averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) averaged down to another size."""
    if in_one_graph():
        down, across = (_averages(new, old) for new, old in zip(size, maps.shape[2:], strict=True))
        return down @ maps @ across.T
    return F.adaptive_avg_pool2d(maps, size)


def square(anomaly_map: Tensor, side: int) -> Tensor:
    """(H, W) to (side, side), bilinear, antialiased; a map of that size stays as it is."""
    if anomaly_map.shape == (side, side):
        return anomaly_map
    return F.interpolate(anomaly_map[None, None], (side, side), mode="bilinear", antialias=True)[0, 0]


def blurred(maps: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """(B, 1, H, W) maps under a Gaussian cut off at a radius, of 4 sigma if None (or the side), edges reflected."""
    if sigma <= 0:
        return maps
    radius = min(math.ceil(4 * sigma) if radius is None else radius, min(maps.shape[2:]) - 1)
    kernel = _kernel(maps, sigma, radius)
    across = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))


def _kernel(like: Tensor, sigma: float, radius: int) -> Tensor:
    """A Gaussian's weights (1, 2 * radius + 1)."""
    steps = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    return (kernel / kernel.sum())[None]


def hill(values: Tensor, half: Tensor, exponent: float) -> Tensor:
    """values^k / (values^k + half^k) for values >= 0: 0 at 0, 0.5 where a value equals `half`, towards 1 beyond."""
    tiny = torch.finfo(values.dtype).tiny
    return torch.sigmoid(exponent * (values.clamp(min=tiny).log() - half.clamp(min=tiny).log()))


def top_mean(maps: Tensor, share: float) -> Tensor:
    """The mean of the highest share of the values of maps (B, ...), of one value at the least: (B,)."""
    pixels = maps.flatten(1)
    return pixels.topk(max(1, int(share * pixels.shape[1])), dim=1).values.mean(dim=1)


def _by_matrices(
    maps: Tensor, size: tuple[int, int], align_corners: bool, sigma: float = 0, radius: int | None = None
) -> Tensor:  # fmt: skip
    """Interpolated and blurred along each side: products of small matrices in place of passes over large maps."""
    if sigma > 0:
        radius = min(math.ceil(4 * sigma) if radius is None else radius, min(size) - 1)
    down, across = (
        _weights(new, int(old), align_corners, sigma, radius or 0, maps.device).to(maps.dtype)
        for new, old in zip(size, maps.shape[2:], strict=True)
    )
    return down @ maps @ across.T


@lru_cache(maxsize=64)
def _weights(new: int, old: int, align_corners: bool, sigma: float, radius: int, device: torch.device) -> Tensor:
    """What share each of `old` values has in each of `new` ones, interpolated and blurred: (new, old)."""
    each = F.interpolate(torch.eye(old, device=device)[None], new, mode="linear", align_corners=align_corners)
    if sigma > 0:
        each = F.conv1d(
            F.pad(each, (radius, radius), mode="reflect").transpose(0, 1), _kernel(each, sigma, radius)[None]
        )
        return each[:, 0].T.contiguous()
    return each[0].T.contiguous()


@lru_cache(maxsize=64)
def _averages(new: int, old: int) -> Tensor:
    """What share each of `old` values has in each of `new` averages: (new, old)."""
    return F.adaptive_avg_pool1d(torch.eye(old)[None], new)[0].T.contiguous()
