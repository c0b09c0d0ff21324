"""Products of the target split: four surfaces, two objects, two scenes of several instances."""

import numpy as np

from tracks.datasets.synthetic.noise import clouds, enlarge, fractal
from tracks.datasets.synthetic.scene import (
    Bench,
    Scene,
    Studio,
    backdrop,
    contrasting,
    metal,
    mix,
    scatter,
    surface,
    tone,
)
from tracks.datasets.synthetic.shapes import bevel, box, disc, frame, ring


def denim(studio: Studio) -> Scene:
    """Twill with diagonal ribs of dyed warp over pale weft."""
    look, pose, size = studio.look, studio.pose, studio.size
    dye, pale = tone(look, (0.2, 0.6), (0.4, 0.8), grey=0.1), tone(look, (0.65, 0.95), (0.0, 0.2))
    period = look.uniform(0.02, 0.04)
    turn = studio.turn(3)
    at = frame(size, studio.shift(0.5), turn, period)
    slub = fractal(pose, size, slope=0.7, low=3, stretch=25, angle=np.pi / 2 + turn)
    u, v = at.x + 0.1 * clouds(pose, size, 5), at.y
    rib = 0.5 + 0.5 * np.cos(2 * np.pi * (u + v) / 3)
    yarn = 0.5 + 0.5 * np.cos(2 * np.pi * u)
    share = np.clip(0.65 - 0.75 * rib, 0, 1) * 0.8 + 0.06 * slub
    fuzz = fractal(pose, size, slope=0.3, low=25) * np.float32(0.05)
    albedo = mix(dye, pale, np.clip(share, 0, 1)) * (0.75 + 0.25 * yarn + fuzz + 0.03 * slub)[..., None]
    return surface(studio, albedo, rib + 0.5 * yarn, depth=0.5, lines=(turn, period * size / 2))


def marble(studio: Studio) -> Scene:
    """Polished stone with drifting clouds and veins of several widths."""
    look, pose, size = studio.look, studio.pose, studio.size
    ground = tone(look, (0.1, 0.95), (0.02, 0.3), grey=0.5)
    vein = contrasting(look, ground, 0.15, grey=0.7)
    angle, width = look.uniform(0, np.pi), look.uniform(0.04, 0.12)
    drift = fractal(pose, size, slope=1.9, low=1, stretch=3, angle=angle)
    fine = fractal(pose, size, slope=1.6, low=2, stretch=2, angle=angle)
    share = 0.45 * np.exp(-np.abs(drift) / np.float32(width)) + 0.25 * np.exp(-np.abs(fine) / np.float32(width / 2))
    cloud = fractal(pose, size, slope=1.5, low=1) * np.float32(0.05)
    albedo = mix(ground, vein, share) * (1 + cloud)[..., None]
    return surface(studio, albedo, fine, depth=0.01)


def perforated_sheet(studio: Studio) -> Scene:
    """Sheet metal with staggered round holes."""
    look, pose, size = studio.look, studio.pose, studio.size
    sheet = metal(look, (0.35, 0.85))
    beneath = contrasting(look, sheet, 0.3, grey=0.8)
    pitch, radius, stagger = look.uniform(0.14, 0.26), look.uniform(0.24, 0.34), look.uniform() < 0.6
    turn = studio.turn(2)
    at = frame(size, studio.shift(0.5), turn, pitch)
    row = np.floor(at.y)
    u = (at.x + (row % 2) * np.float32(0.5 if stagger else 0.0)) % 1 - 0.5
    distance = np.hypot(u, at.y % 1 - 0.5) - np.float32(radius)
    hole = at.alpha(distance)
    brushed = fractal(pose, size, slope=0.5, low=4, stretch=30) * np.float32(0.03)
    shade = np.clip(0.7 - 0.8 * distance, 0.5, 1)
    albedo = sheet * (1 + brushed)[..., None] * (1 - hole)[..., None] + beneath * (shade * hole)[..., None]
    lip = np.clip(distance / np.float32(0.1), 0, 1)
    return surface(studio, albedo, lip, depth=1.2, gloss=0.2, lines=(turn, pitch * size / 2))


def plaster(studio: Studio) -> Scene:
    """Trowelled plaster: broad strokes and sand."""
    look, pose, size = studio.look, studio.pose, studio.size
    colour = tone(look, (0.4, 0.95), (0.03, 0.45), grey=0.3)
    angle, stroke = look.uniform(0, np.pi), look.uniform(0.2, 0.8)
    first = fractal(pose, size, slope=0.9, low=3, high=40, stretch=6, angle=angle)
    second = fractal(pose, size, slope=0.9, low=3, high=40, stretch=6, angle=angle + 1.1)
    sand = fractal(pose, size, slope=0.1, low=30)
    height = np.maximum(first, second) * np.float32(stroke) + sand * np.float32(0.12)
    return surface(studio, colour * (1 + 0.02 * sand + 0.03 * clouds(pose, size, 3))[..., None], height, depth=0.8)


def ball_bearing(studio: Studio) -> Scene:
    """Two races with a ring of balls between them."""
    look, size = studio.look, studio.size
    steel, ball_colour = metal(look, (0.5, 0.8)), metal(look, (0.5, 0.95))
    count, bore = int(look.integers(8, 15)), look.uniform(0.3, 0.42)
    bench = Bench(studio, backdrop(studio, steel))
    origin, scale, spin = studio.shift(0.05), look.uniform(0.75, 0.9), studio.turn(180)
    at = frame(size, origin, spin, scale)
    track = (bore + 0.98) / 2
    half = (1 - bore) * 0.2
    turning = 1 + 0.03 * np.sin(np.hypot(at.x, at.y) * 120)
    bench.lay(at, ring(at, bore, 1), steel * np.float32(0.35), gloss=0.1, counts=False)
    bench.lay(at, ring(at, track + half, 1), steel * turning[..., None], round_over=0.06, casts=False, counts=False)
    bench.lay(at, ring(at, bore, track - half), steel * turning[..., None], round_over=0.06, casts=False, counts=False)
    ball = min(half * 1.15, track * np.pi / count * 0.9)
    for k in range(count):
        angle = 2 * np.pi * k / count + spin
        place = (origin[0] + track * scale * np.cos(angle), origin[1] + track * scale * np.sin(angle))
        local = frame(size, place, 0, ball * scale, reach=1.1)
        dome = np.sqrt(np.maximum(1 - local.x**2 - local.y**2, 0))
        bench.lay(local, disc(local, 1), ball_colour, height=dome, gloss=0.6, sharpness=40, casts=False)
    return bench.scene()


def battery(studio: Studio) -> Scene:
    """A round cell lying: a printed sleeve, a metal end with a cap."""
    look, size = studio.look, studio.size
    sleeve, steel = tone(look, (0.1, 0.9), (0.3, 0.9), grey=0.15), metal(look)
    ink, band = contrasting(look, sleeve, 0.25), contrasting(look, sleeve, 0.15)
    radius, lean, split = look.uniform(0.25, 0.36), look.uniform(0, np.pi), look.uniform(-0.2, 0.4)
    bench = Bench(studio, backdrop(studio, sleeve))
    at = frame(size, studio.shift(0.06), lean + studio.turn(6), look.uniform(0.85, 0.95))
    cylinder = np.sqrt(np.maximum(radius**2 - at.y**2, 0))
    knob = box(at, 0.12, radius * 0.38, 0.02, x=0.86)
    bench.lay(at, knob, steel, height=np.sqrt(np.maximum((radius * 0.38) ** 2 - at.y**2, 0)), counts=False)
    colour = mix(sleeve, band, np.clip((at.x - np.float32(split)) / np.float32(at.pixel) + 0.5, 0, 1))
    for k in range(5):
        wide, x = look.uniform(0.02, 0.08), -0.55 + 0.14 * k
        cover = at.alpha(box(at, wide * 0.6, look.uniform(0.05, 0.12), 0.01, x=x))
        colour = colour + (ink - colour) * cover[..., None]
    plus = np.minimum(box(at, 0.07, 0.02, x=0.6), box(at, 0.02, 0.07, x=0.6))
    colour = colour + (ink - colour) * at.alpha(plus)[..., None]
    ends = np.clip((np.abs(at.x + 0.05) - np.float32(0.79)) / np.float32(at.pixel) + 0.5, 0, 1)
    colour = colour + (steel - colour) * ends[..., None]
    shape = box(at, 0.85, radius, 0.04, x=-0.05)
    bench.lay(at, shape, colour, height=cylinder, gloss=0.5, sharpness=30)
    return bench.scene()


def candles(studio: Studio) -> Scene:
    """Round wax candles from above, in a two by two tray, each with a wick and a foil cup."""
    look, pose, size = studio.look, studio.pose, studio.size
    wax, foil = tone(look, (0.55, 1.0), (0.05, 0.7), grey=0.3), metal(look, (0.6, 0.9))
    bench = Bench(studio, backdrop(studio, wax))
    origin, scale = studio.shift(0.05), look.uniform(0.36, 0.42)
    for k in range(4):
        place = (origin[0] + (k % 2 - 0.5) * 0.92, origin[1] + (k // 2 - 0.5) * 0.92)
        place = (place[0] + pose.uniform(-0.02, 0.02), place[1] + pose.uniform(-0.02, 0.02))
        at = frame(size, place, studio.turn(180), scale, reach=1.15)
        radius = np.hypot(at.x, at.y)
        cloudy = enlarge(clouds(pose, 48, 3), max(radius.shape))[: radius.shape[0], : radius.shape[1]]
        body = wax * (1 + 0.03 * cloudy)[..., None]
        cup = at.alpha(np.float32(0.9) - radius)
        body = body + (foil - body) * cup[..., None]
        height = (
            bevel(radius - 1, 0.06) - 0.05 * at.alpha(radius - np.float32(0.9)) - 0.05 * np.exp(-((radius / 0.2) ** 2))
        )
        bench.lay(at, radius - 1, body, height=height, gloss=0.3)
        wick = box(at, 0.12, 0.035, 0.03)
        bench.lay(at, wick, wax * np.float32(0.25), round_over=0.03, gloss=0, casts=False, counts=False)
    return bench.scene()


def almonds(studio: Studio) -> Scene:
    """Almonds scattered in no order: pointed ovals with a ribbed skin."""
    look, pose, size = studio.look, studio.pose, studio.size
    skin = np.array([1.0, look.uniform(0.55, 0.75), look.uniform(0.3, 0.5)], np.float32) * look.uniform(0.45, 0.9)
    bench = Bench(studio, backdrop(studio, skin))
    scale, wanted = look.uniform(0.2, 0.27), int(look.integers(6, 10))
    for place in scatter(pose, 80, 0.8, wanted, 1.75 * scale):
        turn, own = pose.uniform(0, 2 * np.pi), scale * pose.uniform(0.9, 1.05)
        at = frame(size, place, turn, own, reach=1.1)
        half = 0.52 * np.sqrt(np.maximum(1 - at.x**2, 0)) * (1 - 0.3 * at.x)
        distance = np.abs(at.y) - half
        ribs = np.sin(at.y / np.maximum(half, 0.05) * pose.uniform(9, 12) + pose.uniform(0, 6))
        shade = 1 + 0.06 * ribs + pose.uniform(-0.06, 0.06)
        height = np.sqrt(np.maximum(half**2 - at.y**2, 0)) * 0.8 + 0.01 * ribs
        bench.lay(at, distance * 0.8, skin * shade[..., None], height=height, gloss=0.15, counts=False)
    return bench.scene()
