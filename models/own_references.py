"""References from the test images themselves: those that a model, before it knows any, finds least anomalous."""

import copy
from collections.abc import Generator, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from models.base import BOTH, INDUCTIVE, ZERO_SHOT, AnomalyModel, Prediction, as_batch
from models.errors import ModelInputError, checked
from models.references import REFERENCE, chosen, cut, progress
from models.transductive import TransductiveModel

OWN = "own_reference"
"""The scalar of a prediction: 1 of an image that was taken as a reference, 0 of the others."""
SHARE = 0.1
"""References are taken from so many of the images, those of the lowest score; one image at least."""

Model = TypeVar("Model", bound=AnomalyModel)


class OwnReferences(TransductiveModel):
    """A model of both tracks that goes through a test set twice: zero-shot, then beside references from the set.

    References are `count` images spread evenly over the tenth of the lowest zero-shot image score: the very lowest of
    many are of one kind. Each is scored without itself (`AnomalyModel.reference_prediction`), all others beside them.
    Right where a tenth of the images is normal, however many of the others are not.

    Args:
        model: of both tracks, scores each image by itself and knows no category.
        count: how many references are taken, at most all of that tenth.

    Raises:
        ModelInputError: a model of one track alone, or a transductive one; a count below 1.
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(self, model: AnomalyModel, count: int):
        super().__init__()
        if set(model.serves) != set(BOTH) or model.setting != INDUCTIVE:
            raise ModelInputError(
                "expected a model of both tracks that scores each image by itself for own_references, got "
                f"{type(model).__name__}; choose such a model, or leave own_references out"
            )
        self.model = model
        self.count = checked("own_references", count, count >= 1, "at least 1")
        self.preprocess = model.preprocess
        self.scores_are_probabilities = model.scores_are_probabilities  # type: ignore[misc]

    def _together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int
    ) -> Generator[Prediction, None, None]:
        numbers = cut(range(len(images)), at_once)
        parts = progress(numbers, f"{category}: without references")
        scores = torch.cat([self._seen(self.model, images, part, category).image_scores for part in parts])
        lowest = scores.argsort(stable=True)[: max(1, int(SHARE * len(images)))].tolist()
        count = min(self.count, len(lowest))
        own = [lowest[k * len(lowest) // count] for k in range(count)]
        model = unfitted(self.model)
        references = chosen(images, own)
        model.fit(as_batch(references, references[0].device), category)
        left_out = model.reference_prediction(category)
        views = left_out.scalars.get(REFERENCE, torch.arange(count)).tolist()
        rows = {number: views.index(k) for k, number in enumerate(own)}  # the first view is the image as it is
        for part in numbers:
            found = self._seen(model, images, part, category)
            maps, values = found.anomaly_maps.clone(), found.image_scores.clone()
            for place, number in enumerate(part):
                if number in rows:
                    maps[place] = left_out.anomaly_maps[rows[number]]
                    values[place] = left_out.image_scores[rows[number]]
            is_own = values.new_tensor([number in rows for number in part])
            yield Prediction(maps, values, {OWN: is_own})

    @staticmethod
    def _seen(model: AnomalyModel, images: Sequence[Tensor] | Tensor, part: Sequence[int], category: str) -> Prediction:
        given = images[part[0] : part[-1] + 1]
        return model.predict(as_batch(given, given[0].device), [category] * len(part))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """The model's labels, and where its references are from."""
        taken = f"{self.count} images of the {SHARE:.0%} of the lowest zero-shot score, evenly spread"
        return {**self.model.protocol, "own_references": f"{taken}, each scored without itself"}


def unfitted(model: Model) -> Model:
    """A copy of a model that shares all weights and, like it, knows no category: what it learns is its own."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)
