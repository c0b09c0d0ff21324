"""Images on their way into a model: decoded ahead in threads, stacked into batches, on the device."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tracks.datasets.notices import notice
from tracks.datasets.sample import Sample

Key = TypeVar("Key")
Item = TypeVar("Item")
BATCHES_AHEAD = 2
SMALL_INPUT_FACTOR = 4
"""An image with a side of more than so many times the model's is worth a word."""


def load_ahead(
    batches: Sequence[Sequence[Key]], load: Callable[[Key], Item], workers: int
) -> Iterator[tuple[Sequence[Key], list[Item]]]:
    """Each batch of keys with what `load` makes of them, in order; at most two batches wait.

    An error in `load` is raised when its batch is due, so everything before it has been handed out.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[Sequence[Key], list[Future[Item]]]] = deque()
        try:
            for batch in (*batches, *[()] * BATCHES_AHEAD):
                waiting.append((batch, [pool.submit(load, key) for key in batch]))
                if len(waiting) > BATCHES_AHEAD:
                    keys, futures = waiting.popleft()
                    yield keys, [future.result() for future in futures]
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def cut(items: Sequence[Key], batch_size: int) -> list[Sequence[Key]]:
    """The items in batches, in order; the last one may be smaller."""
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]


def mention_small_input(protocol: Mapping[str, object], sample: Sample, photo_size: tuple[int, int]) -> None:
    """Say once in a run that its model sees images much smaller than they are, unless it cuts them into tiles."""
    side, tiles = protocol.get("model_image_size"), protocol.get("tiles", "whole")
    if isinstance(side, int) and max(photo_size) > SMALL_INPUT_FACTOR * side and tiles == "whole":
        notice(
            f"more than {SMALL_INPUT_FACTOR} times the {side} x {side} pixels at which the model sees it, so small "
            'defects may go unseen; ARGS="tiles=auto" looks at tiles of them as well and takes longer',
            Path(getattr(sample, "path", sample.name)),
        )
