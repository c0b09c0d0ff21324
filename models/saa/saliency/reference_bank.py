"""What the normal references of a category look like, place by place, for few-shot saliency."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.nearest import Excluded, near_own_position, nearest_distance

SCALE = 0.5
"""Of the distance 1 - cosine."""


@dataclass
class Reference:
    """One normal image: its places as rows (P, C) of length 1, their grid, and the image's own (height, width)."""

    tokens: Tensor
    grid: tuple[int, int]
    size: tuple[int, int]


class ReferenceBank:
    """The references of one category; their grids may differ.

    Args:
        references: one at the least.
        own_window: a single reference meets itself without a window of this share of the side.
        max_elements: largest similarity matrix held at a time, in elements.
    """

    def __init__(self, references: Sequence[Reference], *, own_window: float, max_elements: int):
        self.references = list(references)
        self.own_window = own_window
        self.max_elements = max_elements

    def distance(self, tokens: Tensor) -> Tensor:
        """Half of 1 - cosine to the nearest place of any reference, for each of P rows of length 1: (P,) in [0, 1]."""
        return self._nearest(tokens, self.references)

    def left_out(self) -> Iterator[tuple[Tensor, Reference]]:
        """The same for each reference as if it were not among them; a single one against itself elsewhere."""
        for own in self.references:
            others = [reference for reference in self.references if reference is not own]
            tokens = own.tokens.float()
            elsewhere = near_own_position(own.grid, self.own_window, tokens.device)
            yield self._nearest(tokens, others) if others else self._nearest(tokens, [own], elsewhere), own

    def move(self, place: Callable[[Tensor], Tensor]) -> None:
        """Move the references to another device."""
        for reference in self.references:
            reference.tokens = place(reference.tokens)

    def _nearest(self, tokens: Tensor, references: Sequence[Reference], excluded: Excluded | None = None) -> Tensor:
        distances = [
            nearest_distance(tokens, each.tokens.float(), max_elements=self.max_elements, excluded=excluded)
            for each in references
        ]
        return SCALE * torch.stack(distances).amin(dim=0)
