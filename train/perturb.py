"""Augmentation of whole batches on the device: geometry, mosaics, defects pasted from other pictures, camera.

Images are (B, 3, H, W) in [0, 1], masks (B, H, W) bool; nothing is changed in place.
"""

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
VISIBLE = 0.04


def augment_twins(normal: Tensor, defective: Tensor, masks: Tensor, size: int, seed: int) -> Pair:
    """Pictures of B scenes without and with a defect, (B, 3, H, W) each, to 2B windows and their masks.

    Both twins get the same of everything, the noise too, so that the defect is all that tells them apart; something
    more is pasted into a share of the defective ones.
    """

    def same() -> torch.Generator:
        return torch.Generator(normal.device).manual_seed(seed)

    no_defect = torch.zeros_like(masks)
    images, masks = move(defective, masks, size, same())
    twins, nothing = move(normal, no_defect, size, same())
    images, masks = mosaic(images, masks, same(), share=0.05)
    twins, nothing = mosaic(twins, nothing, same(), share=0.05)
    images, masks = paste_defects(images, masks, same(), share=0.3)
    return torch.cat([camera(twins, same()), camera(images, same())]), torch.cat([nothing, masks])


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    """(B, *shape) numbers in [low, high)."""
    draw = torch.rand((images.shape[0], *shape), generator=generator, device=images.device)
    return low + (high - low) * draw


def mosaic(images: Tensor, masks: Tensor, generator: torch.Generator, share: float) -> Pair:
    """Replace a share of the pictures by 2 x 2 grids of four random ones at half size."""
    chosen = torch.nonzero(uniform(images, 0, 1, generator) < share)[:, 0]
    if not len(chosen):
        return images, masks
    tiles = torch.randint(len(images), (4, len(chosen)), generator=generator, device=images.device)
    both = torch.cat([images, masks[:, None].to(images.dtype)], 1)[tiles]
    size = (images.shape[-2] // 2, images.shape[-1] // 2)
    small = functional.interpolate(both.flatten(0, 1), size=size, mode="area").unflatten(0, tiles.shape)
    grid = torch.cat([torch.cat([small[0], small[1]], -1), torch.cat([small[2], small[3]], -1)], -2)
    images, masks = images.clone(), masks.clone()
    images[chosen], masks[chosen] = grid[:, :3], grid[:, 3] >= 0.5
    return images, masks


def paste_defects(images: Tensor, masks: Tensor, generator: torch.Generator, share: float) -> Pair:
    """Blend something foreign into a random blob of a share of the pictures.

    The published ways (CutPaste, DRAEM) in one: the blob is a thresholded smooth noise field of 0.1 to 10 % of the
    picture, the opacity random, the source as in `_foreign`. Only pixels that visibly changed enter the mask; a
    picture that hardly changed stays as it was.
    """
    chosen = torch.nonzero(uniform(images, 0, 1, generator) < share)[:, 0]
    if not len(chosen):
        return images, masks
    part = images[chosen]
    blobs = random_blobs(part, generator)
    alpha = functional.avg_pool2d(blobs[:, None].float(), 3, 1, 1) * uniform(part, 0.25, 1.0, generator, 1, 1, 1)
    pasted = part * (1 - alpha) + _foreign(part, images, generator) * alpha
    changed = blobs & ((pasted - part).abs().amax(1) > VISIBLE)
    closed = functional.max_pool2d(changed[:, None].float(), 5, 1, 2)
    changed = changed | (blobs & ((-functional.max_pool2d(-closed, 5, 1, 2))[:, 0] > 0))
    size = blobs.flatten(1).sum(1)
    kept = (changed.flatten(1).sum(1) >= 0.5 * size) & (size >= 12)
    images, masks = images.clone(), masks.clone()
    images[chosen[kept]] = pasted[kept]
    masks[chosen[kept]] |= changed[kept]
    return images, masks


def random_blobs(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: thresholded smooth noise inside a random window, of log-uniform size."""
    batch, _, height, width = images.shape
    cells = int(torch.randint(4, 33, (), generator=generator, device=images.device))
    noise = torch.randn(batch, 1, cells, cells, generator=generator, device=images.device)
    noise = functional.interpolate(noise, size=(height, width), mode="bilinear")[:, 0]
    radius = torch.exp(uniform(images, -3.2, -0.9, generator, 1, 1))
    stretch = torch.exp(uniform(images, -1.0, 1.0, generator, 1, 1))
    angle = uniform(images, 0, 3.1416, generator, 1, 1)
    x, y = _grid(images)
    x = x[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    y = y[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    along = (x * angle.cos() + y * angle.sin()) / (radius * stretch)
    across = (y * angle.cos() - x * angle.sin()) / (radius / stretch)
    return (1 - along**2 - across**2 + 0.7 * noise) > 0


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device), torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )  # fmt: skip
    return x, y


def _foreign(part: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """What is pasted: another picture, the same one shifted, its mean colours, or itself lighter or darker."""
    others = images[torch.randint(len(images), (len(part),), generator=generator, device=part.device)]
    side = part.shape[-1]
    margin = side // 10
    shift = [int(torch.randint(margin, side - margin, (), generator=generator, device=part.device)) for _ in "yx"]
    same = part.roll(shift, (-2, -1)).flip(-1)
    gain = uniform(part, 0.3, 1.9, generator, 3, 1, 1)
    gain = torch.where(uniform(part, 0, 1, generator, 1, 1, 1) < 0.5, gain[:, :1], gain)
    plain = functional.interpolate(functional.interpolate(part, size=(8, 8), mode="area"), size=part.shape[-2:])
    which = uniform(part, 0, 4, generator, 1, 1, 1).long()
    scaled = (torch.where(which == 2, plain, part) * gain).clamp(0, 1)
    return torch.where(which == 0, others, torch.where(which == 1, same, scaled))


def move(images: Tensor, masks: Tensor, size: int, generator: torch.Generator) -> Pair:
    """Mirror, turn by quarters, cut out a window of 80 to 100 % of the side, resample to `size` pixels."""
    batch = len(images)
    scale = uniform(images, 0.8, 1.15, generator, 1).clamp(max=1)
    aspect = torch.exp(uniform(images, -0.15, 0.15, generator, 1))
    window = torch.cat([(scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)], 1)
    centre = uniform(images, -1, 1, generator, 2) * (1 - window)
    stretch = window * torch.where(uniform(images, 0, 1, generator, 2) < 0.5, -1.0, 1.0)
    quarter = uniform(images, 0, 1, generator) < 0.5
    theta = torch.zeros(batch, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(quarter, 0, stretch[:, 0]), torch.where(quarter, 0, stretch[:, 1])
    theta[:, 0, 1], theta[:, 1, 0] = torch.where(quarter, stretch[:, 0], 0), torch.where(quarter, stretch[:, 1], 0)
    theta[:, :, 2] = centre
    both = torch.cat([images, masks[:, None].to(images.dtype)], 1)
    grid = functional.affine_grid(theta, [batch, 4, size, size], align_corners=False)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved[:, :3].clamp(0, 1), moved[:, 3] >= 0.5


def camera(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light, contrast, colour, blur, noise and coarse sampling: normal variation, never a defect."""

    def some(share: float) -> Tensor:
        return torch.nonzero(uniform(images, 0, 1, generator) < share)[:, 0]

    images = images.clone()
    for share, change in (
        (0.2, lambda part: part.mean(1, keepdim=True).expand_as(part)),
        (0.05, lambda part: 1 - part),
        (0.6, lambda part: _contrast(part, generator)),
        (0.3, lambda part: part * torch.exp(uniform(part, -0.2, 0.2, generator, 3, 1, 1))),
        (0.3, lambda part: part.clamp(1e-4, 1) ** torch.exp(uniform(part, -0.35, 0.35, generator, 1, 1, 1))),
        (0.2, _blurred),
        (0.15, _coarse),
        (0.3, lambda part: _shaded(part, generator)),
        (0.4, lambda part: _noisy(part, generator)),
    ):
        chosen = some(share)
        if len(chosen):
            images[chosen] = change(images[chosen])
    return images.clamp(0, 1)


def _contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = torch.exp(uniform(images, -0.5, 0.4, generator, 1, 1, 1))
    return ((images - mean) * contrast + mean) * torch.exp(uniform(images, -0.3, 0.3, generator, 1, 1, 1))


def _shaded(images: Tensor, generator: torch.Generator) -> Tensor:
    shade = uniform(images, -0.25, 0.25, generator, 1, 3, 3)
    return images * (1 + functional.interpolate(shade, size=images.shape[-2:], mode="bilinear", align_corners=True))


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images + noise * uniform(images, 0, 0.03, generator, 1, 1, 1)


def _blurred(images: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    rows = functional.conv2d(images, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), padding=(0, 2), groups=3)
    return functional.conv2d(rows, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), padding=(2, 0), groups=3)


def _coarse(images: Tensor) -> Tensor:
    small = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return functional.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
