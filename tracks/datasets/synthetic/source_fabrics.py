"""Fabrics and hides of the source split: one function per product, each fills the picture."""

import numpy as np

from tracks.datasets.synthetic.noise import cells, clouds, enlarge, fractal
from tracks.datasets.synthetic.scene import Scene, Studio, mix, surface, tone
from tracks.datasets.synthetic.shapes import frame


def woven_fabric(studio: Studio) -> Scene:
    """Plain weave: warp and weft threads over and under each other."""
    look, pose, size = studio.look, studio.pose, studio.size
    period, lean, thickness = look.uniform(0.03, 0.12), look.uniform(0, np.pi), look.uniform(0.6, 0.95)
    warp, weft = tone(look), tone(look)
    if look.uniform() < 0.5:
        weft = warp * np.float32(look.uniform(0.8, 1.2))
    wave = clouds(pose, size, 6) * np.float32(look.uniform(0.05, 0.25))
    turn = lean + studio.turn(3)
    at = frame(size, studio.shift(0.5), turn, period)
    u, v = at.x + wave, at.y + wave.T
    over = (np.floor(u) + np.floor(v)) % 2 < 0.5
    across, along = np.where(over, u % 1, v % 1) - 0.5, np.where(over, v % 1, u % 1) - 0.5
    height = np.cos(np.pi * across * np.float32(1 / thickness)) * np.cos(np.pi * along * 0.8)
    height = np.maximum(height, 0)
    fuzz = fractal(pose, size, slope=0.2, low=20) * np.float32(0.04)
    albedo = np.where(over[..., None], warp, weft) * (0.45 + 0.55 * height + fuzz)[..., None]
    return surface(studio, albedo, height, depth=period * 20, lines=(turn, period * size / 2))


def leather(studio: Studio) -> Scene:
    """Grained hide: small cushions between creases."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = tone(look, (0.1, 0.8), (0.2, 0.75), grey=0.25)
    count, depth, gloss = int(look.uniform(300, 2200)), look.uniform(0.4, 1.6), look.uniform(0.0, 0.35)
    near, second, _ = cells(pose, size, count, look.uniform(0.7, 1.4))
    cushion = enlarge(np.minimum((second - near) * 2.5, 1), size)
    fine = fractal(pose, size, slope=0.8, low=20)
    height = cushion * 1.5 + fine * np.float32(0.35)
    albedo = colour * (0.72 + 0.28 * cushion + fine * 0.03 + clouds(pose, size, 3) * 0.04)[..., None]
    return surface(studio, albedo, height, depth=depth, gloss=gloss)


def carpet(studio: Studio) -> Scene:
    """Tufts of pile, flecked with a second colour."""
    look, pose, size = studio.look, studio.pose, studio.size
    first, second = tone(look, grey=0.4), tone(look, grey=0.4)
    if look.uniform() < 0.6:
        second = first * np.float32(look.uniform(0.5, 1.3))
    tuft = look.uniform(18, 60)
    pile = fractal(pose, size, slope=0.3, low=tuft * 0.5, high=tuft)
    fleck = fractal(pose, size, slope=0.3, low=tuft * 0.2, high=tuft * 0.8)
    albedo = mix(first, second, np.clip(fleck * 1.5, 0, 1)) * (0.85 + 0.13 * pile)[..., None]
    return surface(studio, albedo, pile, depth=18 / tuft)


def knitted(studio: Studio) -> Scene:
    """Stockinette: columns of V-shaped stitches."""
    look, pose, size = studio.look, studio.pose, studio.size
    wool, stripe = tone(look, grey=0.2), tone(look)
    period, steep = look.uniform(0.05, 0.16), look.uniform(0.8, 1.4)
    striped = look.uniform() < 0.35
    turn = studio.turn(4)
    at = frame(size, studio.shift(0.6), turn, period)
    wave = clouds(pose, size, 4) * np.float32(0.2)
    u, v = at.x + wave, at.y * np.float32(1.3) - wave
    side = np.abs(u % 1 - 0.5) * 2
    loop = (v + side * np.float32(steep)) % 1
    body = np.sin(np.pi * loop) * np.sqrt(np.maximum(np.sin(np.pi * np.clip(side, 0.02, 0.98)), 0))
    fuzz = fractal(pose, size, slope=0.2, low=25) * np.float32(0.05)
    rows = np.floor((v + side * np.float32(steep)) / 6) % 2 * np.float32(striped)
    albedo = mix(wool, stripe, rows) * (0.35 + 0.65 * body + fuzz)[..., None]
    return surface(studio, albedo, body, depth=period * 22, lines=(turn, period * size / 2))


def corduroy(studio: Studio) -> Scene:
    """Ribs of pile side by side."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour, period = tone(look, grey=0.25), look.uniform(0.05, 0.2)
    turn = look.choice([0.0, np.pi / 2, np.pi / 4]) + studio.turn(3)
    at = frame(size, studio.shift(0.6), turn, period)
    wave = clouds(pose, size, 4) * np.float32(0.12)
    rib = np.abs(np.cos(np.pi * (at.x + wave)))
    pile = fractal(pose, size, slope=0.3, low=15)
    albedo = colour * (0.4 + 0.6 * np.sqrt(rib) + pile * 0.05)[..., None]
    return surface(studio, albedo, np.sqrt(rib), depth=period * 25, lines=(turn, period * size / 2))
