"""The camera: shading, focus, noise and compression, the same for a scene with and without its defect."""

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image

from tracks.datasets.synthetic.noise import Field, soften


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
