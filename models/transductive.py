"""Models that score the test images of a category together, so that none has a score by itself: transductive.

The others of a test set take the place of references. What such a model says of an image therefore moves with its
company, which `setting` says in the protocol of every run.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from models.base import TRANSDUCTIVE, ZERO_SHOT, AnomalyModel, Images, Prediction, refuse
from models.errors import ModelInputError
from models.frozen import whole_float32

AT_ONCE = 8


class TransductiveModel(AnomalyModel):
    """A detector that is given all N test images of a category at once; a subclass says how in `_together`.

    One that learns from references as well implements `fit` and reads `self._states[category]` if there is any.
    """

    setting: ClassVar[str] = TRANSDUCTIVE

    least_images: ClassVar[int] = 2
    """Fewer say nothing of one another, and are refused."""

    def predict(self, images: Images, categories: Sequence[str]) -> NoReturn:
        """Refuse: a batch is not the test set.

        Raises:
            ModelInputError: always.
        """
        raise ModelInputError(
            f"expected all test images of a category together for {type(self).__name__.lower()}, which is "
            f"transductive, got a batch of {len(images)}; call `predict_together` with all of them, or choose an "
            "inductive model"
        )

    def predict_together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int = AT_ONCE
    ) -> Iterator[Prediction]:
        """Score N preprocessed images of one category by each other: predictions of some at a time, in order.

        `images` may make an image ready when it is asked for (`models.references.Prepared`), and is asked in slices.
        The order of images makes no difference to any of them; `at_once`, how many are encoded or handed out at a time,
        none but rounding. Nothing is computed before the first prediction is asked for.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: fewer than `least_images`; images of another shape; before any `fit`, of a model of
                few-shot alone.
        """
        if ZERO_SHOT not in self.serves and not self._states:
            refuse(type(self).__name__.lower(), ZERO_SHOT)
        if self._states:
            self._states[category]
        if len(images) < self.least_images:
            raise ModelInputError(
                f"expected at least {self.least_images} images of {category!r} for {type(self).__name__.lower()}, "
                f"which scores them by each other, got {len(images)}; give more, or choose an inductive model"
            )
        with closing(self._together(images, category, at_once)) as parts:
            while True:
                with torch.no_grad(), whole_float32():
                    part = next(parts, None)
                if part is None:
                    return
                yield part

    @abstractmethod
    def _together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int
    ) -> Generator[Prediction, None, None]:
        """`predict_together` of a subclass: called with enough images, without gradients, closed at its end.

        Memory must not grow with N beyond what the method itself needs to keep of each image.
        """


def batches(images: Sequence[Tensor] | Tensor, at_once: int) -> Iterator[Sequence[Tensor] | Tensor]:
    """The images in order, `at_once` at a time; each slice is asked for when it is due."""
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once]
