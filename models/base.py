"""The contract of every model in this project: `AnomalyModel` and what it returns, `Prediction`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import PIL.Image
import torch
from torch import Tensor, nn

from models.errors import ModelInputError
from models.frozen import whole_float32

Images = Tensor | Sequence[Tensor]
"""Preprocessed images: one (B, 3, h, w) tensor, or B tensors (3, h, w) where a model's `preprocess` keeps sizes."""


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

    def cpu(self) -> "Prediction":
        """The same on the processor: what is done image by image begins with one transfer of the batch."""
        scalars = {name: values.cpu() for name, values in self.scalars.items()}
        return Prediction(self.anomaly_maps.cpu(), self.image_scores.cpu(), scalars)


class AnomalyModel(nn.Module, ABC):
    """A zero- and few-shot anomaly detector.

    Zero-shot is simply never calling `fit`. State is held by category and is never saved.

    One rule for devices: a model is on one, and `to`, `cuda` and `cpu` move all of it, what was learnt of references
    too; images are moved to it wherever they lie, and predictions are on it. Its precision is an argument of its parts:
    `half`, `double` and the like change nothing, neither weights nor what was learnt; and float32 is that on a GPU too,
    never TF32.
    """

    preprocess: Callable[[PIL.Image.Image], Tensor]
    """One RGB image to (3, h, w), of one size or of its own; belongs to the weights, picklable for loader workers."""

    scores_are_probabilities: ClassVar[bool] = False
    """Whether image scores lie in [0, 1] and are fitted best by their log odds."""

    def __init_subclass__(cls) -> None:
        """Keep float32 whole wherever a model learns or predicts."""
        super().__init_subclass__()
        for name in ("fit", "predict", "reference_prediction"):
            if name in vars(cls):
                setattr(cls, name, whole_float32()(vars(cls)[name]))

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is, its predictions are, and images are moved to."""
        return self._here.device  # type: ignore[return-value, union-attr]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `fn` to another device, never to another precision."""
        return super()._apply(lambda tensor: moved(tensor, fn), recurse)

    @abstractmethod
    def fit(self, references: Images, category: str) -> None:
        """Learn what `category` looks like from K >= 1 preprocessed normal images.

        Hundreds of them may come as a sequence that makes each image ready when it is asked for. Replaces
        whatever was learnt for that category before.
        """

    @abstractmethod
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B preprocessed images of B named categories; B = 1 is like any other B.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted; lists those that were.
        """

    @abstractmethod
    def reference_prediction(self, category: str) -> Prediction:
        """The K references of a fitted category, each scored as if it were a test image.

        Each is left out of what the model learnt while it is scored (for K = 1 the model says in its
        `protocol` what it does instead), so that a decision threshold can be fitted on normal images alone.
        A model may score several views of each, the image as it is first: then the scalar "reference" says
        which reference (0 to K - 1) each row is of.
        """

    @property
    @abstractmethod
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this model must carry: rules, training data, map size."""


def moved(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor on the device that `fn`, one of `nn.Module`'s for `_apply`, puts tensors on."""
    return tensor.to(fn(tensor.new_empty(0)).device)


def check_categories(images: Images, categories: Sequence[str]) -> None:
    """Refuse anything but one category for each image.

    Raises:
        ModelInputError: another number of them, or one text in place of a sequence.
    """
    if isinstance(categories, str) or len(categories) != len(images):
        raise ModelInputError(f"expected one category for each of {len(images)} images, got {categories!r}")


def stacked(images: Images, device: torch.device | None = None) -> Tensor:
    """The images as one (B, 3, h, w) tensor, on a device if one is given, for a model whose images are all of one size.

    Raises:
        ModelInputError: images of unlike sizes.
    """
    if isinstance(images, Tensor):
        # A copy to the processor is waited for: what reads it there would not.
        return images if device is None else images.to(device, non_blocking=device.type != "cpu")
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise ModelInputError(
            f"expected images of one size, got {', '.join(map(str, sorted(shapes)))}; make each with the model's own "
            "`preprocess`"
        )
    together = torch.stack(list(images))
    return together if device is None else together.to(device)
