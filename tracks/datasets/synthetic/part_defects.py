"""Defects of structure: pieces moved, missing, added or made of something else; each returns the picture (H, W, 3)."""

import numpy as np
import PIL.Image
from scipy.ndimage import map_coordinates

from tracks.datasets.synthetic.defect_shapes import (
    Stroke,
    blob,
    curve,
    lines,
    noise_patch,
    place,
    polygon_patch,
    rolled,
    shard,
    window_of,
)
from tracks.datasets.synthetic.noise import Field, brightest, cells, clouds, enlarge, fractal, smooth
from tracks.datasets.synthetic.scene import Instance, mix, tone
from tracks.datasets.synthetic.shapes import box, frame, relief
from tracks.datasets.synthetic.surface_defects import blend


def cut_and_paste(stroke: Stroke) -> np.ndarray:
    """A piece of the same picture from elsewhere, turned and recoloured a little: rectangle, blob or thin scar."""
    rng, size = stroke.rng, stroke.size
    kind = rng.uniform()
    if kind < 0.4:
        alpha = blob(stroke, rng.choice([0.0, 0.3]), 0.3)
    else:
        slim = rng.uniform(0.4, 1.0) if kind < 0.75 else rng.uniform(0.04, 0.15)
        half = np.sqrt(stroke.area / slim)
        at = frame(size, place(stroke), rng.uniform(0, np.pi))
        alpha = at.alpha(box(at, half, half * slim))
    picture = PIL.Image.fromarray((np.clip(stroke.scene.image, 0, 1) * 255).astype(np.uint8))
    turned = np.asarray(picture.rotate(float(rng.uniform(20, 340)), PIL.Image.Resampling.BILINEAR), np.float32) / 255
    shift = rng.integers(size // 8, size - size // 8, 2) - size // 2
    window = np.roll(turned, tuple(int(v) for v in shift), (0, 1))
    corner = (brightest(window) == 0) & (brightest(stroke.scene.image) > 0)
    window = np.where(corner[..., None], stroke.scene.image.mean(axis=(0, 1)), window)
    gain = 1 + stroke.strength * rng.uniform(-0.25, 0.25, 3).astype(np.float32) * rng.choice([0.0, 1.0])
    gain = gain * np.float32(1 + stroke.sign() * 0.2 * stroke.strength)
    return blend(stroke, alpha, window * gain)


def foreign_texture(stroke: Stroke) -> np.ndarray:
    """Another texture shows through in an irregular patch, at some opacity."""
    rng, size = stroke.rng, stroke.size
    alpha = noise_patch(stroke, rng.choice([0.05, 0.3, 0.8]))
    first, second = tone(rng, (0.05, 1.0)), tone(rng, (0.05, 1.0))
    kind = rng.integers(0, 4)
    if kind == 0:
        share = np.clip(fractal(rng, size, slope=rng.uniform(0.3, 1.6), low=4) * 0.4 + 0.5, 0, 1)
    elif kind == 1:
        _, _, index = cells(rng, size, int(rng.uniform(60, 1200)))
        share = enlarge(rng.uniform(0, 1, index.max() + 1).astype(np.float32)[index], size)
    elif kind == 2:
        at = frame(size, (0, 0), rng.uniform(0, np.pi), rng.uniform(0.02, 0.12))
        wave = clouds(rng, size, 5) * np.float32(0.2)
        share = 0.5 + 0.5 * np.sin(2 * np.pi * (at.x + wave)) * np.cos(2 * np.pi * at.y * int(rng.integers(2)))
    else:
        share = 0.5 + 0.5 * clouds(rng, size, rng.uniform(4, 40))
    if rng.uniform() < 0.35:
        level = stroke.scene.image.mean(axis=(0, 1))
        first, second = level * np.float32(rng.uniform(0.4, 0.9)), level * np.float32(rng.uniform(1.0, 1.6))
    opacity = np.float32(0.35 + 0.65 * stroke.strength)
    return blend(stroke, alpha * opacity, mix(first, second, share))


def hole(stroke: Stroke) -> np.ndarray:
    """A hole torn or punched through: what lies beneath, a shadow at one side, a frayed edge."""
    rng = stroke.rng
    alpha = blob(stroke, 0.0, rng.uniform(0.05, 0.5))
    level = rng.uniform(0.0, 0.15) if rng.uniform() < 0.7 else rng.uniform(0.75, 1.0)
    beneath = np.full(3, level, np.float32) * (1 + 0.1 * clouds(rng, stroke.size, 8))[..., None]
    soft = smooth(alpha, stroke.pixels(2))
    shade = rolled(soft, stroke.scene.light * -stroke.pixels(3))
    marked = blend(stroke, alpha, beneath * (0.5 + 0.5 * shade)[..., None])
    rim = np.clip(soft - alpha, 0, 1) * stroke.scene.foreground
    return marked + rim[..., None] * np.float32(stroke.sign() * 0.35 * stroke.strength)


def _under(stroke: Stroke) -> np.ndarray:
    assert stroke.scene.background is not None, "only objects have a background"
    return stroke.scene.background


def missing_part(stroke: Stroke) -> np.ndarray:
    """A piece of the outline is gone: the backdrop shows."""
    rng = stroke.rng
    if rng.uniform() < 0.5:
        alpha = blob(stroke, 0.0, rng.uniform(0.05, 0.35), edge=True, area=stroke.area * 1.6)
    else:
        centre = place(stroke, edge=True)
        alpha = polygon_patch([shard(rng, centre, float(np.sqrt(4 * stroke.area * 1.8 / np.pi)))], stroke.size)
    return blend(stroke, alpha, _under(stroke))


def broken_edge(stroke: Stroke) -> np.ndarray:
    """A chip at the outline: bright and dark facets of a fresh fracture."""
    rng, size = stroke.rng, stroke.size
    centre = place(stroke, edge=True)
    radius = float(np.sqrt(4 * stroke.area * 1.6 / np.pi))
    alpha = polygon_patch([shard(rng, centre, radius) for _ in range(int(rng.integers(1, 4)))], size)
    near, _, index = cells(rng, size, int(np.clip(12 / stroke.area, 60, 3000)))
    facets = enlarge(rng.uniform(0, 1, index.max() + 1).astype(np.float32)[index] * (1 - 0.3 * near), size)
    base = stroke.scene.image.mean(axis=(0, 1)) * np.float32(0.5) + stroke.scene.image * np.float32(0.3)
    contrast = np.float32(0.3 + 0.5 * stroke.strength)
    return blend(stroke, alpha, base + (facets[..., None] - np.float32(0.4)) * contrast)


def _piece(stroke: Stroke) -> Instance:
    return stroke.scene.instances[int(stroke.rng.integers(len(stroke.scene.instances)))]


def _whole(instance: Instance, size: int) -> Field:
    full = np.zeros((size, size), np.float32)
    full[instance.window] = instance.alpha
    return full


def _cleared(stroke: Stroke, full: Field) -> np.ndarray:
    """The picture without one body, given by its coverage, and without its shadow: what it lay on shows instead."""
    others = np.zeros_like(full)
    for instance in stroke.scene.instances:
        part = _whole(instance, stroke.size)
        if not np.array_equal(part, full):
            others = np.maximum(others, part)
    cover = np.maximum(np.clip(smooth(full, stroke.pixels(4)) * 8, 0, 1) * (1 - others), full)
    under = _under(stroke)
    # A body that lies on another one (a chip on a board) leaves that one's colour, not the backdrop's.
    carrier = smooth(np.clip(stroke.scene.foreground - np.maximum(others, full), 0, 1), stroke.pixels(1)) > 0.3
    around = carrier & (smooth(full, stroke.pixels(5)) > 0.02)
    if around.sum() > stroke.pixels(14) ** 2:
        under = np.broadcast_to(np.median(stroke.scene.image[around], axis=0), under.shape)
    return stroke.scene.image + (under - stroke.scene.image) * cover[..., None]


def missing_instance(stroke: Stroke) -> np.ndarray:
    """One of several bodies is not there."""
    return _cleared(stroke, _whole(_piece(stroke), stroke.size))


def _turned(
    stroke: Stroke, alpha: Field, degrees: float, shift: np.ndarray, zoom: float = 1.0
) -> tuple[np.ndarray, Field]:
    """The picture and a coverage turned about the coverage's middle, moved by (x, y) pixels and scaled by `zoom`."""
    window = window_of(alpha)
    centre = np.array([(s.start + s.stop - 1) / 2 for s in window[::-1]])
    cos, sin = np.cos(np.deg2rad(degrees)) / zoom, np.sin(np.deg2rad(degrees)) / zoom
    target = centre + shift
    offset = centre - np.array([cos * target[0] + sin * target[1], -sin * target[0] + cos * target[1]])
    matrix = (cos, sin, offset[0], -sin, cos, offset[1])
    picture = PIL.Image.fromarray((np.clip(stroke.scene.image, 0, 1) * 255 + 0.5).astype(np.uint8))
    sheet = PIL.Image.fromarray((alpha * 255).astype(np.uint8))
    style = (PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.BILINEAR)
    moved = np.asarray(picture.transform(picture.size, *style), np.float32) / 255
    return moved, np.asarray(sheet.transform(sheet.size, *style), np.float32) / 255


def misplaced_part(stroke: Stroke) -> np.ndarray:
    """A body, or a disc cut out of the product, sits turned or shifted."""
    rng = stroke.rng
    if len(stroke.scene.instances) > 1 and rng.uniform() < 0.75:
        alpha, heading = _whole(_piece(stroke), stroke.size), rng.uniform(0, 2 * np.pi)
        shift = np.array([np.cos(heading), np.sin(heading)]) * stroke.pixels(rng.uniform(7, 20))
        picture, cover = _turned(stroke, alpha, rng.uniform(35, 180), shift)
        bare = _cleared(stroke, alpha)
        return bare + (picture - bare) * cover[..., None]
    at = frame(stroke.size, place(stroke))
    radius = np.sqrt(4 * stroke.area / np.pi)
    alpha = at.alpha(np.hypot(at.x, at.y) - np.float32(radius))
    picture, cover = _turned(stroke, alpha, rng.uniform(30, 180), np.zeros(2))
    return blend(stroke, cover, picture)


def extra_part(stroke: Stroke) -> np.ndarray:
    """Something of the product's own kind where nothing should be: a second body, or a plug, a pin, a bar."""
    rng, size = stroke.rng, stroke.size
    if len(stroke.scene.instances) > 1 and rng.uniform() < 0.6:
        alpha = _whole(_piece(stroke), size)
        shift = rng.uniform(-0.4, 0.4, 2) * size
        picture, cover = _turned(stroke, alpha, rng.uniform(0, 360), shift, float(rng.uniform(0.7, 1.1)))
        return stroke.scene.image + (picture - stroke.scene.image) * cover[..., None]
    radius = float(np.sqrt(4 * stroke.area / np.pi))
    at = frame(size, place(stroke), rng.uniform(0, np.pi), radius)
    distance = np.hypot(at.x, at.y) - 1 if rng.uniform() < 0.5 else box(at, 1.3, rng.uniform(0.3, 0.6), 0.1)
    alpha = at.alpha(distance)
    row, column = rng.integers(size, size=2)
    colour = stroke.scene.image[row, column] * rng.uniform(0.6, 1.5) + np.float32(0.05)
    dome, shine = relief(np.clip(-distance / np.float32(0.3), 0, 1) * np.float32(0.3), at.pixel, stroke.scene.light)
    body = colour * (0.4 + 0.6 * dome)[..., None] + (shine * np.float32(0.25))[..., None]
    shadow = rolled(smooth(alpha, stroke.pixels(2)), stroke.scene.light * -stroke.pixels(4))
    shaded = stroke.scene.image * (1 - np.float32(0.35) * shadow)[..., None]
    return shaded + (body.astype(np.float32) - shaded) * alpha[..., None]


def deformation(stroke: Stroke) -> np.ndarray:
    """The structure is pushed, pinched or twisted out of place in a zone."""
    rng, size = stroke.rng, stroke.size
    share = max(stroke.area, 0.008)
    home, radius = place(stroke), float(np.sqrt(4 * share / np.pi)) * 1.3
    at = frame(size, home, 0, radius)
    window = np.clip(1 - at.x**2 - at.y**2, 0, 1) ** 2
    reach = radius * size / 2 * (0.25 + 0.3 * stroke.strength)
    kind, heading = rng.integers(0, 3), rng.uniform(0, 2 * np.pi)
    if kind == 0:
        push_x, push_y = np.full_like(at.x, np.cos(heading)), np.full_like(at.x, np.sin(heading))
    elif kind == 1:
        push_x, push_y = -at.y * 2, at.x * 2
    else:
        push_x, push_y = at.x * 2 * np.float32(stroke.sign()), at.y * 2 * np.float32(stroke.sign())
    rows, columns = window_of(window)
    y, x = np.mgrid[rows.start : min(rows.stop, size), columns.start : min(columns.stop, size)].astype(np.float32)
    part = (rows, columns)
    y, x = y + reach * (push_y * window)[part], x + reach * (push_x * window)[part]
    image = stroke.scene.image.copy()
    for c in range(3):
        image[..., c][part] = map_coordinates(stroke.scene.image[..., c], [y, x], order=1, mode="nearest")
    return image


def missing_line(stroke: Stroke) -> np.ndarray:
    """A line of a regular structure is gone, dark or doubled over part of its length."""
    rng, size = stroke.rng, stroke.size
    assert stroke.scene.lines is not None, "only products with regular lines"
    angle, spacing = stroke.scene.lines
    angle += rng.choice([0.0, np.pi / 2])
    half = min(spacing, size / 10) / size * rng.uniform(0.9, 1.2)
    length = float(np.clip(stroke.area * 4 / (4 * half), 0.15, 2.5))
    at = frame(size, place(stroke), angle)
    alpha = at.alpha(box(at, length, half))
    image = stroke.scene.image
    across = np.array([-np.sin(angle), np.cos(angle)]) * min(spacing, size / 10)
    mean = (rolled(image, -0.5 * across) + rolled(image, 0.5 * across)) / 2
    if rng.uniform() < 0.7:
        paint = mean * np.float32(1 + stroke.sign() * (0.1 + 0.3 * stroke.strength))
    else:
        paint = image * np.float32(0.55 - 0.3 * stroke.strength)
    return blend(stroke, alpha, paint)


def frayed(stroke: Stroke) -> np.ndarray:
    """A tuft of loose ends: short strands leaving one place in all directions."""
    rng = stroke.rng
    home, reach = np.array(place(stroke)), float(np.sqrt(stroke.area) * 1.6 + 0.03)
    start, count = (float(home[0]), float(home[1])), int(rng.integers(5, 14))
    paths = [curve(rng, start, reach * rng.uniform(0.5, 1.5), 1.2, 10) for _ in range(count)]
    alpha = lines(paths, [stroke.pixels(rng.uniform(0.7, 2.0)) for _ in paths], stroke.size)
    level = stroke.scene.image.mean(axis=(0, 1))
    paint = level * np.float32(1 + stroke.sign() * (0.3 + 0.5 * stroke.strength)) + np.float32(0.04)
    return blend(stroke, alpha, paint)
