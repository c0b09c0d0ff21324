"""What frozen nets share: evaluation mode, the precision they run in, random weights by a seed."""

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Self

import torch
from torch import Tensor, nn

from models.errors import ModelInputError, checked

RANDOM_PREFIX = "random:"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""By the word of a configuration; the lower two by autocast, the weights staying float32."""
_IN_ONE_GRAPH = ContextVar("in_one_graph", default=False)


class Frozen(nn.Module):
    """A module that is always in evaluation mode, once it was put there: batch norms never drift."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)


def random_seed(weights: str) -> int | None:
    """The seed in "random:SEED", None for weights that are loaded.

    Raises:
        ModelInputError: a seed that is no whole number.
    """
    if not weights.startswith(RANDOM_PREFIX):
        return None
    if not (seed := weights.removeprefix(RANDOM_PREFIX)).isdigit():
        raise ModelInputError(f"expected random weights with a whole number as seed, like random:0, got {weights!r}")
    return int(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let what is drawn on the processor inside follow from the seed; afterwards its generator is where it was.

    `torch.manual_seed` would reseed the generators of all GPUs as well, for good.
    """
    before = torch.get_rng_state()
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def seeded_by(image: Tensor, seed: int) -> torch.Generator:
    """A generator for what is drawn for an image, by a seed and its pixels: whatever else is drawn, it is the same."""
    return torch.Generator().manual_seed(zlib.crc32(image.cpu().numpy().tobytes(), seed))


def check_precision(precision: str) -> str:
    """The precision, if it is one.

    Raises:
        ModelInputError: it is not.
    """
    return checked("precision", precision, precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")


def keep_float32_whole() -> str:
    """Let convolutions of float32 be float32: unless told so, a GPU rounds what goes in to 11 bits (TF32).

    Returns what held before.
    """
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolution.fp32_precision = convolution.fp32_precision, "ieee"
    return before


@contextmanager
def whole_float32() -> Iterator[None]:
    """As `keep_float32_whole`, for as long as the block lasts."""
    before = keep_float32_whole()
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before  # type: ignore[attr-defined]


@contextmanager
def one_graph() -> Iterator[None]:
    """While a net runs as it is written for other runtimes; see `in_one_graph`."""
    before = _IN_ONE_GRAPH.set(True)
    try:
        yield
    finally:
        _IN_ONE_GRAPH.reset(before)


def in_one_graph() -> bool:
    """Whether a net is to run as one graph of any batch: no loops over sizes, no operations of one machine."""
    return _IN_ONE_GRAPH.get()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """A context in which a net runs in this precision."""
    if in_one_graph() and precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")
