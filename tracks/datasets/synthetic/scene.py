"""A scene before the camera: `Studio` (what random choices are made with), `Scene` (what was built), `Bench` (how)."""

import colorsys
from dataclasses import dataclass, field

import numpy as np

from tracks.datasets.synthetic.noise import Field, clouds, fractal, smooth
from tracks.datasets.synthetic.shapes import Frame, Window, bevel, relief

Range = tuple[float, float]


@dataclass(frozen=True)
class Studio:
    """Where a product is photographed.

    `look` is the same for all images of a product and draws its appearance; `pose` is the image's own and draws
    what varies normally. `light` is a unit vector (x, y, z) towards the lamp, y down the image.
    """

    look: np.random.Generator
    pose: np.random.Generator
    size: int
    light: np.ndarray

    def turn(self, degrees: float) -> float:
        """A small rotation of this image in radians, uniform in +-`degrees`."""
        return float(np.deg2rad(self.pose.uniform(-degrees, degrees)))

    def shift(self, reach: float) -> tuple[float, float]:
        """A small (x, y) offset of this image, uniform in +-`reach`."""
        dx, dy = self.pose.uniform(-reach, reach, 2)
        return float(dx), float(dy)


@dataclass(frozen=True)
class Instance:
    """One body of a scene: its window and its coverage (h, w) in [0, 1] there."""

    window: Window
    alpha: Field


@dataclass(frozen=True)
class Scene:
    """What the camera looks at.

    `image` and `background` (None for a surface that fills the picture) are (H, W, 3) float32 in [0, 1],
    `foreground` (H, W) in [0, 1] is where the product is. `lines` is the angle in radians and the spacing in
    pixels of a regular structure, where there is one; `instances` are the bodies that have a place of their own.
    """

    image: np.ndarray
    foreground: Field
    light: np.ndarray
    background: np.ndarray | None = None
    instances: tuple[Instance, ...] = ()
    lines: tuple[float, float] | None = None


def tone(
    rng: np.random.Generator, value: Range = (0.15, 0.9), saturation: Range = (0.1, 0.75), grey: float = 0.3
) -> np.ndarray:
    """A random colour (3,) float32 of that brightness; grey with probability `grey`."""
    hue, level, strength = rng.uniform(), rng.uniform(*value), rng.uniform(*saturation)
    strength = 0.0 if rng.uniform() < grey else strength
    return np.array(colorsys.hsv_to_rgb(hue, strength, level), dtype=np.float32)


def metal(rng: np.random.Generator, value: Range = (0.45, 0.85)) -> np.ndarray:
    """A random metal colour: steel mostly, sometimes brass, copper or blackened."""
    kind, level = rng.uniform(), rng.uniform(*value)
    tint = {0: (1.0, 1.0, 1.02), 1: (1.0, 0.85, 0.5), 2: (1.0, 0.68, 0.52), 3: (0.4, 0.4, 0.43)}
    return np.array(tint[int(np.searchsorted([0.55, 0.75, 0.87], kind))], dtype=np.float32) * np.float32(level)


def contrasting(rng: np.random.Generator, other: np.ndarray, least: float = 0.25, grey: float = 0.3) -> np.ndarray:
    """A random colour whose mean differs from `other`'s by at least `least` (as far as 30 tries find one)."""
    for _ in range(30):
        colour = tone(rng, (0.03, 1.0), grey=grey)
        if abs(float(colour.mean() - other.mean())) >= least:
            break
    return colour


def mix(first: np.ndarray, second: np.ndarray, share: Field) -> np.ndarray:
    """Two colours (3,) blended by a (H, W) share of the second: (H, W, 3)."""
    return first + (second - first) * np.asarray(share, dtype=np.float32)[..., None]


def lit(albedo: np.ndarray, diffuse: Field, specular: Field, gloss: float) -> np.ndarray:
    """Albedo (H, W, 3) under diffuse light with a white highlight of strength `gloss`."""
    return albedo * diffuse[..., None] + (specular * np.float32(gloss))[..., None]


def surface(
    studio: Studio,
    albedo: np.ndarray,
    height: Field,
    *,
    depth: float,
    gloss: float = 0.0,
    lines: tuple[float, float] | None = None,
) -> Scene:
    """A surface that fills the picture; `height` of about unit deviation stands `depth` pixels (of 256) high."""
    diffuse, specular = relief(height * np.float32(depth * studio.size / 256), 1.0, studio.light)
    flat = specular.mean()
    image = lit(albedo, diffuse, specular - flat, gloss)
    return Scene(image, np.ones((studio.size, studio.size), np.float32), studio.light, lines=lines)


def backdrop(studio: Studio, product: np.ndarray, least: float = 0.22) -> np.ndarray:
    """What a product of colour (3,) lies on: plain, grained, mottled or striped (H, W, 3), told apart by brightness."""
    look, pose, size = studio.look, studio.pose, studio.size
    base = contrasting(look, product, least, grey=0.6)
    kind, strength = look.uniform(), look.uniform(0.01, 0.06)
    grain = look.uniform(20, 90)
    angle = look.uniform(0, np.pi)
    if kind < 0.4:
        pattern = clouds(pose, size, 3) * np.float32(0.015)
    elif kind < 0.65:
        pattern = fractal(pose, size, slope=0.4, low=grain / 3, high=grain) * np.float32(strength)
    elif kind < 0.82:
        pattern = fractal(pose, size, slope=1.2, low=2) * np.float32(strength)
    else:
        pattern = fractal(pose, size, slope=0.6, low=4, stretch=12, angle=angle) * np.float32(strength)
    return base * (1 + pattern[..., None]) + pattern[..., None] * np.float32(0.4)


@dataclass
class Bench:
    """A backdrop on which bodies are laid one after the other."""

    studio: Studio
    background: np.ndarray
    shadow: float = 0.35
    image: np.ndarray = field(init=False)
    foreground: Field = field(init=False)
    instances: list[Instance] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.image = self.background.copy()
        self.foreground = np.zeros((self.studio.size, self.studio.size), np.float32)

    def drop_shadow(self, alpha: Field, window: Window, reach: float = 0.02) -> None:
        """Darken the picture around a body's coverage, away from the lamp; `reach` in image sides."""
        size = self.studio.size
        full = np.zeros((size, size), np.float32)
        full[window] = alpha
        lamp = self.studio.light
        offset = np.round(-lamp[:2] * size * reach).astype(int)
        full = np.roll(full, (offset[1], offset[0]), (0, 1))
        self.image *= 1 - np.float32(self.shadow) * smooth(full, size * reach * 0.6 + 0.5)[..., None]

    def lay(
        self,
        at: Frame,
        distance: Field,
        colour: np.ndarray,
        *,
        round_over: float = 0.1,
        height: Field | None = None,
        gloss: float = 0.3,
        sharpness: float = 20.0,
        opacity: float = 1.0,
        casts: bool = True,
        counts: bool = True,
    ) -> None:
        """Lay a body of that outline: `colour` (3,) or (h, w, 3), an edge rounded over `round_over` body units.

        `height` (body units) replaces the rounded edge; `counts` makes it an instance of its own.
        """
        alpha = at.alpha(distance) * np.float32(opacity)
        if casts and self.shadow > 0:
            self.drop_shadow(alpha, at.window)
        shape = bevel(distance, round_over) if height is None else height
        diffuse, specular = relief(shape, at.pixel, self.studio.light, sharpness)
        diffuse = 0.25 + 0.75 * diffuse
        body = lit(np.broadcast_to(colour, (*distance.shape, 3)), diffuse, specular, gloss)
        patch = self.image[at.window]
        patch += (body - patch) * alpha[..., None]
        self.foreground[at.window] = np.maximum(self.foreground[at.window], alpha)
        if counts:
            self.instances.append(Instance(at.window, alpha))

    def scene(self, lines: tuple[float, float] | None = None) -> Scene:
        """The finished scene."""
        return Scene(self.image, self.foreground, self.studio.light, self.background, tuple(self.instances), lines)


def scatter(pose: np.random.Generator, tries: int, reach: float, most: int, apart: float) -> list[tuple[float, float]]:
    """Up to `most` random (x, y) in +-`reach`, each farther than `apart` from all others; every try draws."""
    spots: list[tuple[float, float]] = []
    for _ in range(tries):
        x, y = (float(value) for value in pose.uniform(-reach, reach, 2))
        if len(spots) < most and all(np.hypot(x - other[0], y - other[1]) > apart for other in spots):
            spots.append((x, y))
    return spots
