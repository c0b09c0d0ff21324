"""The reference line of chance: noise that depends on an image's pixels alone, so that a rerun gives the same."""

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.base import Images, Prediction, check_categories
from models.baselines.by_category import BOTH, ByCategory, RemembersByCategory, checked
from models.images import KeepSize


class Random(RemembersByCategory):
    """Uniform noise in [0, 1) for every pixel of the map and for the image score.

    Args:
        seed: other noise for the same images.
        map_size: side of the maps in pixels; each has noise of its own.
    """

    serves: ClassVar[tuple[str, ...]] = BOTH

    def __init__(self, *, seed: int = 0, map_size: int = 256):
        super().__init__()
        self.seed = int(seed)
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.preprocess = KeepSize()
        self._fitted: ByCategory[Prediction] = ByCategory(
            lambda known, fn: Prediction(fn(known.anomaly_maps), fn(known.image_scores))
        )

    def fit(self, references: Images, category: str) -> None:
        """Remember the noise of the references; nothing is learnt from them."""
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        self._fitted[category] = self._noise(references)

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Noise for B images.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
        """
        check_categories(images, categories)
        for category in categories if self._fitted else ():
            self._fitted[category]
        return self._noise(images)

    def reference_prediction(self, category: str) -> Prediction:
        """The noise of each reference."""
        return self._fitted[category]

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {"method": "random (reference line)", "noise_seed": self.seed, "map_size": self.map_size}

    def _noise(self, images: Images) -> Prediction:
        drawn = [self._of_one(image) for image in images]
        side = self.map_size
        maps = torch.stack([each[1:].view(side, side) for each in drawn])
        return Prediction(maps.to(self.device), torch.stack([each[0] for each in drawn]).to(self.device))

    def _of_one(self, image: Tensor) -> Tensor:
        """The score and the S * S map values of one image, from a seed made of its bytes and shape."""
        content = f"{self.seed} {tuple(image.shape)}".encode() + image.cpu().contiguous().numpy().tobytes()
        number = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(number)
        return torch.rand(1 + self.map_size**2, generator=generator)
