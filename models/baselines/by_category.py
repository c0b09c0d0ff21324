"""What the baselines share around their method: state by category, the tracks they serve, checks of their input."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NoReturn, Self, TypeVar

import torch
from torch import Tensor

from models.base import AnomalyModel, moved
from models.errors import ModelInputError

State = TypeVar("State")
ZERO_SHOT, FEW_SHOT = "zero-shot", "few-shot"
BOTH = (ZERO_SHOT, FEW_SHOT)
"""What a model's `serves` says; a model without it serves both tracks."""
MODELS_OF_TRACK = {
    ZERO_SHOT: "clip_adapter, saa, saa_plus, winclip, utad, clipseg",
    FEW_SHOT: "clip_adapter, saa, saa_plus, winclip, patchcore, padim, spade",
}


class ByCategory(Generic[State]):
    """What a model learnt, category by category; `move` is how one state goes to another device."""

    def __init__(self, move: Callable[[State, Callable[[Tensor], Tensor]], State]):
        self._states: dict[str, State] = {}
        self._move = move

    def __setitem__(self, category: str, state: State) -> None:
        self._states[category] = state

    def __getitem__(self, category: str) -> State:
        if category not in self._states:
            known = ", ".join(self._states) or "none"
            raise KeyError(f"expected a category with references, got {category!r}; fitted: {known}; call `fit` for it")
        return self._states[category]

    def __bool__(self) -> bool:
        return bool(self._states)

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Put every tensor through `fn`, as `nn.Module._apply` does with parameters."""
        for category, state in self._states.items():
            self._states[category] = self._move(state, fn)


class RemembersByCategory(AnomalyModel):
    """A model whose `_fitted` moves along with its parameters, to another device; its precision stays."""

    _fitted: ByCategory[Any]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move what was learnt along with the parameters (`to`, `cuda`, `cpu`)."""
        super()._apply(fn, recurse)
        self._fitted.apply(lambda tensor: moved(tensor, fn))
        return self


def refuse(model: str, track: str) -> NoReturn:
    """Say that a model does not serve a track, and which do.

    Raises:
        ModelInputError: always.
    """
    if track == ZERO_SHOT:
        raise ModelInputError(
            f"expected references for {model}, which knows nothing without normal images, got none; run `make few-shot "
            f"MODEL={model}`, or choose a model of the zero-shot track: {MODELS_OF_TRACK[track]}"
        )
    raise ModelInputError(
        f"expected no references for {model}, which cannot learn from them, got some; run `make zero-shot "
        f"MODEL={model}`, or choose a model of the few-shot track: {MODELS_OF_TRACK[track]}"
    )


def checked(name: str, value: Any, good: bool, expected: str) -> Any:
    """The value of an argument if it is good."""
    if not good:
        raise ModelInputError(f"expected {name} to be {expected}, got {value!r}")
    return value


def groups(categories: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Each category once, with the indices (n,) of its images in the batch."""
    for category in dict.fromkeys(categories):
        yield category, torch.tensor([i for i, name in enumerate(categories) if name == category])
