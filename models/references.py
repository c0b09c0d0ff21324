"""Many references: which of them a model remembers, and how the others are scored, in time linear in their number."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from tqdm import tqdm

from models.base import AnomalyModel, Images, Prediction
from models.errors import ModelInputError

log = logging.getLogger(__name__)

MAX_REFERENCES = 32
"""What a model remembers by default: every image is compared with all of it, a reference left out also."""
AT_ONCE = 8
REFERENCE = "reference"
"""The scalar of a prediction that says which reference each row is of."""

Part = TypeVar("Part")


class Prepared(Sequence[Tensor]):
    """Images that are made ready when they are asked for, so that hundreds need not be held together."""

    def __init__(
        self, sources: Sequence[Any], prepare: Callable[[Any], Tensor], mapped: Callable[..., Iterable[Tensor]] = map
    ):
        self._sources = sources
        self._prepare = prepare
        self._mapped = mapped
        """What makes those of a slice ready: `map`, or that of a pool of threads."""

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """One image, or a list of some."""
        if isinstance(index, slice):
            return list(self._mapped(self._prepare, self._sources[index]))
        return self._prepare(self._sources[index])


@dataclass(frozen=True)
class Others:
    """References that are not remembered: all K as they were given, and which of them these are."""

    references: Images
    remembered: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """The numbers of the references that are not remembered."""
        return sorted(set(range(len(self.references))) - set(self.remembered))


class ManyReferences:
    """A model's share of the references: at most `most`, evenly spread over those given; the others are scored alone.

    Args:
        most: how many are remembered.
    """

    def __init__(self, most: int = MAX_REFERENCES):
        if most < 1:
            raise ModelInputError(f"expected max_references to be at least 1, got {most!r}")
        self.most = most
        self._others: dict[str, Others] = {}

    @property
    def label(self) -> str:
        """What happens to more than that, for a run's protocol."""
        most = self.most
        return f"of more than {most} references {most}, evenly spread, are remembered, the others scored as test images"

    def remembered(self, references: Images, category: str) -> Images:
        """The K >= 1 references that the model is to learn from.

        Raises:
            ModelInputError: no reference.
        """
        count = len(references)
        positions = self.among(references, category)
        if count == 0:
            raise ModelInputError(f"expected at least one reference image of {category!r}, got none")
        if count > self.most:
            log.warning("%s: %d references, %s", category, count, self.label)
        elif isinstance(references, Tensor):
            return references
        return chosen(references, positions, f"{category}: references")

    def among(self, references: Images, category: str) -> Sequence[int]:
        """Which of K references the model learns from; the others are kept to be scored when they are asked for."""
        self._others.pop(category, None)
        count = len(references)
        if count <= self.most:
            return range(count)
        self._others[category] = Others(references, tuple(i * count // self.most for i in range(self.most)))
        return self._others[category].remembered

    def with_others(self, model: AnomalyModel, category: str, left_out: Prediction) -> Prediction:
        """The remembered references, each left out, joined by the others as `model` predicts them: all K in order.

        A model that scores several views of a reference says in the scalar "reference" of which remembered one each is.
        """
        if category not in self._others:
            return left_out
        others = self._others[category]
        scored = predicted(model, others.references, others.positions, category)
        own = left_out.scalars.get(REFERENCE, torch.arange(len(left_out.image_scores))).tolist()
        numbers = [*(others.remembered[int(number)] for number in own), *others.positions]
        both = joined([left_out, scored], numbers)
        if REFERENCE not in left_out.scalars:
            return both
        numbered = torch.tensor(sorted(numbers)).to(left_out.scalars[REFERENCE])
        return replace(both, scalars={**both.scalars, REFERENCE: numbered})


def chosen(images: Images, positions: Sequence[int], what: str = "") -> Images:
    """Some of the images by number."""
    if isinstance(images, Tensor):
        return images[list(positions)]
    return [images[i] for i in progress(positions, what)]


def predicted(model: AnomalyModel, images: Images, positions: Sequence[int], category: str) -> Prediction:
    """What a model says of some of many images of a category, a few at a time."""
    groups = cut(positions, AT_ONCE)
    with tqdm(total=len(positions), desc=f"{category}: references scored", leave=False, disable=len(groups) < 2) as bar:
        parts = []
        for group in groups:
            parts.append(model.predict(chosen(images, group), [category] * len(group)))
            bar.update(len(group))
    return joined(parts, range(len(positions)))


def joined(parts: Sequence[Prediction], positions: Sequence[int]) -> Prediction:
    """The predictions of several groups of images as one, each image at its position."""
    order = torch.tensor(positions).argsort(stable=True).tolist()

    def together(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values))[order]

    shared = [name for name in parts[0].scalars if all(name in part.scalars for part in parts)]
    scalars = {name: together([part.scalars[name] for part in parts]) for name in shared}
    maps, scores = (together([getattr(part, name) for part in parts]) for name in ("anomaly_maps", "image_scores"))
    return Prediction(maps, scores, scalars)


def cut(items: Sequence[Part], at_once: int) -> list[Sequence[Part]]:
    """The items in groups, in order."""
    return [items[start : start + at_once] for start in range(0, len(items), at_once)]


def progress(parts: Sequence[Part], what: str) -> "tqdm[Part]":
    """A bar for what takes long; none for a few."""
    return tqdm(parts, desc=what, leave=False, disable=not what or len(parts) <= AT_ONCE)
