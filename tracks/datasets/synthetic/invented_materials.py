"""What invented products are made of: layers of noise, repeats, colours, materials, and uneven light."""

import numpy as np

from tracks.datasets.synthetic.noise import Field, cells, clouds, enlarge, fractal
from tracks.datasets.synthetic.scene import contrasting, metal, tone
from tracks.datasets.synthetic.shapes import Frame


def layer(look: np.random.Generator, pose: np.random.Generator, size: int) -> Field:
    """A random field (size, size) of about unit deviation: grain, streaks, ridges, spots or cells."""
    kind = int(look.integers(6))
    slope, low = look.uniform(0, 2.0), np.exp(look.uniform(0, np.log(45)))
    stretch = 1.0 if look.uniform() < 0.55 else float(np.exp(look.uniform(0.7, 3.8)))
    angle, level, count = look.uniform(0, np.pi), look.uniform(0.6, 2.2), int(np.exp(look.uniform(2.5, 6.5)))
    if kind == 5:
        first, second, _ = cells(pose, size, count, look.uniform(0.5, 2.0))
        field = enlarge(np.ascontiguousarray((second - first) if look.uniform() < 0.6 else first), size)
        return (field - field.mean()) / np.float32(field.std() + 1e-6)
    field = fractal(pose, size, slope=slope, low=low, stretch=stretch, angle=angle)
    if kind == 3:
        field = 0.8 - np.abs(field)
    if kind == 4:
        field = np.clip((np.abs(field) - level) * 3, 0, 1) * 2
    return field


def waves(look: np.random.Generator, at: Frame) -> Field:
    """A random periodic pattern over the plane, in [-1, 1]: bars, checks, dots, scales or a moire of waves."""
    u, v = at.x, at.y
    if look.uniform() < 0.35:
        u = u + np.float32(0.5) * (np.floor(v) % 2)
    a, b = u % 1 - 0.5, v % 1 - 0.5
    kind, width = int(look.integers(6)), np.float32(look.uniform(0.12, 0.4))
    if kind == 0:
        pattern = np.abs(a) - width
    elif kind == 1:
        pattern = np.maximum(np.abs(a), np.abs(b)) - width
    elif kind == 2:
        pattern = np.hypot(a, b * np.float32(look.uniform(0.5, 2))) - width
    elif kind == 3:
        pattern = np.minimum(np.abs(a), np.abs(b)) - width / 3
    elif kind == 4:
        pattern = np.hypot(a, b + 0.5) % np.float32(0.35) - width / 2
    else:
        turns = look.uniform(0, 2 * np.pi, 3)
        pattern = sum(np.cos(2 * np.pi * (u * np.cos(t) + v * np.sin(t))) for t in turns) / 3
        return np.asarray(pattern, np.float32)
    soft = np.float32(np.exp(look.uniform(np.log(min(at.pixel, 0.25)), np.log(0.3))))
    return np.clip(-pattern / soft, -1, 1).astype(np.float32)


def colours_of(look: np.random.Generator, count: int) -> list[np.ndarray]:
    """Colours (3,) of one product: greys, metals, or any, near one another or not."""
    first = metal(look, (0.15, 0.9)) if look.uniform() < 0.25 else tone(look, (0.06, 0.97), (0.03, 0.85), grey=0.45)
    rest = []
    for _ in range(count - 1):
        if look.uniform() < 0.5:
            rest.append(np.clip(first * np.float32(np.exp(look.normal(0, 0.35))), 0, 1))
        else:
            rest.append(contrasting(look, first, 0.15, grey=0.3))
    return [first, *rest]


def material(look: np.random.Generator, pose: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
    """A colour grown into albedo (size, size, 3) by one to three layers of random strength, some of them tinted."""
    albedo = np.broadcast_to(colour, (size, size, 3)).astype(np.float32)
    for _ in range(int(look.integers(1, 4))):
        amount = np.float32(np.exp(look.uniform(np.log(0.008), np.log(0.16))))
        tint = np.ones(3, np.float32)
        if look.uniform() < 0.3:
            tint = look.uniform(0.2, 1.4, 3).astype(np.float32)
        albedo = albedo * (1 + amount * layer(look, pose, size)[..., None] * tint)
    return albedo


def lamplight(look: np.random.Generator, pose: np.random.Generator, size: int) -> Field:
    """Uneven light (size, size) about 1 that is no defect: a slope, a spot, a falling-off side, broad clouds."""
    ticks = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    heading = look.uniform(0, 2 * np.pi) + pose.normal(0, 0.2)
    along = ticks[None, :] * np.float32(np.cos(heading)) + ticks[:, None] * np.float32(np.sin(heading))
    light: np.ndarray = 1 + np.float32(look.uniform(0, 0.45) * pose.uniform(0.6, 1.2)) * along
    if look.uniform() < 0.4:
        x, y = look.uniform(-0.8, 0.8, 2) + pose.normal(0, 0.1, 2)
        spread = np.float32(look.uniform(0.5, 1.4))
        spot = np.exp(-((ticks[None, :] - x) ** 2 + (ticks[:, None] - y) ** 2) / spread**2)
        light = light * (1 + np.float32(look.uniform(-0.4, 0.8)) * spot)
    if look.uniform() < 0.3:
        edge, width = look.uniform(0.3, 0.95) + pose.normal(0, 0.05), look.uniform(0.05, 0.6)
        light = light * (
            1 - np.float32(look.uniform(0.2, 0.85)) / (1 + np.exp(np.minimum(-(along - edge) / width * 6, 80)))
        )
    if look.uniform() < 0.4:
        light = light * (1 + np.float32(look.uniform(0.03, 0.25)) * clouds(pose, size, look.uniform(1, 3)))
    return np.clip(light, 0.08, 2.5).astype(np.float32)
