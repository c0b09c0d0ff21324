"""Products that exist nowhere: each look invents its own material, pattern, outline and parts; one function per kind.

Where the other products vary one recipe, these draw the recipe itself, so that what is learnt on them holds for
products never seen.
"""

import numpy as np

from tracks.datasets.synthetic.invented_materials import colours_of, lamplight, layer, material, waves
from tracks.datasets.synthetic.noise import Field
from tracks.datasets.synthetic.scene import (
    Bench,
    Scene,
    Studio,
    backdrop,
    mix,
    scatter,
    surface,
)
from tracks.datasets.synthetic.shapes import Frame, bevel, frame


def coated_sheet(studio: Studio) -> Scene:
    """A sheet of an invented material, flat or rough."""
    look, pose, size = studio.look, studio.pose, studio.size
    albedo = material(look, pose, size, colours_of(look, 1)[0])
    if look.uniform() < 0.35:
        (second,) = colours_of(look, 2)[1:]
        share = np.clip(layer(look, pose, size) * np.float32(look.uniform(0.2, 1.5)) + np.float32(look.normal()), 0, 1)
        albedo = mix(albedo, second, share)
    rough = layer(look, pose, size)
    return surface(studio, albedo, rough, depth=float(look.uniform(0, 1) ** 3 * 2.5), gloss=look.uniform(0, 0.5))


def patterned_sheet(studio: Studio) -> Scene:
    """A sheet with an invented repeat, printed or embossed, over an invented material."""
    look, pose, size = studio.look, studio.pose, studio.size
    colours = colours_of(look, 3)
    albedo = material(look, pose, size, colours[0])
    side, turn = float(np.exp(look.uniform(np.log(0.05), np.log(0.5)))), look.uniform(0, np.pi) + studio.turn(3)
    height = layer(look, pose, size) * np.float32(look.uniform(0, 0.3))
    for colour in colours[1 : int(look.integers(2, 4))]:
        at = frame(size, studio.shift(0.6), turn, side)
        share = waves(look, at) * np.float32(0.5) + np.float32(0.5)
        if look.uniform() < 0.7:
            albedo = mix(albedo, colour, share * np.float32(look.uniform(0.15, 1)))
        else:
            height = height + share * np.float32(side * look.uniform(2, 12))
        side, turn = side * look.uniform(0.5, 2), turn + look.choice([0, np.pi / 4, np.pi / 2])
    lines = (turn, side * size / 2)
    return surface(studio, albedo, height, depth=look.uniform(0.2, 1), gloss=look.uniform(0, 0.4), lines=lines)


def lit_panel(studio: Studio) -> Scene:
    """A nearly plain panel under uneven light, often with a dark margin or a frame."""
    look, pose, size = studio.look, studio.pose, studio.size
    albedo = material(look, pose, size, colours_of(look, 1)[0] * np.float32(0.9))
    grain = layer(look, pose, size)
    scene = surface(studio, albedo, grain, depth=look.uniform(0, 0.3), gloss=look.uniform(0, 0.2))
    image = scene.image * lamplight(look, pose, size)[..., None]
    foreground = scene.foreground
    for side in range(4):
        if look.uniform() < 0.22:
            width, dark = look.uniform(0.02, 0.3) + pose.normal(0, 0.02), np.float32(look.uniform(0, 0.5))
            turned = np.rot90(image, side)
            margin = max(int(width * size), 1)
            band: np.ndarray = np.ones(size, np.float32)
            band[:margin] = dark
            soft = max(int(look.integers(1, 9)), 1)
            band = np.convolve(np.pad(band, soft, mode="edge"), np.ones(2 * soft + 1) / (2 * soft + 1), "valid")
            image = np.rot90(turned * band[:, None, None].astype(np.float32), -side)
            cover = np.rot90(foreground, side).copy()
            cover[: margin + soft] = 0
            foreground = np.ascontiguousarray(np.rot90(cover, -side))
    if foreground.mean() < 0.3:
        foreground = scene.foreground
    image = np.ascontiguousarray(image, dtype=np.float32)
    return Scene(image, foreground, scene.light)


def _outline(look: np.random.Generator, at: Frame) -> Field:
    """Signed distance to an invented outline: a rounded star of random harmonics, about 1 in radius."""
    theta, radius = np.arctan2(at.y, at.x), np.hypot(at.x, at.y)
    reach = np.ones_like(radius)
    order = int(look.choice([1, 2, 2, 3, 4, 5, 6, 8, 12]))
    for k in range(1, 4):
        amount = look.normal(0, 0.16 / k)
        reach = reach + np.float32(amount) * np.cos(np.float32(order * k) * theta + np.float32(look.uniform(0, 6.28)))
    square = np.float32(look.choice([2.0, 2.0, 4.0, 8.0]))
    slim = np.float32(look.uniform(0.35, 1.0) if look.uniform() < 0.6 else 1.0)
    norm = (np.abs(at.x) ** square + np.abs(at.y / slim) ** square) ** (1 / square)
    return ((norm - reach) * np.sqrt(slim)).astype(np.float32)


def _rings(look: np.random.Generator, radius: Field, colours: list[np.ndarray]) -> tuple[np.ndarray, Field]:
    """Colour (h, w, 3) and height of a random profile over a distance in [0, 1.2]."""
    steps = np.sort(look.uniform(0.05, 1.1, int(look.integers(2, 8))))
    zone = np.searchsorted(steps, radius)
    palette = np.stack(
        [colours[int(look.integers(len(colours)))] * look.uniform(0.6, 1.15) for _ in range(len(steps) + 1)]
    )
    levels = np.cumsum(look.normal(0, 0.12, len(steps) + 1)).astype(np.float32)
    soft = np.float32(look.uniform(0.01, 0.08))
    height = np.zeros_like(radius)
    for step, rise in zip(steps, np.diff(levels), strict=True):
        height = height + np.float32(rise) / (1 + np.exp(-np.clip((radius - np.float32(step)) / soft, -30, 30)))
    return palette[zone].astype(np.float32), height


def turned_part(studio: Studio) -> Scene:
    """A round part seen from above: an invented profile of rings, some with teeth, spokes or holes."""
    look, pose, size = studio.look, studio.pose, studio.size
    colours = colours_of(look, 3)
    bench = Bench(studio, backdrop(studio, colours[0], look.uniform(0.05, 0.3)))
    at = frame(
        size, studio.shift(0.05), look.uniform(0, np.pi) + studio.turn(look.choice([2, 180])), look.uniform(0.7, 1.05)
    )
    theta, radius = np.arctan2(at.y, at.x), np.hypot(at.x, at.y)
    order = int(look.integers(3, 40))
    ripple = np.cos(np.float32(order) * theta) * np.float32(look.choice([0, 0, 0.02, 0.05]))
    body, height = _rings(look, radius + ripple, colours)
    body = body * (material(look, pose, size, np.ones(3, np.float32)))
    distance = radius - 0.97 + ripple * np.float32(look.choice([0, 1]))
    if look.uniform() < 0.3:
        distance = np.maximum(distance, np.float32(look.uniform(0.1, 0.5)) - radius)
    if look.uniform() < 0.3:
        spots = int(look.integers(3, 9))
        fold = (theta * spots / (2 * np.pi)) % 1 - 0.5
        middle = np.float32(look.uniform(0.35, 0.8))
        hole = np.hypot(radius - middle, fold * 2 * np.pi / spots * middle) - np.float32(look.uniform(0.04, 0.14))
        body = mix(body, colours[1] * np.float32(0.25), at.alpha(hole))
    bench.lay(
        at,
        distance,
        body,
        height=height + bevel(distance, 0.06),
        gloss=look.uniform(0, 0.5),
        sharpness=look.uniform(5, 40),
    )
    scene = bench.scene()
    return _shone(scene, lamplight(look, pose, size)) if look.uniform() < 0.3 else scene


def moulded_part(studio: Studio) -> Scene:
    """A part of an invented outline with ribs, windows and bosses, of an invented material."""
    look, pose, size = studio.look, studio.pose, studio.size
    colours = colours_of(look, 3)
    bench = Bench(studio, backdrop(studio, colours[0], look.uniform(0.05, 0.3)))
    scale = look.uniform(0.45, 0.9)
    at = frame(size, studio.shift(0.06), look.uniform(0, 2 * np.pi) + studio.turn(look.choice([3, 10, 180])), scale)
    distance = _outline(look, at)
    body = material(look, pose, size, colours[0])
    height = bevel(distance, look.uniform(0.04, 0.3))
    for colour in colours[1 : int(look.integers(1, 4))]:
        inner = _outline(look, frame(size, (0.0, 0.0), 0.0, 1.0)) if look.uniform() < 0.1 else None
        x, y, r = *look.uniform(-0.45, 0.45, 2), look.uniform(0.08, 0.4)
        local = Frame(
            (at.x - np.float32(x)) / np.float32(r), (at.y - np.float32(y)) / np.float32(r), at.pixel / r, at.window
        )
        part = _outline(look, local) if inner is None else inner
        cover = local.alpha(part)
        body = mix(body, colour, cover * np.float32(look.uniform(0.3, 1)))
        height = height + cover * np.float32(look.normal(0, 0.08))
    if look.uniform() < 0.35:
        local = Frame(at.x * np.float32(6), at.y * np.float32(6), at.pixel * 6, at.window)
        body = body * (1 + np.float32(look.uniform(0.05, 0.3)) * waves(look, local)[..., None])
    bench.lay(
        at, distance, np.clip(body, 0, 1.1), height=height, gloss=look.uniform(0, 0.5), sharpness=look.uniform(5, 40)
    )
    scene = bench.scene()
    return _shone(scene, lamplight(look, pose, size)) if look.uniform() < 0.3 else scene


def _shone(scene: Scene, light: Field) -> Scene:
    """The scene under uneven light."""
    background = None if scene.background is None else scene.background * light[..., None]
    image = scene.image * light[..., None]
    return Scene(image, scene.foreground, scene.light, background, scene.instances, scene.lines)


def _placed(studio: Studio, arranged: bool) -> Scene:
    """Several bodies of one to three invented kinds, in rows or scattered."""
    look, pose, size = studio.look, studio.pose, studio.size
    colours = colours_of(look, 3)
    bench = Bench(studio, backdrop(studio, colours[0], look.uniform(0.08, 0.3)))
    kinds = [int(seed) for seed in look.integers(2**31, size=int(look.integers(1, 4)))]
    rows, columns = int(look.integers(2, 5)), int(look.integers(2, 5))
    pitch = 1.85 / max(rows, columns)
    radius = pitch * look.uniform(0.3, 0.42)
    origin, free = studio.shift(0.05), studio.turn(180) if look.uniform() < 0.2 else 0.0
    spots = [
        ((k % columns - (columns - 1) / 2) * pitch, (k // columns - (rows - 1) / 2) * pitch)
        for k in range(rows * columns)
    ]
    if not arranged:
        radius = look.uniform(0.12, 0.24)
        spots = scatter(pose, 50, 0.85, 12, 2.3 * radius)
    gloss, rounding = look.uniform(0, 0.5), look.uniform(0.05, 0.4)
    for k, (x, y) in enumerate(spots):
        which = k % len(kinds) if arranged else int(pose.integers(len(kinds)))
        shape = np.random.default_rng(kinds[which])  # the same body wherever the kind is laid
        jitter = pose.uniform(-0.015, 0.015, 2)
        turn = studio.turn(8) + free if arranged else studio.turn(180)
        at = frame(size, (float(x + origin[0] + jitter[0]), float(y + origin[1] + jitter[1])), turn, radius, reach=1.6)
        distance = _outline(shape, at)
        colour, _ = _rings(shape, np.hypot(at.x, at.y), [colours[which % 3], colours[(which + 1) % 3]])
        bench.lay(at, distance, colour, round_over=rounding, gloss=gloss)
    return bench.scene()


def part_tray(studio: Studio) -> Scene:
    """Invented parts in rows, each in its place."""
    return _placed(studio, arranged=True)


def loose_parts(studio: Studio) -> Scene:
    """Invented parts scattered without touching."""
    return _placed(studio, arranged=False)
