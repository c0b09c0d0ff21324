"""Plays the harness of VAND 3.0's few-shot track with a `Model` class and names everything that is wrong with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tracks.submission.base import Problem

CATEGORIES = ("breakfast_box", "screw_bag")
TOLERANCE = 1e-3
"""Largest difference of a score that is called the same, as a share of 1 + its size."""


def validate(make: Callable[[], Any], shots: int = 2, size: int = 256, device: str = "cpu") -> list[Problem]:
    """Everything wrong with the class `make`, called as the harness does; an empty list if it is right.

    The images are noise drawn by a fixed seed. Beyond what the harness itself would stumble over, the scores must be an
    image's own: not those of its batch, of an earlier call or of a category set up before.
    Kinds of problem: construction, type, weights_url, setup, forward, result, shape, dtype, number, map, input, repeat,
    batch, state.
    """
    name = getattr(make, "__name__", str(make))
    try:
        model = make()
    except Exception as error:  # whatever an entrant's class raises is the finding
        return [Problem("construction", name, f"expected {name}() without arguments to work, got: {error!r}")]
    if not isinstance(model, nn.Module):
        return [Problem("type", name, f"expected a torch.nn.Module, got {type(model).__name__}")]
    found: list[Problem] = []
    found += [
        Problem(method, name, f"expected a method {method}, got none")
        for method in ("weights_url", "setup")
        if not callable(getattr(model, method, None))
    ]
    if type(model).forward is nn.Module.forward:
        found.append(Problem("forward", name, "expected a method forward, got none"))
    if found:
        return found
    try:
        return _check_address(model, name) + _Played(model.eval().to(device), name, shots, size, device).problems()
    except _Failed as failure:
        return [failure.problem]


class _Failed(Exception):
    """The model raised; nothing after that can be looked at."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _check_address(model: Any, name: str) -> list[Problem]:
    try:
        address = model.weights_url(CATEGORIES[0])
    except Exception as error:  # as above
        return [Problem("weights_url", name, f"expected an address or None, got: {error!r}")]
    if address is None or (isinstance(address, str) and address.startswith(("http://", "https://"))):
        return []
    return [Problem("weights_url", name, f"expected an http(s) address or None, got {address!r}")]


class _Played:
    """The calls of the harness, on noise."""

    def __init__(self, model: Any, name: str, shots: int, size: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model, self.name, self.size = model, name, size
        self.references = [torch.rand(shots, 3, size, size, generator=generator).to(device) for _ in CATEGORIES]
        self.images = torch.rand(3, 3, size, size, generator=generator).to(device)

    def problems(self) -> list[Problem]:
        """What is wrong with the first result, or with how the scores hang together."""
        self.setup(0)
        before = self.images.clone()
        result = self.forward(self.images)
        if (wrong := self._wrong_result(result)) is not None:
            return [wrong]
        found = [] if torch.equal(before, self.images) else [self.problem("input", "expected images left as they are")]
        first = result.pred_score.clone()
        if not _same(self.forward(self.images).pred_score, first):
            found.append(self.problem("repeat", "expected the same scores for the same images"))
        alone = [self.forward(self.images[number : number + 1]).pred_score for number in range(len(self.images))]
        if any(score.shape != (1,) for score in alone):
            return [*found, self.problem("shape", "expected pred_score (1,) for one image")]
        if not _same(torch.cat(alone), first):
            found.append(self.problem("batch", "expected an image's score not to depend on the others of its batch"))
        self.setup(1)
        self.forward(self.images)
        self.setup(0)
        if not _same(self.forward(self.images).pred_score, first):
            found.append(self.problem("state", "expected no trace of a category that was set up in between"))
        return found

    def setup(self, number: int) -> None:
        """Set up one of the two categories as the harness does."""
        try:
            self.model.setup(
                {"few_shot_samples": self.references[number].clone(), "dataset_category": CATEGORIES[number]}
            )
        except Exception as error:  # as above
            raise _Failed(self.problem("setup", f"expected setup(...) to work, got: {error!r}")) from error

    def forward(self, images: Tensor) -> Any:
        """What the model says of a batch."""
        try:
            with torch.no_grad():
                return self.model(images)
        except Exception as error:  # as above
            text = f"expected forward to work on {len(images)} images, got: {error!r}"
            raise _Failed(self.problem("forward", text)) from error

    def problem(self, kind: str, text: str) -> Problem:
        """A problem of this class."""
        return Problem(kind, self.name, text)

    def _wrong_result(self, result: Any) -> Problem | None:
        scores, count = getattr(result, "pred_score", None), len(self.images)
        if not isinstance(scores, Tensor):
            got = f"{type(result).__name__} with {type(scores).__name__}"
            return self.problem("result", f"expected an object with a tensor pred_score, got {got}")
        if scores.shape != (count,):
            return self.problem("shape", f"expected pred_score ({count},), got {tuple(scores.shape)}")
        if not scores.is_floating_point():
            return self.problem("dtype", f"expected floating-point scores, got {scores.dtype}")
        if not torch.isfinite(scores).all():
            return self.problem("number", "expected finite scores, got NaN or infinity")
        maps = getattr(result, "anomaly_map", None)
        good = ((count, self.size, self.size), (count, 1, self.size, self.size))
        if maps is not None and (tuple(maps.shape) not in good or not torch.isfinite(maps).all()):
            return self.problem("map", f"expected no anomaly_map or a finite one of {good[0]}, got {tuple(maps.shape)}")
        return None


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
