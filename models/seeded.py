"""Random weights that depend on a seed alone, and draw from nobody else's generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
