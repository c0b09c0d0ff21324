"""Scenes of several instances of the source split: one function per product."""

import numpy as np

from tracks.datasets.synthetic.scene import Bench, Scene, Studio, backdrop, metal, mix, scatter, tone
from tracks.datasets.synthetic.shapes import bevel, box, disc, ellipse, frame, polygon


def circuit_board(studio: Studio) -> Scene:
    """A board with tracks, chips, resistors and pads in fixed places."""
    look, size = studio.look, studio.size
    board = tone(look, (0.1, 0.5), (0.4, 0.9), grey=0.15)
    bench = Bench(studio, backdrop(studio, board))
    origin, turn = studio.shift(0.04), studio.turn(3)
    at = frame(size, origin, turn, look.uniform(0.85, 1.1))
    paths = np.zeros_like(at.x)
    for _ in range(int(look.integers(6, 14))):
        x, y, long, upright = *look.uniform(-0.8, 0.8, 2), look.uniform(0.1, 0.7), look.uniform() < 0.5
        wide, tall = (0.012, long) if upright else (long, 0.012)
        paths = np.maximum(paths, at.alpha(box(at, wide, tall, 0.01, x, y)))
    copper = board * np.float32(look.choice([0.6, 1.5])) + np.float32(0.05)
    bench.lay(at, box(at, 0.95, 0.85, 0.05), mix(board, copper, paths), round_over=0.03, gloss=0.2, counts=False)
    slots = look.permutation(20)[: int(look.integers(6, 14))]
    for slot in slots:
        x, y = (slot % 5 - 2) * 0.36, (slot // 5 - 1.5) * 0.4
        wide, tall, part = look.uniform(0.05, 0.15), look.uniform(0.05, 0.16), look.integers(0, 3)
        plastic = tone(look, (0.02, 0.9), grey=0.6)
        cos, sin = np.cos(turn), np.sin(turn)
        scale = 2 / size / at.pixel
        jitter = studio.pose.uniform(-0.008, 0.008, 2)
        px, py = (x + jitter[0]) * scale, (y + jitter[1]) * scale
        centre = (origin[0] + px * cos - py * sin, origin[1] + px * sin + py * cos)
        local = frame(size, centre, turn + studio.turn(1.5), scale, reach=0.3)
        if part == 0:
            bench.lay(local, disc(local, min(wide, tall)), plastic, round_over=0.03, casts=False)
            continue
        legs = np.maximum(box(local, wide + 0.04, tall), np.abs(local.y % 0.05 - 0.025) - np.float32(0.012))
        bench.lay(local, legs, np.full(3, 0.75, np.float32), round_over=0.02, casts=False, counts=False)
        bench.lay(local, box(local, wide, tall, 0.01), plastic, round_over=0.03, casts=False)
    return bench.scene()


def beads(studio: Studio) -> Scene:
    """Glossy balls scattered without touching."""
    look, pose, size = studio.look, studio.pose, studio.size
    colours = [tone(look, (0.15, 0.95), (0.3, 0.9), grey=0.2) for _ in range(int(look.integers(1, 4)))]
    radius, count = look.uniform(0.13, 0.24), int(look.integers(6, 14))
    bench = Bench(studio, backdrop(studio, colours[0]))
    drilled = look.uniform() < 0.5
    for k, place in enumerate(scatter(pose, 60, 0.85, count, 2.15 * radius)):
        at = frame(size, place, 0, radius, reach=1.1)
        distance = disc(at, 1)
        dome = np.sqrt(np.maximum(1 - at.x**2 - at.y**2, 0))
        bench.lay(at, distance, colours[k % len(colours)], height=dome, gloss=0.6, sharpness=50, counts=False)
        if drilled:
            bench.lay(at, disc(at, 0.2), colours[0] * np.float32(0.2), casts=False, counts=False, gloss=0)
    return bench.scene()


def hex_nuts(studio: Studio) -> Scene:
    """Hexagonal nuts in rows."""
    look, size = studio.look, studio.size
    colour, rows, columns = metal(look), int(look.integers(1, 4)), int(look.integers(2, 5))
    bench = Bench(studio, backdrop(studio, colour))
    pitch = min(1.8 / columns, 1.8 / rows)
    bore, turned, origin = look.uniform(0.4, 0.65), look.uniform(0, np.pi), studio.shift(0.05)
    for k in range(rows * columns):
        x = (k % columns - (columns - 1) / 2) * pitch + origin[0] + studio.pose.uniform(-0.02, 0.02)
        y = (k // columns - (rows - 1) / 2) * pitch + origin[1] + studio.pose.uniform(-0.02, 0.02)
        at = frame(size, (x, y), turned + studio.turn(10), pitch * 0.38, reach=1.25)
        distance = np.maximum(polygon(at, 6, 1), np.float32(bore) - np.hypot(at.x, at.y))
        height = bevel(np.maximum(distance, np.hypot(at.x, at.y) - np.float32(1.08)), 0.15)
        bench.lay(at, distance, colour, height=height, gloss=0.35)
    return bench.scene()


def tablets(studio: Studio) -> Scene:
    """Round or oval tablets in rows, scored or printed."""
    look, size = studio.look, studio.size
    colour = tone(look, (0.3, 1.0), (0.1, 0.7), grey=0.3)
    rows, columns = int(look.integers(2, 5)), int(look.integers(2, 5))
    oval, scored, gap = look.uniform(0.5, 1.0), look.uniform() < 0.6, look.uniform(0.33, 0.44)
    bench = Bench(studio, backdrop(studio, colour))
    pitch, origin = 1.9 / max(rows, columns), studio.shift(0.04)
    for k in range(rows * columns):
        x = (k % columns - (columns - 1) / 2) * pitch + origin[0] + studio.pose.uniform(-0.015, 0.015)
        y = (k // columns - (rows - 1) / 2) * pitch + origin[1] + studio.pose.uniform(-0.015, 0.015)
        at = frame(size, (x, y), studio.turn(8), pitch * gap, reach=1.1)
        distance = ellipse(at, 1, oval)
        height = bevel(distance, 0.35)
        if scored:
            height = height - 0.12 * np.exp(-((at.x / 0.06) ** 2))
        bench.lay(at, distance, colour, height=height, gloss=0.15)
    return bench.scene()
