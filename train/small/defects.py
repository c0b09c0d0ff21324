"""Defects made on whole batches of pictures, on the device: something foreign pasted in, or a region changed.

Images are (B, 3, H, W) in [0, 1], masks (B, H, W) bool; nothing is changed in place.
"""

import torch
from torch import Tensor
from torch.nn import functional

from train.small.views import Pair, gaussian, grid_of, uniform, whole

VISIBLE = 0.04
STROKES = 0.3
"""Share of thin lines among what is pasted."""


def paste_defects(images: Tensor, masks: Tensor, generator: torch.Generator, share: Tensor | float) -> Pair:
    """Blend something foreign into a random blob or stroke of a share of the pictures.

    The published ways (CutPaste, DRAEM, NSA) in one: the blob is a thresholded smooth noise field of 0.02 to 10 % of
    the picture, the stroke a thin bent line, the edge hard or soft, the opacity random, the source as in `_foreign`.
    Only pixels that visibly changed enter the mask; a picture that hardly changed stays as it was.
    """
    chosen = torch.nonzero(uniform(images, 0, 1, generator) < share)[:, 0]
    if not len(chosen):
        return images, masks
    part = images[chosen]
    thin = uniform(part, 0, 1, generator, 1, 1) < STROKES
    blobs = torch.where(thin, random_strokes(part, generator), random_blobs(part, generator))
    window = 2 * whole(0, 5, generator) + 1
    soft = functional.avg_pool2d(blobs[:, None].float(), window, 1, window // 2)
    soft = torch.where(thin[..., None], functional.avg_pool2d(blobs[:, None].float(), 3, 1, 1), soft)
    alpha = soft * uniform(part, 0.25, 1.0, generator, 1, 1, 1)
    pasted = part * (1 - alpha) + _foreign(part, images, generator) * alpha
    changed = (soft[:, 0] > 0.3) & ((pasted - part).abs().amax(1) > VISIBLE)
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
    height, width = images.shape[-2:]
    cells = whole(4, 33, generator)
    noise = gaussian(images, generator, 1, cells, cells)
    noise = functional.interpolate(noise, size=(height, width), mode="bilinear")[:, 0]
    radius = torch.exp(uniform(images, -3.9, -0.9, generator, 1, 1))
    stretch = torch.exp(uniform(images, -1.0, 1.0, generator, 1, 1))
    angle = uniform(images, 0, 3.1416, generator, 1, 1)
    x, y = grid_of(images)
    x = x[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    y = y[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    along = (x * angle.cos() + y * angle.sin()) / (radius * stretch)
    across = (y * angle.cos() - x * angle.sin()) / (radius / stretch)
    return (1 - along**2 - across**2 + 0.7 * noise) > 0


def random_strokes(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: a bent line 1 to 5 pixels wide and a tenth to all of the picture long, at any angle."""
    side = images.shape[-1]
    angle = uniform(images, 0, 6.2832, generator, 1, 1)
    x, y = grid_of(images)
    x = x[None] - uniform(images, -0.7, 0.7, generator, 1, 1)
    y = y[None] - uniform(images, -0.7, 0.7, generator, 1, 1)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    course = gaussian(images, generator, 1, 12)
    course = functional.interpolate(course, size=4 * side, mode="linear")[:, 0]  # over along = -2 to 2
    bent = course.gather(1, ((along + 2) * side).long().clamp(0, 4 * side - 1).flatten(1)).view_as(along)
    bend = uniform(images, 0, 0.12, generator, 1, 1)
    length = torch.exp(uniform(images, -2.3, 0.0, generator, 1, 1))
    width = torch.exp(uniform(images, 0.0, 1.6, generator, 1, 1)) / side
    return (along.abs() < length) & ((across - bend * bent).abs() < width)


def _foreign(part: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """What is pasted, by chance one of seven.

    Another picture; the same one shifted, as it is or matched to the light beneath (gradient-domain blending's
    effect); its mean colours, noise, itself blurred, or itself lighter or darker.
    """
    others = _others(part, images, generator)
    side = part.shape[-1]
    margin = side // 10
    shift = [whole(margin, side - margin, generator) for _ in "yx"]
    same = part.roll(shift, (-2, -1)).flip(-1)
    gain = uniform(part, 0.3, 1.9, generator, 3, 1, 1)
    gain = torch.where(uniform(part, 0, 1, generator, 1, 1, 1) < 0.6, gain[:, :1], gain)
    plain = _coarsened(part, 8)
    matched = (same - _coarsened(same, 8) + plain).clamp(0, 1)
    cells = whole(6, 60, generator)
    noise = uniform(part, 0, 1, generator, 3, cells, cells)
    noise = functional.interpolate(noise, size=part.shape[-2:], mode="bilinear")
    which = uniform(part, 0, 7, generator, 1, 1, 1).long()
    choices = [
        others,
        same,
        matched,
        (plain * gain).clamp(0, 1),
        noise,
        _coarsened(part, side // 5),
        (part * gain).clamp(0, 1),
    ]
    return torch.stack(choices).gather(0, which[None].expand(1, *part.shape))[0]


def change_regions(images: Tensor, masks: Tensor, generator: torch.Generator, share: Tensor) -> Pair:
    """Change the look of a whole region, 3 to 40 % of the picture, in a share of the pictures.

    `share` (B,) is each picture's own. The region is a large blob, a side or a band, its edge sharp or soft; what
    changes is brightness, the strength of the texture, its direction or scale, or all of it. What nobody would see
    stays out of the mask and the picture.
    """
    chosen = torch.nonzero(uniform(images, 0, 1, generator) < share)[:, 0]
    if not len(chosen):
        return images, masks
    part = images[chosen]
    inside = _regions(part, generator)
    window = 2 * whole(0, 9, generator) + 1
    alpha = functional.avg_pool2d(inside[:, None].float(), window, 1, window // 2, count_include_pad=False)
    changed = part + (_otherwise(part, images, generator) - part) * alpha
    seen = ((changed - part).abs().mean(1) * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    area = inside.flatten(1).float().mean(1)
    kept = (seen > VISIBLE / 2) & (area > 0.03) & (area < 0.4)
    images, masks = images.clone(), masks.clone()
    images[chosen[kept]] = changed[kept].clamp(0, 1)
    masks[chosen[kept]] |= (alpha[kept, 0] > 0.5) & inside[kept]
    return images, masks


def _regions(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: a wavy-edged blob, side or band of each picture."""
    height, width = images.shape[-2:]
    cells = whole(3, 12, generator)
    noise = gaussian(images, generator, 1, cells, cells)
    noise = functional.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)[:, 0]
    noise = noise * uniform(images, 0, 0.25, generator, 1, 1)
    angle = uniform(images, 0, 6.2832, generator, 1, 1)
    straight = uniform(images, 0, 1, generator, 1, 1) < 0.5
    angle = torch.where(straight, (angle / 1.5708).round() * 1.5708, angle)
    x, y = grid_of(images)
    across = x * angle.cos() + y * angle.sin()
    along = y * angle.cos() - x * angle.sin()
    side = across - uniform(images, 0.1, 0.95, generator, 1, 1)
    middle, reach = uniform(images, -0.8, 0.8, generator, 1, 1), uniform(images, 0.05, 0.35, generator, 1, 1)
    band = reach - (across - middle).abs()
    radius = torch.exp(uniform(images, -1.7, -0.4, generator, 1, 1))
    slim = torch.exp(uniform(images, -0.6, 0.6, generator, 1, 1))
    there = uniform(images, -0.7, 0.7, generator, 1, 1)
    blob = radius - torch.sqrt(((across - middle) * slim) ** 2 + ((along - there) / slim) ** 2)
    which = uniform(images, 0, 4, generator, 1, 1)
    return torch.where(which < 1.2, side, torch.where(which < 1.8, band, blob)) + noise * 0.5 > 0


def _otherwise(part: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """How a region may differ from the rest: lighter, darker, smoother, rougher, turned, scaled, of another stuff."""
    plain = _coarsened(part, 8)
    texture = part - plain
    others = _others(part, images, generator)
    strength = torch.exp(uniform(part, -1.6, 1.1, generator, 1, 1, 1))
    gain = torch.exp(uniform(part, -0.6, 0.45, generator, 1, 1, 1))
    tint = torch.exp(uniform(part, -0.25, 0.25, generator, 3, 1, 1))
    side = part.shape[-1]
    near = functional.interpolate(texture[..., : side // 2, : side // 2], size=(side, side), mode="bilinear")
    choices = [
        part * gain, part * gain * tint, plain + texture * strength, (plain + texture * strength) * gain,
        (plain + texture.transpose(2, 3)) * gain, plain + near, plain + (others - _coarsened(others, 8)) * strength,
    ]  # fmt: skip
    which = uniform(part, 0, len(choices), generator, 1, 1, 1).long()
    return torch.stack(choices).gather(0, which[None].expand(1, *part.shape))[0]


def _coarsened(images: Tensor, side: int) -> Tensor:
    small = functional.interpolate(images, size=(side, side), mode="area")
    return functional.interpolate(small, size=images.shape[-2:], mode="bilinear")


def _others(part: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """A random one of all images for each of the part."""
    return images[torch.randint(len(images), (len(part),), generator=generator, device=generator.device)]
