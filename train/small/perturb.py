"""Augmentation of whole batches on the device: geometry, defects pasted from other pictures, camera.

Images are (B, 3, H, W) in [0, 1], masks (B, H, W) bool; nothing is changed in place.
"""

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
VISIBLE = 0.04
STROKES = 0.3
"""Share of thin lines among what is pasted."""


def augment_twins(
    normal: Tensor,
    defective: Tensor,
    masks: Tensor,
    size: int,
    seed: int,
    scenes: int = 1,
    large: Tensor | None = None,
    squash: float = 0.15,
    pasted: Tensor | float = 0.35,
) -> Pair:
    """Pictures of B scenes without and with a defect, (B, 3, H, W) each, to 2B windows and their masks.

    Every `scenes` pictures in turn show one product: they are turned, cropped and taken alike, but for a little.
    Both twins get the same of everything, the noise too, so that the defect is all that tells them apart; something
    more is pasted into a share `pasted` of the defective ones, and a whole region of a share `large` of them is
    changed; each share is one number, or (B,) of each picture its own.
    `squash` is the most that a window is stretched, the logarithm of the factor.
    """

    def same() -> torch.Generator:
        return torch.Generator(normal.device).manual_seed(seed)

    twins, nothing = move(normal, torch.zeros_like(masks), size, same(), scenes, squash)
    images, masks = move(defective, masks, size, same(), scenes, squash)
    images, masks = paste_defects(images, masks, same(), share=pasted)
    if large is not None:
        images, masks = change_regions(images, masks, same(), share=large)
    return torch.cat([camera(twins, same(), scenes), camera(images, same(), scenes)]), torch.cat([nothing, masks])


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator, *shape: int, alike: int = 1) -> Tensor:
    """(B, *shape) numbers in [low, high), the same for every `alike` in turn."""
    draw = torch.rand((images.shape[0] // alike, *shape), generator=generator, device=images.device)
    return (low + (high - low) * draw).repeat_interleave(alike, dim=0)


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
    window = 2 * int(torch.randint(0, 5, (), generator=generator, device=images.device)) + 1
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
    window = 2 * int(torch.randint(0, 9, (), generator=generator, device=part.device)) + 1
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
    batch, _, height, width = images.shape
    cells = int(torch.randint(3, 12, (), generator=generator, device=images.device))
    noise = torch.randn(batch, 1, cells, cells, generator=generator, device=images.device)
    noise = functional.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)[:, 0]
    noise = noise * uniform(images, 0, 0.25, generator, 1, 1)
    angle = uniform(images, 0, 6.2832, generator, 1, 1)
    straight = uniform(images, 0, 1, generator, 1, 1) < 0.5
    angle = torch.where(straight, (angle / 1.5708).round() * 1.5708, angle)
    x, y = _grid(images)
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
    others = images[torch.randint(len(images), (len(part),), generator=generator, device=part.device)]
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


def random_blobs(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: thresholded smooth noise inside a random window, of log-uniform size."""
    batch, _, height, width = images.shape
    cells = int(torch.randint(4, 33, (), generator=generator, device=images.device))
    noise = torch.randn(batch, 1, cells, cells, generator=generator, device=images.device)
    noise = functional.interpolate(noise, size=(height, width), mode="bilinear")[:, 0]
    radius = torch.exp(uniform(images, -3.9, -0.9, generator, 1, 1))
    stretch = torch.exp(uniform(images, -1.0, 1.0, generator, 1, 1))
    angle = uniform(images, 0, 3.1416, generator, 1, 1)
    x, y = _grid(images)
    x = x[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    y = y[None] - uniform(images, -0.95, 0.95, generator, 1, 1)
    along = (x * angle.cos() + y * angle.sin()) / (radius * stretch)
    across = (y * angle.cos() - x * angle.sin()) / (radius / stretch)
    return (1 - along**2 - across**2 + 0.7 * noise) > 0


def random_strokes(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, H, W) bool: a bent line 1 to 5 pixels wide and a tenth to all of the picture long, at any angle."""
    batch, side = len(images), images.shape[-1]
    angle = uniform(images, 0, 6.2832, generator, 1, 1)
    x, y = _grid(images)
    x = x[None] - uniform(images, -0.7, 0.7, generator, 1, 1)
    y = y[None] - uniform(images, -0.7, 0.7, generator, 1, 1)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    course = torch.randn(batch, 1, 12, generator=generator, device=images.device)
    course = functional.interpolate(course, size=4 * side, mode="linear")[:, 0]  # over along = -2 to 2
    bent = course.gather(1, ((along + 2) * side).long().clamp(0, 4 * side - 1).flatten(1)).view_as(along)
    bend = uniform(images, 0, 0.12, generator, 1, 1)
    length = torch.exp(uniform(images, -2.3, 0.0, generator, 1, 1))
    width = torch.exp(uniform(images, 0.0, 1.6, generator, 1, 1)) / side
    return (along.abs() < length) & ((across - bend * bent).abs() < width)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device), torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )  # fmt: skip
    return x, y


def _foreign(part: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """What is pasted, by chance one of seven.

    Another picture; the same one shifted, as it is or matched to the light beneath (gradient-domain blending's
    effect); its mean colours, noise, itself blurred, or itself lighter or darker.
    """
    others = images[torch.randint(len(images), (len(part),), generator=generator, device=part.device)]
    side = part.shape[-1]
    margin = side // 10
    shift = [int(torch.randint(margin, side - margin, (), generator=generator, device=part.device)) for _ in "yx"]
    same = part.roll(shift, (-2, -1)).flip(-1)
    gain = uniform(part, 0.3, 1.9, generator, 3, 1, 1)
    gain = torch.where(uniform(part, 0, 1, generator, 1, 1, 1) < 0.6, gain[:, :1], gain)
    plain = _coarsened(part, 8)
    matched = (same - _coarsened(same, 8) + plain).clamp(0, 1)
    cells = int(torch.randint(6, 60, (), generator=generator, device=part.device))
    noise = torch.rand(len(part), 3, cells, cells, generator=generator, device=part.device)
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


def _coarsened(images: Tensor, side: int) -> Tensor:
    small = functional.interpolate(images, size=(side, side), mode="area")
    return functional.interpolate(small, size=images.shape[-2:], mode="bilinear")


def move(
    images: Tensor, masks: Tensor, size: int, generator: torch.Generator, alike: int = 1, squash: float = 0.15
) -> Pair:
    """Mirror, turn by quarters, cut out a window of 55 to 100 % of the side, resample to `size` pixels.

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
    x, y = _grid(images)
    there, width, shape, strength = lamp[:, :2], torch.exp(lamp[:, 2] - 1.2), torch.exp(0.7 * lamp[:, 3]), lamp[:, 4]
    far = ((x - there[:, 0]) * shape / width) ** 2 + ((y - there[:, 1]) / shape / width) ** 2
    return images + (0.5 * strength * torch.exp(-far))[:, None]


def _noisy(images: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    return images + amount * torch.randn(images.shape, generator=generator, device=images.device)


def _blurred(images: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    rows = functional.conv2d(images, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), padding=(0, 2), groups=3)
    return functional.conv2d(rows, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), padding=(2, 0), groups=3)


def _coarse(images: Tensor) -> Tensor:
    small = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return functional.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
