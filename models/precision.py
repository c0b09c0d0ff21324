"""In which precision a frozen net runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import ModelInputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""By the word of a configuration; the lower two by autocast, the weights staying float32."""


def check_precision(precision: str) -> str:
    """The precision, if it is one.

    Raises:
        ModelInputError: it is not.
    """
    if precision not in PRECISIONS:
        raise ModelInputError(f"expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


@contextmanager
def whole_float32() -> Iterator[None]:
    """Let convolutions of float32 be float32: unless told so, a GPU rounds what goes in to 11 bits (TF32)."""
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which a net runs in this precision."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")
