"""`render`: one image of a product, with or without a defect, and the mask of what the defect changed.

The camera (shading, focus, noise, compression) is the same for a scene with and without its defect.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from scipy.ndimage import binary_closing, uniform_filter

from tracks.datasets.synthetic.defect_shapes import Stroke
from tracks.datasets.synthetic.noise import Field, brightest, soften
from tracks.datasets.synthetic.products import DEFECTS, kinds_of, product
from tracks.datasets.synthetic.scene import Scene, Studio
from tracks.errors import TrackInputError

VISIBLE = 10 / 255
"""A change counts as seen where it, or its mean nearby, is at least this part of full scale."""
LEAST_PIXELS, LEAST_SHARE = 12, 0.0004
"""A mask has at least this many pixels and this share of the image."""
LARGEST_SHARE = 0.30
"""A mask covers at most this share of the image."""
_TRIES = 24


@dataclass(frozen=True)
class Camera:
    """What one exposure does to a scene; drawn once, so that two scenes can be taken under the same conditions."""

    gain: np.ndarray  # (H, W, 3)
    blur: float
    grain: Field
    grey: bool
    quality: int | None

    def expose(self, image: np.ndarray) -> np.ndarray:
        """The (H, W, 3) scene as it reaches the sensor, before its noise; values may leave [0, 1]."""
        seen = soften(np.clip(image, 0, 1.15).astype(np.float32) * self.gain, self.blur)
        if self.grey:
            seen = np.repeat(seen @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
        return seen

    def develop(self, seen: np.ndarray) -> np.ndarray:
        """The finished photograph (H, W, 3) uint8 of an exposure."""
        noisy = seen + self.grain[..., None] if self.grain.ndim == 2 else seen + self.grain
        picture = (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)
        if self.quality is None:
            return picture
        buffer = io.BytesIO()
        PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=self.quality)
        return np.asarray(PIL.Image.open(buffer).convert("RGB"))


def lamp(look: np.random.Generator, pose: np.random.Generator) -> np.ndarray:
    """A unit vector (x, y, z) towards the lamp: the product's own, a little different in each image."""
    azimuth = look.uniform(0, 2 * np.pi) + np.deg2rad(pose.uniform(-15, 15))
    height = look.uniform(0.75, 1.9) * pose.uniform(0.92, 1.08)
    vector = np.array([np.cos(azimuth), np.sin(azimuth), height])
    return vector / np.linalg.norm(vector)


def draw_camera(look: np.random.Generator, pose: np.random.Generator, size: int) -> Camera:
    """A camera for the product (`look`) with this image's exposure, shading and noise (`pose`)."""
    ticks = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    slope, heading = look.uniform(0, 0.15), look.uniform(0, 2 * np.pi) + pose.normal(0, 0.3)
    vignette, exposure = look.uniform(0, 0.18) * pose.uniform(0.8, 1.2), 1 + pose.uniform(-0.06, 0.06)
    tilt = ticks[None, :] * np.float32(np.cos(heading)) + ticks[:, None] * np.float32(np.sin(heading))
    shade: np.ndarray = 1 + np.float32(slope * pose.uniform(0.7, 1.3)) * tilt
    shade = shade - np.float32(vignette) * (ticks[None, :] ** 2 + ticks[:, None] ** 2) / 2
    cast = 1 + look.uniform(-0.05, 0.05, 3) + pose.uniform(-0.01, 0.01, 3)
    gain: np.ndarray = (shade * np.float32(exposure))[..., None] * cast.astype(np.float32)
    blur = float(look.choice([0.0, 0.1, 0.2, 0.28])) * pose.uniform(0.7, 1.1)
    coloured, strength = look.uniform() < 0.5, look.uniform(0.002, 0.018)
    grey = bool(look.uniform() < 0.2)
    shape = (size, size, 3) if coloured and not grey else (size, size)
    grain = pose.standard_normal(shape, dtype=np.float32) * np.float32(strength)
    compressed, quality = look.uniform() < 0.6, int(look.integers(72, 97))
    return Camera(gain, blur, grain, grey, quality if compressed else None)


@dataclass(frozen=True)
class Rendering:
    """An image (H, W, 3) uint8, its mask (H, W) bool and the kind of its defect, "good" for none."""

    image: np.ndarray
    mask: np.ndarray
    defect_kind: str


def _generator(*key: str | int) -> np.random.Generator:
    """Random numbers that depend on the key alone, the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _set_up(category: str, seed: int, variant: int, index: int, size: int) -> tuple[Scene, Camera]:
    """The defect-free scene of an image and the camera that takes it."""
    studio_look, camera_look = (_generator(category, part, variant) for part in ("look", "camera"))
    studio_pose, camera_pose = (_generator(category, part, seed, variant, index) for part in ("pose", "exposure"))
    light = lamp(studio_look, studio_pose)
    scene = product(category).draw(Studio(studio_look, studio_pose, size, light))
    return scene, draw_camera(camera_look, camera_pose, size)


def _disc(radius: int) -> np.ndarray:
    ticks = np.arange(-radius, radius + 1)
    return np.hypot(*np.meshgrid(ticks, ticks)) <= radius + 0.3


def seen_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where two exposures (H, W, 3) differ visibly: (H, W) bool, gaps of a few pixels closed.

    A pixel counts where the change itself, or the mean change in the 5 x 5 pixels around it, reaches `VISIBLE`.
    """
    change = brightest(np.abs(np.clip(after, 0, 1) - np.clip(before, 0, 1)))
    touched = change > 1 / 255
    near = np.asarray(uniform_filter(change, 5, mode="constant"))
    seen = (change >= VISIBLE) | (touched & (near >= VISIBLE))
    reach = max(round(len(seen) / 85), 1)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) == 0:
        return seen
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    padded = np.pad(seen[part], reach)
    seen[part] |= binary_closing(padded, _disc(reach))[reach:-reach, reach:-reach]
    return seen


def _spoil(scene: Scene, kind: str, rng: np.random.Generator, attempt: int) -> np.ndarray:
    """The scene's picture with one to three defects of a kind; later attempts are stronger and larger."""
    low, high = DEFECTS[kind].area
    share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    share = min(share * 1.15**attempt, 0.25)
    count = int(rng.choice([1, 1, 1, 2, 3])) if kind not in ("uneven_band", "missing_instance") else 1
    picture = scene
    for _ in range(count):
        strength = min(float(rng.beta(1.2, 1.6)) + 0.04 * attempt, 1.0)
        changed = DEFECTS[kind].make(Stroke(rng, picture, share / count, strength))
        picture = Scene(
            changed.astype(np.float32),
            scene.foreground,
            scene.light,
            scene.background,
            scene.instances,
            scene.lines,
        )
    return picture.image


def render(
    category: str,
    *,
    seed: int,
    variant: int,
    index: int,
    defect: str | None,
    size: int = 256,
) -> Rendering:
    """Image `index` of a product, square with `size` pixels a side; the same arguments give the same bytes.

    `variant` fixes the product's appearance and its camera, `seed` and `index` what varies between photographs of
    it. The image with a defect is the image without, changed only where the mask is (and, faintly, beside it).

    Raises:
        TrackInputError: for an unknown category, a kind that the category cannot have, or a size below 32.

    """
    if size < 32:
        raise TrackInputError(f"A synthetic image needs at least 32 pixels a side, got {size}. Raise image_size.")
    kinds = kinds_of(category)
    scene, camera = _set_up(category, seed, variant, index, size)
    before = camera.expose(scene.image)
    if defect is None:
        return Rendering(camera.develop(before), np.zeros((size, size), bool), "good")
    if defect not in kinds:
        raise TrackInputError(
            f"The synthetic category {category!r} has no defect kind {defect!r}. It can have: {', '.join(kinds)}."
        )
    rng = _generator(category, "defect", defect, seed, variant, index)
    for attempt in range(_TRIES):
        after = camera.expose(_spoil(scene, defect, rng, attempt))
        mask = seen_change(before, after)
        if max(LEAST_PIXELS, LEAST_SHARE * mask.size) <= mask.sum() <= LARGEST_SHARE * mask.size:
            return Rendering(camera.develop(after), mask, defect)
    raise AssertionError(f"no visible {defect} on {category} in {_TRIES} tries (variant {variant}, index {index})")
