"""Batches loaded ahead in threads while a model works; the memory held does not grow with their number."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")
BATCHES_AHEAD = 2


def load_ahead(
    batches: Sequence[Sequence[Key]], load: Callable[[Key], Item], workers: int
) -> Iterator[tuple[Sequence[Key], list[Item]]]:
    """Each batch of keys with what `load` makes of them, in order; at most two batches wait.

    An error in `load` is raised when its batch is due, so everything before it has been handed out.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[Sequence[Key], list[Future[Item]]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, [pool.submit(load, key) for key in batch]))
                if len(waiting) > BATCHES_AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def _finished(batch: Sequence[Key], futures: Sequence[Future[Item]]) -> tuple[Sequence[Key], list[Item]]:
    return batch, [future.result() for future in futures]


def cut(items: Sequence[Key], batch_size: int) -> list[Sequence[Key]]:
    """The items in batches, in order; the last one may be smaller."""
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
