"""The reference line that knows nothing: everything is equally anomalous. Its F1-max is the floor of a data set."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from models.base import AnomalyModel, Images, Prediction, check_categories
from models.baselines.by_category import BOTH, ByCategory, checked
from models.images import KeepSize


class Constant(AnomalyModel):
    """The same value for every pixel and every image.

    Args:
        value: of maps and image scores.
        map_size: side of the maps in pixels.
    """

    serves: ClassVar[tuple[str, ...]] = BOTH

    def __init__(self, *, value: float = 0.5, map_size: int = 64):
        super().__init__()
        self.value = float(value)
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.preprocess = KeepSize()
        self._shots: ByCategory[int] = ByCategory(lambda shots, _: shots)

    def fit(self, references: Images, category: str) -> None:
        """Remember that there are references; they change nothing."""
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        self._shots[category] = len(references)

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """The value, whatever the B images show.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
        """
        check_categories(images, categories)
        for category in categories if self._shots else ():
            self._shots[category]
        return self._prediction(len(images))

    def reference_prediction(self, category: str) -> Prediction:
        """The value for each reference."""
        return self._prediction(self._shots[category])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {"method": "constant (reference line)", "value": self.value, "map_size": self.map_size}

    def _prediction(self, count: int) -> Prediction:
        maps = torch.full((count, self.map_size, self.map_size), self.value, device=self.device)
        return Prediction(maps, maps.amax(dim=(1, 2)))
