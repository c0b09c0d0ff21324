"""How whole batches of pictures are looked at, on the device: geometry and camera. Normal variation, never a defect.

Images are (B, 3, H, W) in [0, 1], masks (B, H, W) bool; nothing is changed in place.
"""

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
"""Images and their masks."""


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator, *shape: int, alike: int = 1) -> Tensor:
    """(B, *shape) numbers in [low, high), the same for every `alike` in turn."""
    draw = torch.rand((images.shape[0] // alike, *shape), generator=generator, device=generator.device)
    return (low + (high - low) * draw.to(images.device)).repeat_interleave(alike, dim=0)


def gaussian(images: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    """(B, *shape) normal deviates."""
    return torch.randn(len(images), *shape, generator=generator, device=generator.device).to(images.device)


def whole(low: int, high: int, generator: torch.Generator) -> int:
    """A number in [low, high)."""
    return int(torch.randint(low, high, (), generator=generator, device=generator.device))


def grid_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's x and y in [-1, 1], (H, W) both."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device), torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )  # fmt: skip
    return x, y


def move(
    images: Tensor, masks: Tensor, size: int, generator: torch.Generator, alike: int = 1, squash: float = 0.15
) -> Pair:
    """Flip, turn by quarters, cut out a window of 55 to 100 % of the side, resample to `size` pixels.

    Every `alike` pictures in turn are moved alike, but for a small shift. The window is stretched by up to e to the
    power of `squash`.
    """
    batch = len(images)
    scale = uniform(images, 0.55, 1.4, generator, 1, alike=alike).clamp(max=1)
    aspect = torch.exp(uniform(images, -squash, squash, generator, 1, alike=alike))
    window = torch.cat([(scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)], 1)
    centre = uniform(images, -0.8, 0.8, generator, 2, alike=alike) + uniform(images, -0.2, 0.2, generator, 2)
    centre = centre * (1 - window)
    stretch = window * torch.where(uniform(images, 0, 1, generator, 2, alike=alike) < 0.5, -1.0, 1.0)
    quarter = uniform(images, 0, 1, generator, alike=alike) < 0.5
    theta = torch.zeros(batch, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(quarter, 0, stretch[:, 0]), torch.where(quarter, 0, stretch[:, 1])
    theta[:, 0, 1], theta[:, 1, 0] = torch.where(quarter, stretch[:, 0], 0), torch.where(quarter, stretch[:, 1], 0)
    theta[:, :, 2] = centre
    both = torch.cat([images, masks[:, None].to(images.dtype)], 1)
    grid = functional.affine_grid(theta, [batch, 4, size, size], align_corners=False)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved[:, :3].clamp(0, 1), moved[:, 3] >= 0.5


def taken_again(images: Tensor, generator: torch.Generator) -> Tensor:
    """The same scenes from slightly elsewhere: turned by up to 4 degrees, moved, enlarged and bent by up to 4 %."""
    if not len(images):
        return images
    batch, side = len(images), images.shape[-1]
    angle, scale = uniform(images, -0.07, 0.07, generator), torch.exp(uniform(images, -0.08, 0, generator))
    theta = torch.zeros(batch, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 1, 0], theta[:, 0, 1] = scale * angle.sin(), -scale * angle.sin()
    theta[:, :, 2] = uniform(images, -0.04, 0.04, generator, 2)
    grid = functional.affine_grid(theta, [batch, 3, side, side], align_corners=False)
    bend = functional.interpolate(uniform(images, -0.02, 0.02, generator, 2, 5, 5), size=(side, side), mode="bicubic")
    grid = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def camera(images: Tensor, generator: torch.Generator, alike: int = 1) -> Tensor:
    """Light, contrast, colour, blur, noise and coarse sampling: normal variation, never a defect.

    Every `alike` pictures in turn are taken under the same conditions; exposure, shading and noise vary a little from
    each to the next.
    """

    def some(share: float, together: int) -> Tensor:
        return torch.nonzero(uniform(images, 0, 1, generator, alike=together) < share)[:, 0]

    def draw(part: Tensor, low: float, high: float, *shape: int) -> Tensor:
        return uniform(part, low, high, generator, *shape, alike=alike)

    images = images.clone()
    for share, together, change in (
        (0.25, alike, lambda part: part.mean(1, keepdim=True).expand_as(part)),
        (0.05, alike, lambda part: 1 - part),
        (0.6, alike, lambda part: _contrast(part, draw(part, -0.6, 0.5, 1, 1, 1), draw(part, -0.5, 0.3, 1, 1, 1))),
        (0.3, alike, lambda part: part * torch.exp(draw(part, -0.2, 0.2, 3, 1, 1))),
        (0.3, alike, lambda part: part.clamp(1e-4, 1) ** torch.exp(draw(part, -0.4, 0.4, 1, 1, 1))),
        (0.2, alike, _blurred),
        (0.15, alike, _coarse),
        (0.35, alike, lambda part: _shaded(part, draw(part, -0.6, 0.6, 1, 3, 3))),
        (0.25, alike, lambda part: _lit(part, draw(part, -1, 1, 5, 1, 1))),
        (0.5, 1, lambda part: _shaded(part, uniform(part, -0.08, 0.08, generator, 1, 3, 3))),
        (0.5, 1, lambda part: part * torch.exp(uniform(part, -0.08, 0.08, generator, 1, 1, 1))),
        (0.5, alike, lambda part: _noisy(part, draw(part, 0, 1, 1, 1, 1) ** 2 * 0.06, generator)),
    ):
        chosen = some(share, together)
        if len(chosen):
            images[chosen] = change(images[chosen])
    return images.clamp(0, 1)


def _contrast(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((images - mean) * torch.exp(contrast) + mean) * torch.exp(brightness)


def _shaded(images: Tensor, shade: Tensor) -> Tensor:
    return images * torch.exp(functional.interpolate(shade, size=images.shape[-2:], mode="bicubic", align_corners=True))


def _lit(images: Tensor, lamp: Tensor) -> Tensor:
    """A soft highlight of a lamp, or its shadow: `lamp` (B, 5, 1, 1) in [-1, 1] is place, width, shape and strength."""
    x, y = grid_of(images)
    there, width, shape, strength = lamp[:, :2], torch.exp(lamp[:, 2] - 1.2), torch.exp(0.7 * lamp[:, 3]), lamp[:, 4]
    far = ((x - there[:, 0]) * shape / width) ** 2 + ((y - there[:, 1]) / shape / width) ** 2
    return images + (0.5 * strength * torch.exp(-far))[:, None]


def _noisy(images: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    if generator.device != images.device:  # a number for every value: drawn where the images are
        generator = torch.Generator(images.device).manual_seed(whole(0, 2**31, generator))
    return images + amount * torch.randn(images.shape, generator=generator, device=images.device)


def _blurred(images: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    rows = functional.conv2d(images, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), padding=(0, 2), groups=3)
    return functional.conv2d(rows, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), padding=(2, 0), groups=3)


def _coarse(images: Tensor) -> Tensor:
    small = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return functional.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
