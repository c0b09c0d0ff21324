"""Language to boxes, SAA+ Eq. 1: what a region generator is, and what it is asked for on one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Proposals:
    """The boxes found for one caption.

    `boxes` (N, 4) float32, (cx, cy, w, h) in fractions of the image, unclipped; `scores` (N,) float32 in [0, 1];
    `phrases`, N strings: the words whose token probability exceeds the text threshold.
    """

    boxes: Tensor
    scores: Tensor
    phrases: tuple[str, ...]

    def __len__(self) -> int:
        """N, the number of boxes."""
        return len(self.scores)

    def to(self, device: torch.device) -> "Proposals":
        """The same on another device."""
        return Proposals(self.boxes.to(device), self.scores.to(device), self.phrases)


class RegionGenerator(Protocol):
    """What turns captions into boxes."""

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes in a uint8 RGB image (3, H, W), one `Proposals` per caption in order."""
        ...

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this generator must carry."""
        ...


@runtime_checkable
class ObjectFinder(Protocol):
    """A generator that finds whole objects in another way than it finds defects."""

    def propose_objects(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """As `propose`, for captions that name objects."""
        ...


def ask(
    generator: RegionGenerator, image: Tensor, named: str | None, wanted: Sequence[Sequence[str]]
) -> tuple[Proposals | None, list[list[Proposals]]]:
    """The boxes of the object that is `named`, and those of each caption of each source (Eq. 1), in one call.

    A caption that several sources share is one pass. Without a name nothing is asked for the object: None.
    """
    captions = list(dict.fromkeys(caption for source in wanted for caption in source))
    names = [] if named is None else [named]
    if isinstance(generator, ObjectFinder):
        objects, found = generator.propose_objects(image, names), generator.propose(image, captions)
    else:
        everything = generator.propose(image, [*names, *captions])
        objects, found = everything[: len(names)], everything[len(names) :]
    by_caption = dict(zip(captions, found, strict=True))
    return (objects[0] if objects else None), [[by_caption[caption] for caption in source] for source in wanted]
