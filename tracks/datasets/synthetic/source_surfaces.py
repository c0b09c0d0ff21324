"""Surfaces of the source split: one function per product, each fills the picture."""

import numpy as np

from tracks.datasets.synthetic.noise import cells, clouds, enlarge, fractal
from tracks.datasets.synthetic.scene import Scene, Studio, contrasting, metal, mix, surface, tone
from tracks.datasets.synthetic.shapes import frame


def brushed_metal(studio: Studio) -> Scene:
    """Metal brushed in one direction, with a broad sheen."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour, angle = metal(look, (0.4, 0.85)), look.choice([0.0, np.pi / 2, look.uniform(0, np.pi)])
    stretch, fine, strength = look.uniform(15, 200), look.uniform(0.2, 0.9), look.uniform(0.015, 0.09)
    streaks = fractal(pose, size, slope=fine, low=3, stretch=stretch, angle=angle + studio.turn(1))
    sheen = clouds(pose, size, 1.2) * np.float32(look.uniform(0.02, 0.12))
    albedo = colour * (1 + streaks * np.float32(strength) + sheen)[..., None]
    return surface(studio, albedo, streaks, depth=0.05)


def wood(studio: Studio) -> Scene:
    """A planed board: year rings drawn out along the grain, pores."""
    look, pose, size = studio.look, studio.pose, studio.size
    hue_light = tone(look, (0.45, 0.9), (0.25, 0.6), grey=0.1)
    if look.uniform() < 0.75:
        hue_light = np.array([1.0, look.uniform(0.68, 0.85), look.uniform(0.4, 0.65)], np.float32) * hue_light.max()
    dark = hue_light * np.float32(look.uniform(0.45, 0.85))
    angle, rings, bend = look.choice([0.0, np.pi / 2]) + studio.turn(4), look.uniform(3, 14), look.uniform(0.2, 1.4)
    at = frame(size, studio.shift(1), angle)
    flow = fractal(pose, size, slope=1.8, low=1, high=10, stretch=5, angle=angle) * np.float32(bend)
    phase = at.y * np.float32(rings) + flow
    rise = phase % 1
    late = rise**2 * (1 - np.clip((rise - 0.9) * 10, 0, 1))
    grain = fractal(pose, size, slope=0.3, low=6, stretch=40, angle=angle)
    albedo = mix(hue_light, dark, late) * (1 + grain * np.float32(look.uniform(0.02, 0.07)))[..., None]
    return surface(studio, albedo, grain, depth=0.06, gloss=look.choice([0.0, 0.1]))


def cast_iron(studio: Studio) -> Scene:
    """A rough cast surface: grains of all sizes."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = metal(look, (0.2, 0.65)) if look.uniform() < 0.8 else tone(look)
    high = look.uniform(25, 110)
    grains = fractal(pose, size, slope=look.uniform(0.2, 0.9), low=4, high=high)
    tint = fractal(pose, size, slope=1.3, low=1.5) * np.float32(look.uniform(0.01, 0.07))
    albedo = colour * (1 + tint + grains * np.float32(look.uniform(0.0, 0.05)))[..., None]
    return surface(studio, albedo, grains, depth=look.uniform(0.15, 0.9) * 60 / high, gloss=look.uniform(0, 0.4))


def terrazzo(studio: Studio) -> Scene:
    """Stone chips of a few colours in a binder."""
    look, pose, size = studio.look, studio.pose, studio.size
    binder = tone(look, (0.2, 0.95), (0.05, 0.4), grey=0.5)
    chips = np.stack([tone(look, grey=0.4) for _ in range(4)])
    count, kept, margin = int(look.uniform(80, 900)), look.uniform(0.4, 1.0), look.uniform(0.05, 0.3)
    near, second, index = cells(pose, size, count)
    choice = pose.integers(0, 4, index.max() + 1)
    present = pose.uniform(size=index.max() + 1) < kept
    cover = np.clip((second - near - margin) * 12, 0, 1) * present[index]
    albedo = binder + (chips[choice][index] - binder) * cover[..., None].astype(np.float32)
    albedo = enlarge(albedo.astype(np.float32), size)
    fine = fractal(pose, size, slope=0.7, low=8)
    return surface(studio, albedo * (1 + fine * 0.03)[..., None], fine, depth=0.03)


def paper(studio: Studio) -> Scene:
    """Sized paper: nearly even, a faint cloudiness and fibres."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = tone(look, (0.4, 0.98), (0.02, 0.5), grey=0.4)
    cloud = fractal(pose, size, slope=0.9, low=4, high=look.uniform(20, 80)) * np.float32(look.uniform(0.004, 0.03))
    tooth = fractal(pose, size, slope=0.2, low=25)
    return surface(studio, colour * (1 + cloud)[..., None], tooth, depth=look.uniform(0.005, 0.12))


def ceramic_tile(studio: Studio) -> Scene:
    """Glazed tiles with grout between them."""
    look, pose, size = studio.look, studio.pose, studio.size
    glaze, spread = tone(look), look.uniform(0.0, 0.08)
    grout = contrasting(look, glaze, 0.12, grey=0.8)
    side, gap, ratio = look.uniform(0.25, 0.9), look.uniform(0.02, 0.06), look.choice([1.0, 1.0, 0.5])
    turn = studio.turn(2)
    at = frame(size, studio.shift(0.6), turn, side)
    v = at.y / np.float32(ratio)
    row = np.floor(v)
    u = at.x + (row % 2) * np.float32(0.5 if ratio < 1 else 0.0)
    edge = np.minimum(np.minimum(u % 1, 1 - u % 1), np.minimum(v % 1, 1 - v % 1) * np.float32(ratio)) - np.float32(gap)
    cover = np.clip(edge / np.float32(at.pixel) + 0.5, 0, 1)
    shades = pose.uniform(-spread, spread, (31, 31)).astype(np.float32)
    mottle = fractal(pose, size, slope=1.0, low=2) * np.float32(look.uniform(0.0, 0.05))
    level = 1 + shades[(row % 31).astype(int), (np.floor(u) % 31).astype(int)] + mottle
    albedo = grout + (glaze * level[..., None] - grout) * cover[..., None]
    rounded = np.clip(edge * 14, 0, 1)
    height = np.sqrt(rounded * (2 - rounded)) + fractal(pose, size, slope=0.3, low=20) * (1 - cover) * 0.1
    return surface(studio, albedo, height, depth=2.0, gloss=look.uniform(0, 0.35), lines=(turn, side * size * 0.5))


def wire_mesh(studio: Studio) -> Scene:
    """Wires crossing over a dark or bright ground."""
    look, pose, size = studio.look, studio.pose, studio.size
    wire = metal(look) if look.uniform() < 0.7 else tone(look)
    ground = contrasting(look, wire, 0.3)
    period, width, lean = look.uniform(0.06, 0.25), look.uniform(0.12, 0.3), look.choice([0.0, np.pi / 4])
    wave = clouds(pose, size, 4) * np.float32(0.06)
    turn = lean + studio.turn(3)
    at = frame(size, studio.shift(0.6), turn, period)
    u, v = at.x + wave, at.y - wave
    du, dv = np.abs(u % 1 - 0.5) - np.float32(width), np.abs(v % 1 - 0.5) - np.float32(width)
    alternate = ((np.floor(u) + np.floor(v)) % 2 - 0.5) * np.float32(2)
    bow = np.cos(np.pi * (u - 0.5)) * np.cos(np.pi * (v - 0.5)) * alternate * np.float32(0.2)
    tube_u = np.sqrt(np.maximum(1 - (1 + np.minimum(du, 0) / np.float32(width)) ** 2, 0)) * (du < 0) + bow
    tube_v = np.sqrt(np.maximum(1 - (1 + np.minimum(dv, 0) / np.float32(width)) ** 2, 0)) * (dv < 0) - bow
    cover = np.clip(0.5 - np.minimum(du, dv) / np.float32(at.pixel), 0, 1)
    height = np.maximum(tube_u * (du < 0), tube_v * (dv < 0)) * cover
    below = ground * (1 + fractal(pose, size, slope=1.0, low=3) * np.float32(0.04))[..., None]
    albedo = below + (wire * (0.35 + 0.65 * height)[..., None] - below) * cover[..., None]
    depth = period * width * 128 * 0.5
    return surface(studio, albedo, height, depth=depth, gloss=0.3, lines=(turn, period * size / 2))


def printed_pattern(studio: Studio) -> Scene:
    """A motif of dots, diamonds, flowers or stripes printed in a regular repeat."""
    look, pose, size = studio.look, studio.pose, studio.size
    ground = tone(look, (0.15, 1.0))
    ink = contrasting(look, ground, 0.15)
    other = contrasting(look, ground, 0.1)
    side, petals, motif = look.uniform(0.12, 0.5), int(look.integers(3, 9)), look.integers(0, 4)
    turn = look.choice([0.0, np.pi / 4, look.uniform(0, np.pi)]) + studio.turn(2)
    at = frame(size, studio.shift(0.6), turn, side)
    row = np.floor(at.y)
    u, v = (at.x + (row % 2) * np.float32(0.5)) % 1 - 0.5, at.y % 1 - 0.5
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    shape = {
        0: radius - np.float32(look.uniform(0.15, 0.38)),
        1: np.abs(u) + np.abs(v) - np.float32(look.uniform(0.2, 0.4)),
        2: radius - np.float32(0.28) * (1 + np.float32(0.4) * np.cos(petals * theta)),
        3: np.abs(v) - np.float32(look.uniform(0.1, 0.3)),
    }[int(motif)]
    cover = at.alpha(shape)
    heart = at.alpha(radius - np.float32(0.1))
    image = mix(ground, ink, cover) if look.uniform() < 0.5 else mix(ink, ground, cover)
    image = image + (other - image) * (heart * np.float32(look.choice([0.0, 1.0])))[..., None]
    tooth = fractal(pose, size, slope=0.3, low=15)
    return surface(studio, image, tooth, depth=0.05, lines=(turn, side * size / 2))


def concrete(studio: Studio) -> Scene:
    """Cast concrete: clouds, sand, a few fine pores."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = tone(look, (0.35, 0.8), (0.02, 0.25), grey=0.6)
    cloud = fractal(pose, size, slope=1.4, low=1) * np.float32(look.uniform(0.02, 0.08))
    sand = fractal(pose, size, slope=0.1, low=30) * np.float32(look.uniform(0.01, 0.05))
    pores = np.clip((fractal(pose, size, slope=0.2, low=15, high=60) - 2.4) * 2, 0, 1) * np.float32(0.3)
    return surface(studio, colour * (1 + cloud + sand - pores)[..., None], sand * 20 - pores * 6, depth=0.12)


def rubber_mat(studio: Studio) -> Scene:
    """Raised studs or bars on a dark sheet."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = tone(look, (0.06, 0.45), (0.1, 0.6), grey=0.6)
    side, radius, bars = look.uniform(0.1, 0.4), look.uniform(0.2, 0.36), look.uniform() < 0.4
    turn = look.choice([0.0, np.pi / 4]) + studio.turn(2)
    at = frame(size, studio.shift(0.6), turn, side)
    row, column = np.floor(at.y), np.floor(at.x)
    u, v = at.x % 1 - 0.5, at.y % 1 - 0.5
    if bars:
        swap = (row + column) % 2 < 0.5
        distance = np.maximum(np.abs(np.where(swap, u, v)) - 0.4, np.abs(np.where(swap, v, u)) - 0.12)
    else:
        distance = np.hypot(u, v) - np.float32(radius)
    top = np.clip(-distance / np.float32(0.08), 0, 1)
    fine = fractal(pose, size, slope=0.4, low=12)
    height = np.sqrt(top * (2 - top)) * np.float32(side * 9) + fine * np.float32(0.06)
    albedo = colour * (0.85 + 0.25 * top + fine * 0.04)[..., None]
    return surface(studio, albedo, height, depth=1.0, gloss=0.25, lines=(turn, side * size / 2))


def crinkled_foil(studio: Studio) -> Scene:
    """Foil with a net of creases and bright facets."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = metal(look, (0.4, 0.7)) if look.uniform() < 0.6 else tone(look, (0.2, 0.8))
    folds = -np.abs(fractal(pose, size, slope=1.6, low=2, high=40)) - 0.5 * np.abs(
        fractal(pose, size, slope=1.4, low=5, high=60)
    )
    albedo = np.broadcast_to(colour, (size, size, 3)) * np.float32(0.9)
    return surface(studio, albedo, folds, depth=look.uniform(0.8, 2.5), gloss=look.uniform(0.3, 0.7))
