"""Defects of a surface: marks, damage and foreign matter; each returns the changed picture (H, W, 3)."""

import numpy as np

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
)
from tracks.datasets.synthetic.noise import Field, clouds, fractal, smooth, smooth_finely
from tracks.datasets.synthetic.scene import tone
from tracks.datasets.synthetic.shapes import frame, relief


def blend(stroke: Stroke, alpha: Field, paint: np.ndarray) -> np.ndarray:
    """The picture with `paint` (3,) or (H, W, 3) where the product is covered by `alpha`."""
    image = stroke.scene.image
    cover = (alpha * stroke.scene.foreground)[..., None]
    return image + (paint - image) * cover


def _embossed(stroke: Stroke, height: Field, depth: float) -> np.ndarray:
    """The picture lit as if its surface stood `height` * `depth` pixels higher: shading only."""
    diffuse, specular = relief(height * np.float32(stroke.pixels(depth)), 1.0, stroke.scene.light, 15)
    flat = float(np.median(specular))
    image = stroke.scene.image
    lit = image * np.clip(diffuse, 0, 2.2)[..., None] + np.clip(specular - flat, -0.2, 1)[..., None] * np.float32(0.25)
    return image + (lit - image) * stroke.scene.foreground[..., None]


def scratch(stroke: Stroke) -> np.ndarray:
    """One to three fine lines, straight or bent, dark or bright, with a lit edge."""
    rng = stroke.rng
    width = stroke.pixels(rng.uniform(0.6, 2.8))
    length = float(np.clip(stroke.area * stroke.size * 2 / width * 1.2, 0.06, 1.6))
    start, bend = place(stroke), rng.choice([0.05, 0.2, 0.8])
    paths = [curve(rng, start, length, bend)]
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        aside = rng.normal(0, 0.05, 2)
        paths.append(paths[0] * rng.uniform(0.97, 1.03) + aside)
    alpha = lines(paths, [width * rng.uniform(0.6, 1.1) for _ in paths], stroke.size)
    alpha = alpha * np.clip(0.75 + 0.5 * clouds(rng, stroke.size, 24), 0.25, 1)
    sign, amount = stroke.sign(), 0.2 + 0.5 * stroke.strength
    paint = np.clip(stroke.scene.image * np.float32(1 + sign * amount) + np.float32(sign * amount * 0.25), 0, 1.1)
    marked = blend(stroke, alpha, paint)
    if rng.uniform() < 0.5:
        edge = rolled(alpha, stroke.scene.light[:2] * 2) * (1 - alpha) * stroke.scene.foreground
        marked = marked - np.float32(sign * amount * 0.35) * edge[..., None]
    return marked


def crack(stroke: Stroke) -> np.ndarray:
    """A jagged branching line, dark, thinning towards its ends."""
    rng = stroke.rng
    length = float(np.clip(np.sqrt(stroke.area) * rng.uniform(3, 6), 0.12, 1.7))
    paths: list[np.ndarray] = []
    widths: list[float] = []
    queue = [(place(stroke), rng.uniform(0, 2 * np.pi), length, stroke.pixels(rng.uniform(1.0, 3.2)))]
    while queue and len(paths) < 60:
        point, heading, left, width = queue.pop()
        here, course = np.array(point), heading
        while left > 0 and len(paths) < 60:
            course = 0.75 * course + 0.25 * heading + rng.normal(0, 0.45)
            step = rng.uniform(0.02, 0.06) * min(1, length * 2)
            there = here + step * np.array([np.cos(course), np.sin(course)])
            paths.append(np.stack([here, there]))
            widths.append(max(width * min(1, left / length + 0.25), 0.5))
            if rng.uniform() < 0.12 and left > 0.3 * length:
                turn = course + rng.choice([-1, 1]) * 0.8
                queue.append(((float(there[0]), float(there[1])), turn, left * 0.5, width * 0.7))
            here, left = there, left - step
    alpha = lines(paths, widths, stroke.size)
    dark, image = np.float32(0.35 + 0.6 * stroke.strength), stroke.scene.image
    paint = image * (1 - dark) if rng.uniform() < 0.85 else image + dark * np.float32(0.5)
    marked = blend(stroke, alpha, paint)
    lip = rolled(alpha, -stroke.scene.light[:2] * 2) * (1 - alpha) * stroke.scene.foreground
    return marked + np.float32(0.12 * stroke.strength) * lip[..., None]


def stain(stroke: Stroke) -> np.ndarray:
    """A soft or rimmed patch through which the surface shows: oil, water, rust, ink."""
    rng = stroke.rng
    alpha = blob(stroke, rng.uniform(0.1, 1.0), rng.uniform(0.1, 0.45))
    if rng.uniform() < 0.3:
        alpha = np.clip(4 * alpha * (1 - alpha), 0, 1) * 0.8 + 0.35 * alpha
    tint = tone(rng, (0.1, 0.9), (0.2, 0.9), grey=0.5)
    amount = np.float32(0.3 + 0.6 * stroke.strength)
    image = stroke.scene.image
    paint = image * (0.35 + tint) if rng.uniform() < 0.6 else image * 0.4 + tint * 0.6
    if rng.uniform() < 0.25:
        paint = image + np.float32(stroke.sign() * 0.3)
    return blend(stroke, alpha * amount, paint)


def pit(stroke: Stroke) -> np.ndarray:
    """Small dark holes, alone or in a cluster, with a bright rim away from the lamp."""
    rng = stroke.rng
    count = int(rng.choice([1, 1, 2, 4, 8]))
    total = np.zeros(stroke.scene.foreground.shape, np.float32)
    for _ in range(count):
        total = np.maximum(total, blob(stroke, rng.uniform(0.05, 0.6), 0.25, area=stroke.area / count))
    deep = np.float32(0.4 + 0.55 * stroke.strength)
    paint = stroke.scene.image * (1 - deep) + np.float32(0.03)
    marked = blend(stroke, total, paint)
    rim = np.clip(rolled(total, -stroke.scene.light[:2] * stroke.pixels(2.5)) - total, 0, 1)
    return marked + (rim * stroke.scene.foreground)[..., None] * np.float32(0.3 * stroke.strength + 0.05)


def dent(stroke: Stroke) -> np.ndarray:
    """A dent or a bump seen by its shading alone."""
    rng = stroke.rng
    bowl = smooth_finely(blob(stroke, rng.uniform(0.5, 1.0), 0.2), stroke.pixels(1 + 20 * np.sqrt(stroke.area)))
    radius = np.sqrt(stroke.area / np.pi) * 256
    return _embossed(stroke, bowl * np.float32(stroke.sign()), radius * (0.35 + 0.8 * stroke.strength))


def contamination(stroke: Stroke) -> np.ndarray:
    """Foreign particles or lumps with their own colour, grain and shadow."""
    rng, size = stroke.rng, stroke.size
    count = int(rng.choice([1, 1, 2, 5, 12]))
    radius = float(np.sqrt(4 * stroke.area / count / np.pi))
    home, spread = place(stroke), min(0.06 + radius * count**0.5, 0.6)
    places = [home] + [tuple(np.array(home) + rng.normal(0, spread, 2)) for _ in range(count - 1)]
    alpha = polygon_patch([shard(rng, (float(p[0]), float(p[1])), radius) for p in places], size)
    soft = smooth(alpha, stroke.pixels(rng.uniform(0.4, 2.5)))
    if rng.uniform() < 0.6:
        alpha = np.clip(soft * 1.6 - 0.3, 0, 1)
    colour = tone(rng, (0.05, 1.0), grey=0.5)
    grain = fractal(rng, size, slope=0.8, low=8) * np.float32(0.12)
    dome, shine = relief(soft * np.float32(stroke.pixels(3)), 1.0, stroke.scene.light)
    body = colour * ((1 + grain) * dome)[..., None] + (shine * np.float32(rng.choice([0.0, 0.3])))[..., None]
    shadow = rolled(soft, -stroke.scene.light[:2] * stroke.pixels(3)) * stroke.scene.foreground
    shaded = stroke.scene.image * (1 - np.float32(0.35) * shadow)[..., None]
    cover = (alpha * stroke.scene.foreground * np.float32(0.6 + 0.4 * stroke.strength))[..., None]
    return shaded + (body - shaded) * cover


def glue(stroke: Stroke) -> np.ndarray:
    """A clear or milky film with a glossy raised edge, running in drops or a smear."""
    rng = stroke.rng
    alpha = blob(stroke, 0.25, rng.uniform(0.2, 0.5)) if rng.uniform() < 0.6 else noise_patch(stroke, 0.25)
    film = tone(rng, (0.6, 1.0), (0.05, 0.4), grey=0.6)
    image = stroke.scene.image
    flat = image * 0.4 + smoothed(image, stroke.pixels(2)) * 0.6
    paint = flat + (film - flat) * np.float32(0.1 + 0.4 * stroke.strength)
    _, shine = relief(smooth(alpha, stroke.pixels(2)) * np.float32(stroke.pixels(4)), 1.0, stroke.scene.light, 30)
    shine = np.clip(shine - np.median(shine), 0, 1) * (0.3 + 0.4 * stroke.strength)
    return blend(stroke, alpha, paint + shine[..., None])


def smoothed(image: np.ndarray, radius: float) -> np.ndarray:
    """A blurred copy of (H, W, 3)."""
    return np.stack([smooth(image[..., c], radius) for c in range(3)], axis=-1)


def colour_change(stroke: Stroke) -> np.ndarray:
    """A misprint or discoloured patch: another hue or brightness, the texture kept."""
    rng = stroke.rng
    alpha = blob(stroke, rng.choice([0.0, 0.4, 1.0]), 0.3) if rng.uniform() < 0.6 else noise_patch(stroke, 0.3)
    image = stroke.scene.image
    gain = 1 + (0.12 + 0.4 * stroke.strength) * rng.uniform(-1, 1, 3)
    if rng.uniform() < 0.6:
        gain = np.full(3, 1 + stroke.sign() * (0.12 + 0.4 * stroke.strength))
    shift = np.float32(0.15) * (gain - 1).astype(np.float32)
    return blend(stroke, alpha, image * gain.astype(np.float32) + shift)


def smear(stroke: Stroke) -> np.ndarray:
    """A zone wiped or blurred in one direction, a little tinted."""
    rng = stroke.rng
    alpha = blob(stroke, 0.4, 0.35)
    reach = stroke.pixels(rng.uniform(6, 16))
    heading = rng.uniform(0, np.pi)
    step = np.array([np.cos(heading), np.sin(heading)]) * reach / 6
    image = stroke.scene.image
    wiped = sum(rolled(image, k * step) for k in range(-4, 5)) / 9
    tint = np.float32(stroke.sign() * (0.03 + 0.12 * stroke.strength))
    return blend(stroke, alpha, np.asarray(wiped, np.float32) + tint)


def abrasion(stroke: Stroke) -> np.ndarray:
    """A large vague worn area: many fine parallel marks, paler or darker."""
    rng, size = stroke.rng, stroke.size
    alpha = blob(stroke, rng.uniform(0.5, 1.0), 0.4)
    if rng.uniform() < 0.7:
        streaks = fractal(rng, size, slope=0.3, low=12, stretch=rng.uniform(6, 40), angle=rng.uniform(0, np.pi))
    else:
        streaks = fractal(rng, size, slope=0.4, low=12)
    marks = np.clip(streaks * 0.5 + 0.45, 0, 1)
    worn = stroke.scene.image * 0.6 + stroke.scene.image.mean(axis=(0, 1)) * 0.4
    paint = worn + np.float32(stroke.sign() * (0.12 + 0.3 * stroke.strength))
    return blend(stroke, alpha * marks, paint)


def uneven_band(stroke: Stroke) -> np.ndarray:
    """A broad soft band or cloud, brighter or darker than it should be."""
    rng = stroke.rng
    size = stroke.size
    at = frame(size, place(stroke), rng.uniform(0, np.pi))
    across = at.y / np.float32(max(stroke.area, 0.02))
    band = np.exp(-(across**4 if rng.uniform() < 0.5 else across**2))
    if rng.uniform() < 0.5:
        band = band * np.exp(-((at.x / rng.uniform(0.3, 0.8)) ** 2))
    amount = np.float32(stroke.sign() * (0.12 + 0.3 * stroke.strength))
    return blend(stroke, band, stroke.scene.image * (1 + amount) + amount * np.float32(0.1))


def fibre(stroke: Stroke) -> np.ndarray:
    """A hair or thread lying on the product, curled, with a fine shadow."""
    rng = stroke.rng
    width = stroke.pixels(rng.uniform(0.9, 3.0))
    length = float(np.clip(stroke.area * stroke.size * 2 / width * 1.5, 0.25, 2.0))
    path = curve(rng, place(stroke), length, rng.uniform(0.8, 3.0), 40)
    alpha = lines([path], [width], stroke.size)
    colour = tone(rng, (0.0, 1.0), (0.1, 0.9), grey=0.5)
    if abs(float(colour.mean() - stroke.scene.image.mean())) < 0.2:
        colour = 1 - colour
    shadow = rolled(alpha, -stroke.scene.light[:2] * stroke.pixels(3)) * stroke.scene.foreground
    shaded = stroke.scene.image * (1 - np.float32(0.4) * shadow)[..., None]
    return shaded + (colour - shaded) * (alpha * stroke.scene.foreground)[..., None] * np.float32(
        0.6 + 0.4 * stroke.strength
    )


def fold(stroke: Stroke) -> np.ndarray:
    """A long crease: a soft ridge or furrow seen by its shading."""
    rng = stroke.rng
    length = float(np.clip(np.sqrt(stroke.area) * rng.uniform(4, 8), 0.3, 2.5))
    path = curve(rng, place(stroke), length, rng.uniform(0.1, 0.8))
    width = stroke.pixels(rng.uniform(2, 7))
    ridge = smooth_finely(lines([path], [width], stroke.size), width)
    return _embossed(stroke, ridge * np.float32(stroke.sign()), float(rng.uniform(1.5, 3)) * (1 + 3 * stroke.strength))
