"""The contract of every model in this project: `AnomalyModel` and what it returns, `Prediction`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import PIL.Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B images; float32, higher = more anomalous.

    `anomaly_maps` is (B, h, w) at the model's own map size (the runner resizes, once) and
    `image_scores` is (B,), each computed from its own image (and the references) alone.
    `scalars` holds further per-image numbers by name, each (B,), that a rescoring outside the
    model may need (the legacy transductive image score of APRIL-GAN, for one).
    """

    anomaly_maps: Tensor
    image_scores: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)


class AnomalyModel(nn.Module, ABC):
    """A zero- and few-shot anomaly detector.

    Zero-shot is simply never calling `fit`. State is held by category and is never saved.
    """

    preprocess: Callable[[PIL.Image.Image], Tensor]
    """One RGB image to (3, h, w) float32; belongs to the weights, picklable for loader workers."""

    @abstractmethod
    def fit(self, references: Tensor, category: str) -> None:
        """Learn what `category` looks like from (K, 3, h, w) preprocessed normal images, K >= 1.

        Replaces whatever was learnt for that category before.
        """

    @abstractmethod
    def predict(self, images: Tensor, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, h, w) preprocessed images of B named categories; B = 1 is like any other B.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted; lists those that were.
        """

    @abstractmethod
    def reference_prediction(self, category: str) -> Prediction:
        """The K references of a fitted category, each scored as if it were a test image.

        Each is left out of what the model learnt while it is scored (for K = 1 the model says in its
        `protocol` what it does instead), so that a decision threshold can be fitted on normal images alone.
        """

    @property
    @abstractmethod
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this model must carry: rules, training data, map size."""
