"""Products of the validation split: two surfaces, an object and a scene of several instances."""

import numpy as np

from tracks.datasets.synthetic.noise import cells, clouds, enlarge, fractal
from tracks.datasets.synthetic.scene import Bench, Scene, Studio, backdrop, contrasting, surface, tone
from tracks.datasets.synthetic.shapes import bevel, box, disc, frame


def cork(studio: Studio) -> Scene:
    """Pressed cork: granules of slightly different browns, dark seams."""
    look, pose, size = studio.look, studio.pose, studio.size
    base = np.array([1.0, look.uniform(0.68, 0.82), look.uniform(0.4, 0.62)], np.float32) * look.uniform(0.5, 0.9)
    near, second, index = cells(pose, size, int(look.uniform(250, 900)))
    level = pose.uniform(0.82, 1.08, index.max() + 1).astype(np.float32)[index]
    seam = np.clip((second - near) * 5, 0, 1)
    field = enlarge(level * (0.75 + 0.25 * seam), size)
    speck = np.clip(fractal(pose, size, slope=0.2, low=10, high=50) - 1.9, 0, 1) * np.float32(0.4)
    albedo = base * (field - speck)[..., None]
    return surface(studio, albedo, field * 8 + fractal(pose, size, slope=0.4, low=15) * 0.4, depth=0.25)


def cardboard(studio: Studio) -> Scene:
    """Corrugated board: faint regular flutes under a fibrous liner."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = np.array([1.0, look.uniform(0.75, 0.95), look.uniform(0.5, 0.9)], np.float32) * look.uniform(0.5, 0.95)
    period = look.uniform(0.06, 0.16)
    turn = look.choice([0.0, np.pi / 2]) + studio.turn(2)
    at = frame(size, studio.shift(0.5), turn, period)
    flute = np.sin(2 * np.pi * (at.y + clouds(pose, size, 3) * np.float32(0.08)))
    fibre = fractal(pose, size, slope=0.5, low=10, stretch=5, angle=turn)
    albedo = colour * (1 + 0.03 * flute + 0.015 * fibre + 0.02 * clouds(pose, size, 4))[..., None]
    return surface(studio, albedo, flute, depth=period * 5, lines=(turn + np.pi / 2, period * size / 2))


def shirt_button(studio: Studio) -> Scene:
    """A button with four holes and a raised edge."""
    look, size = studio.look, studio.size
    colour = tone(look, (0.1, 1.0), (0.1, 0.8))
    spread, hole, brim = look.uniform(0.16, 0.24), look.uniform(0.06, 0.1), look.uniform(0.6, 0.8)
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.06), studio.turn(180), look.uniform(0.6, 0.88))
    radius = np.hypot(at.x, at.y)
    distance = radius - 1
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        distance = np.maximum(distance, -disc(at, hole, x * spread, y * spread))
    height = bevel(distance, 0.08) + 0.06 * np.tanh((radius - np.float32(brim)) / 0.04)
    marble = fractal(studio.pose, size, slope=1.6, low=1, stretch=3) * np.float32(look.uniform(0.0, 0.07))
    bench.lay(at, distance, colour * (1 + marble)[..., None], height=height, gloss=0.4, sharpness=30)
    return bench.scene()


def dominoes(studio: Studio) -> Scene:
    """Dominoes side by side, each with its own pips."""
    look, size = studio.look, studio.size
    colour = tone(look, (0.05, 1.0), (0.05, 0.5), grey=0.5)
    ink = contrasting(look, colour, 0.4)
    count, pips = int(look.integers(3, 6)), look.integers(1, 6, (6, 2))
    bench = Bench(studio, backdrop(studio, colour))
    pitch, origin = 1.8 / count, studio.shift(0.05)
    spots = {1: (0,), 2: (-1, 1), 3: (-1, 0, 1), 4: (-1, 1), 5: (-1, 0, 1)}
    for k in range(count):
        place = ((k - (count - 1) / 2) * pitch + origin[0], origin[1] + studio.pose.uniform(-0.03, 0.03))
        at = frame(size, place, studio.turn(2.5), pitch * 0.42, reach=3.0)
        long = min(2.0, 0.8 / (pitch * 0.42))
        body = np.broadcast_to(colour, (*at.x.shape, 3)).copy()
        dark = at.alpha(np.maximum(np.abs(at.y) - 0.04, np.abs(at.x) - 0.7))
        for half in (0, 1):
            number = int(pips[k, half])
            middle = (2 * half - 1) * long / 2
            for step in spots[number]:
                columns = (-1, 1) if number >= 4 and step != 0 else (step if number < 4 else 0,)
                for column in columns:
                    dark = np.maximum(dark, at.alpha(disc(at, 0.15, 0.5 * column, middle + 0.28 * long * step)))
        body += (ink - body) * dark[..., None]
        bench.lay(at, box(at, 1, long, 0.2), body, round_over=0.15, gloss=0.3)
    return bench.scene()
