"""Trivial baselines: `Constant`, whose F1-max is the floor of a data set, and `Random`, which is chance.

Neither looks at what an image shows; references change nothing.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction
from models.errors import checked
from models.images import KeepSize


class Constant(AnomalyModel):
    """The same value for every pixel and every image.

    Args:
        value: of maps and image scores.
        map_size: side of the maps in pixels.
    """

    def __init__(self, *, value: float = 0.5, map_size: int = 64):
        super().__init__()
        self.value = float(value)
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.preprocess = KeepSize()

    def fit(self, references: Images, category: str) -> None:
        """Remember how many references there are."""
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        self._states[category] = {"image_scores": torch.full((len(references),), self.value, device=self.device)}

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """The value, whatever the B images show."""
        return self._prediction(torch.full((len(images),), self.value, device=self.device))

    def reference_prediction(self, category: str) -> Prediction:
        """The value for each reference."""
        return self._prediction(self._states[category]["image_scores"])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {"method": "constant (reference line)", "value": self.value, "map_size": self.map_size}

    def _prediction(self, scores: Tensor) -> Prediction:
        return Prediction(scores[:, None, None].repeat(1, self.map_size, self.map_size), scores)


class Random(AnomalyModel):
    """Uniform noise in [0, 1) for every pixel of the map and for the image score.

    It depends on the image's pixels alone, so that a rerun gives the same.

    Args:
        seed: other noise for the same images.
        map_size: side of the maps in pixels; each has noise of its own.
    """

    def __init__(self, *, seed: int = 0, map_size: int = 256):
        super().__init__()
        self.seed = int(seed)
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.preprocess = KeepSize()

    def fit(self, references: Images, category: str) -> None:
        """Remember the noise of the references."""
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        self._states[category] = {"noise": self._noise(references)}

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Noise for B images."""
        return self._prediction(self._noise(images))

    def reference_prediction(self, category: str) -> Prediction:
        """The noise of each reference."""
        return self._prediction(self._states[category]["noise"])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {"method": "random (reference line)", "noise_seed": self.seed, "map_size": self.map_size}

    def _noise(self, images: Images) -> Tensor:
        """The score and the S * S map values of each image, (B, 1 + S * S), from a seed made of its bytes and shape."""
        drawn = []
        for image in images:
            content = f"{self.seed} {tuple(image.shape)}".encode() + image.cpu().contiguous().numpy().tobytes()
            number = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
            generator = torch.Generator().manual_seed(number)
            drawn.append(torch.rand(1 + self.map_size**2, generator=generator))
        return torch.stack(drawn).to(self.device)

    def _prediction(self, noise: Tensor) -> Prediction:
        return Prediction(noise[:, 1:].unflatten(1, (self.map_size, self.map_size)), noise[:, 0])
