"""Objects of the source split: one function per product, laid on a backdrop."""

import numpy as np

from tracks.datasets.synthetic.noise import clouds, fractal
from tracks.datasets.synthetic.scene import Bench, Scene, Studio, backdrop, contrasting, metal, mix, tone
from tracks.datasets.synthetic.shapes import bevel, box, disc, frame, polygon, ring


def _finish(studio: Studio, colour: np.ndarray, strength: float = 0.03) -> np.ndarray:
    """A body colour with faint mottle over the whole picture (H, W, 3)."""
    return colour * (1 + fractal(studio.pose, studio.size, slope=1.0, low=3) * np.float32(strength))[..., None]


def washer(studio: Studio) -> Scene:
    """A flat ring, or a few concentric steps of it."""
    look, size = studio.look, studio.size
    colour, hole, radius = metal(look), look.uniform(0.3, 0.7), look.uniform(0.55, 0.9)
    turned, finish = look.uniform() < 0.5, look.uniform(0.01, 0.06)
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.08), studio.turn(180), radius)
    body = _finish(studio, colour, finish)
    if turned:
        body = body * (1 + 0.06 * np.sin(np.hypot(at.x, at.y) * np.float32(look.uniform(60, 160))))[..., None]
    bench.lay(at, ring(at, hole, 1), body, round_over=look.uniform(0.03, 0.15))
    return bench.scene()


def gear(studio: Studio) -> Scene:
    """A spur gear with a bore and, often, holes in its web."""
    look, size = studio.look, studio.size
    colour = metal(look) if look.uniform() < 0.6 else tone(look)
    teeth, tall, bore = int(look.integers(9, 30)), look.uniform(0.06, 0.16), look.uniform(0.12, 0.35)
    holes, web = int(look.choice([0, 0, 3, 4, 6])), look.uniform() < 0.5
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.06), studio.turn(180), look.uniform(0.65, 0.88))
    radius, theta = np.hypot(at.x, at.y), np.arctan2(at.y, at.x)
    flank = np.clip(np.cos(teeth * theta) * 2.2, -1, 1)
    distance = np.maximum(radius - 1 + np.float32(tall) * (1 - flank) * 0.5, np.float32(bore) - radius)
    for k in range(holes):
        turn = 2 * np.pi * k / holes
        centre = (1 - tall + bore) / 2
        distance = np.maximum(distance, -disc(at, 0.13, centre * np.cos(turn), centre * np.sin(turn)))
    height = bevel(distance, 0.05)
    if web:
        height = height - np.clip(bevel(ring(at, bore + 0.12, 0.8 - tall), 0.05), 0, 0.05)
    bench.lay(at, distance, _finish(studio, colour), height=height, gloss=look.uniform(0.1, 0.4))
    return bench.scene()


def screw(studio: Studio) -> Scene:
    """A threaded rod with a head."""
    look, size = studio.look, studio.size
    colour = metal(look)
    pitch, width, head = look.uniform(0.05, 0.11), look.uniform(0.1, 0.2), look.uniform(0.2, 0.34)
    lean = look.uniform(0, 2 * np.pi)
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.08), lean + studio.turn(12), look.uniform(0.75, 0.95))
    phase = (at.x / np.float32(pitch) + at.y / np.float32(width) * 0.25) % 1
    tooth = np.abs(phase - 0.5) * 2
    radius = np.float32(width) * (0.82 + 0.18 * tooth)
    thread = np.maximum(np.abs(at.y) - radius, np.abs(at.x - 0.12) - np.float32(0.78))
    cylinder = np.sqrt(np.maximum(radius**2 - at.y**2, 0))
    dark = colour * (0.45 + 0.55 * tooth)[..., None]
    bench.lay(at, thread, dark, height=cylinder + tooth * np.float32(width * 0.18), counts=False)
    cap = box(at, 0.11, head, 0.07, x=-0.75)
    bench.lay(at, cap, colour, height=np.sqrt(np.maximum(head**2 - at.y**2, 0)), casts=False, counts=False)
    return bench.scene()


def capsule(studio: Studio) -> Scene:
    """A two-coloured capsule with a seam and printed marks."""
    look, size = studio.look, studio.size
    first, second, ink = tone(look, (0.3, 1.0)), tone(look, (0.2, 1.0)), tone(look, (0.0, 0.3), grey=0.7)
    slim, seam, marks = look.uniform(0.3, 0.48), look.uniform(-0.15, 0.15), int(look.integers(0, 5))
    bench = Bench(studio, backdrop(studio, (first + second) / 2))
    at = frame(size, studio.shift(0.07), look.uniform(0, np.pi) + studio.turn(8), look.uniform(0.75, 0.92))
    distance = box(at, 1.0, slim, slim * 0.999)
    colour = mix(first, second, np.clip((at.x - np.float32(seam)) / np.float32(at.pixel) + 0.5, 0, 1))
    for k in range(marks):
        print_x = -0.6 + 0.3 * k
        cover = at.alpha(np.abs(box(at, 0.08, 0.12, 0.04, x=print_x)) - np.float32(0.02))
        colour = colour + (ink - colour) * cover[..., None]
    groove = np.exp(-(((at.x - np.float32(seam)) / 0.02) ** 2)) * np.float32(0.03)
    bench.lay(at, distance, colour, height=bevel(distance, slim) - groove, gloss=look.uniform(0.2, 0.7), sharpness=40)
    return bench.scene()


def bottle_cap(studio: Studio) -> Scene:
    """A cap from above: concentric rings, a knurled rim, sometimes an emblem."""
    look, size = studio.look, studio.size
    colour, knurls = tone(look, (0.1, 0.95)), int(look.integers(20, 80))
    steps = np.sort(look.uniform(0.2, 0.85, int(look.integers(1, 4))))
    emblem, corners = look.uniform() < 0.5, int(look.integers(3, 8))
    ink = contrasting(look, colour, 0.2)
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.06), studio.turn(180), look.uniform(0.65, 0.9))
    radius, theta = np.hypot(at.x, at.y), np.arctan2(at.y, at.x)
    outline = radius - 1 + 0.02 * np.cos(knurls * theta)
    height = bevel(outline, 0.1) + 0.01 * np.cos(knurls * theta) * (radius > 0.9)
    for step in steps:
        height = height + 0.03 * np.tanh((radius - np.float32(step)) / 0.015) * look.choice([-1, 1])
    body = _finish(studio, colour, 0.02)
    if emblem:
        cover = at.alpha(np.abs(polygon(at, corners, steps[0] * 0.6)) - np.float32(0.03))
        body = body + (ink - body) * cover[..., None]
    bench.lay(at, outline, body, height=height, gloss=look.uniform(0.1, 0.6))
    return bench.scene()


def coin(studio: Studio) -> Scene:
    """A struck coin: rim, beads, a head-like relief and letters."""
    look, size = studio.look, studio.size
    colour, dots = metal(look), int(look.integers(0, 60))
    figure = clouds(look, size, look.uniform(4, 8)) + 0.6 * clouds(look, size, 14)
    corners, letters = int(look.integers(5, 12)), int(look.integers(8, 24))
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.05), studio.turn(6), look.uniform(0.7, 0.9))
    radius, theta = np.hypot(at.x, at.y), np.arctan2(at.y, at.x)
    height = bevel(radius - 1, 0.04) - 0.03 * at.alpha(radius - np.float32(0.92)) * 1.0
    height = height + 0.06 * np.clip(figure, 0, 1) * at.alpha(radius - np.float32(0.55))
    height = height + 0.02 * at.alpha(np.abs(polygon(at, corners, 0.6)) - np.float32(0.015))
    band = np.exp(-(((radius - 0.77) / 0.05) ** 2))
    height = height + 0.03 * band * (np.cos(letters * theta) * np.cos(letters * 2.7 * theta) > 0.15)
    if dots:
        height = height + 0.015 * np.exp(-(((radius - 0.88) / 0.015) ** 2)) * (np.cos(dots * theta) > 0)
    bench.lay(at, radius - 1, _finish(studio, colour, 0.04), height=height, gloss=look.uniform(0.15, 0.45))
    return bench.scene()


def jar_mouth(studio: Studio) -> Scene:
    """A glass mouth from above: rings of glass with reflections around a dark inside."""
    look, pose, size = studio.look, studio.pose, studio.size
    glass = tone(look, (0.08, 0.5), (0.2, 0.8), grey=0.3)
    ground = np.full(3, look.choice([0.95, 0.9, 0.05]), np.float32) if look.uniform() < 0.7 else tone(look, (0.6, 1.0))
    bench = Bench(studio, np.broadcast_to(ground, (size, size, 3)).copy(), shadow=0.0)
    at = frame(size, studio.shift(0.03), 0.0, look.uniform(0.75, 0.95) * pose.uniform(0.98, 1.02))
    radius, theta = np.hypot(at.x, at.y), np.arctan2(at.y, at.x)
    inner, rim = look.uniform(0.35, 0.55), look.uniform(0.62, 0.78)
    level = 0.5 + 0.35 * np.cos(radius * np.float32(look.uniform(10, 26)) + look.uniform(0, 6))
    swirl = np.zeros_like(theta)
    for k in range(1, 7):
        swirl += np.cos(k * theta + np.float32(look.uniform(0, 6) + pose.uniform(-0.25, 0.25))) / np.float32(k)
    glints = np.exp(-(((radius - (rim + 0.1)) / 0.03) ** 2)) * np.clip(swirl * 0.8, 0, 1)
    glints += np.exp(-(((radius - (inner + 0.06)) / 0.02) ** 2)) * np.clip(0.5 - swirl, 0, 1) * 0.7
    lip = np.exp(-(((radius - rim) / 0.025) ** 2)) * (0.6 + 0.3 * np.clip(swirl, -1, 1))
    inside = 1 / (1 + np.exp(np.clip((radius - np.float32(inner)) / 0.012, -20, 20)))
    colour = glass * (0.6 + level + 0.15 * swirl * (radius > inner))[..., None] * (1 - 0.75 * inside)[..., None]
    colour = colour + ((glints + lip) * np.float32(look.uniform(0.3, 0.8)))[..., None]
    bench.lay(at, radius - 1, colour, height=np.zeros_like(radius), gloss=0, casts=False)
    return bench.scene()


def toothed_rack(studio: Studio) -> Scene:
    """A straight strip with teeth on one side, cut by the picture's edge."""
    look, size = studio.look, studio.size
    colour = metal(look) if look.uniform() < 0.5 else tone(look)
    pitch, tall, wide = look.uniform(0.12, 0.3), look.uniform(0.08, 0.2), look.uniform(0.25, 0.5)
    bench = Bench(studio, backdrop(studio, colour))
    turn = look.choice([0.0, np.pi / 2, np.pi, look.uniform(0, np.pi)]) + studio.turn(3)
    at = frame(size, studio.shift(0.08), turn)
    tooth = np.clip(np.sin(2 * np.pi * at.x / pitch) * 1.8, -1, 1) * np.float32(tall / 2)
    distance = np.maximum(at.y - np.float32(wide) - tooth, -np.float32(wide) - at.y)
    height = bevel(distance, 0.06) - 0.03 * at.alpha(np.abs(at.y + np.float32(wide / 3)) - 0.05)
    bench.lay(at, distance, _finish(studio, colour), height=height)
    return bench.scene(lines=(turn, pitch * size / 2))


def bracket(studio: Studio) -> Scene:
    """A stamped plate with holes and a slot."""
    look, size = studio.look, studio.size
    colour = metal(look) if look.uniform() < 0.6 else tone(look)
    wide, tall, corner = look.uniform(0.55, 0.85), look.uniform(0.35, 0.8), look.uniform(0.04, 0.25)
    holes = look.uniform(0.08, 0.16, 4)
    bench = Bench(studio, backdrop(studio, colour))
    at = frame(size, studio.shift(0.08), look.uniform(0, np.pi) + studio.turn(10), look.uniform(0.85, 1.0))
    distance = box(at, wide, tall, corner)
    for k, hole in enumerate(holes):
        x, y = (2 * (k % 2) - 1) * wide * 0.68, (2 * (k // 2) - 1) * tall * 0.6
        distance = np.maximum(distance, -disc(at, hole, x, y))
    if look.uniform() < 0.6:
        distance = np.maximum(distance, -box(at, wide * 0.35, 0.08, 0.08))
    body = _finish(studio, colour, look.uniform(0.01, 0.05))
    bench.lay(at, distance, body, round_over=look.uniform(0.02, 0.08), gloss=look.uniform(0.1, 0.5))
    return bench.scene()


def ferrite_block(studio: Studio) -> Scene:
    """A ground block that almost fills the picture: fine grain, uneven light, dark ends."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour, ground = tone(look, (0.3, 0.7), (0.0, 0.2), grey=0.8), tone(look, (0.02, 0.25), grey=0.9)
    bench = Bench(studio, np.broadcast_to(ground, (size, size, 3)).copy(), shadow=0.0)
    wide, tall = look.uniform(0.75, 1.15), look.uniform(0.8, 1.3)
    at = frame(size, studio.shift(0.06), look.choice([0.0, np.pi / 2]) + studio.turn(2))
    bow = look.uniform(-0.35, 0.35) * at.x**2 + look.uniform(-0.2, 0.2) * at.x
    stripes = fractal(pose, size, slope=0.5, low=3, stretch=look.uniform(5, 40)) * np.float32(look.uniform(0.0, 0.05))
    grain = fractal(pose, size, slope=0.2, low=20) * np.float32(look.uniform(0.01, 0.06))
    cloud = clouds(pose, size, 2) * np.float32(look.uniform(0.02, 0.12))
    body = colour * (1 + bow + stripes + grain + cloud)[..., None]
    bench.lay(at, box(at, wide, tall, 0.02), body, round_over=0.04, gloss=0.1, casts=False)
    return bench.scene()
