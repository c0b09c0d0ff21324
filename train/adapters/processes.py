"""The processes that train one adapter together, each on its part of every batch.

    torchrun --standalone --nproc_per_node=4 -m train.adapter data=mvtec data.root=... target=visa

A batch is the same as with one process; gradients are summed, each weighted by what its part is of the batch, so the
weights are the same up to the order of the sums. The first process alone writes, prints and validates; all of them read
the run folder, so they have to see the same disk.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as group

from tracks.command.cli import EXIT_BAD_INPUT
from tracks.errors import TrackInputError
from tracks.run.build import pick_device

Result = TypeVar("Result")
LONGEST_WAIT = timedelta(days=1)
"""For the first process to encode or validate; one that dies is noticed by torchrun, which ends the others."""


@dataclass(frozen=True)
class Processes:
    """One of `count` processes, and the device it works on."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def part(self, order: Sequence[int], batch_size: int) -> list[int]:
        """Of each batch of `order` every count-th image; all parts but those of the last batch have `part_size`."""
        starts = range(0, len(order), batch_size)
        return [index for start in starts for index in order[start : start + batch_size][self.rank :: self.count]]

    def part_size(self, batch_size: int) -> int:
        """How many images of a full batch are this process's own.

        Raises:
            TrackInputError: some process would have none.
        """
        if batch_size < self.count:
            raise TrackInputError(
                f"expected batch_size to be at least the number of processes, got {batch_size} for {self.count}; raise "
                "it, or start fewer"
            )
        return len(range(self.rank, batch_size, self.count))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        group.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def first_then_others(self, task: Callable[[], Result]) -> Result:
        """Let the first process do what the others then find done, once each; where it fails, the others leave too."""
        if self.count == 1:
            return task()
        well = torch.zeros(1, device=self.device)
        if self.first:
            try:
                result = task()
                well += 1
            finally:
                group.broadcast(well, src=0)
            return result
        group.broadcast(well, src=0)
        if not well.item():
            raise SystemExit(EXIT_BAD_INPUT)
        return task()


ALONE = Processes()


@contextmanager
def joined(wanted_device: str) -> Iterator[Processes]:
    """The group that torchrun started, one GPU for each process where there are GPUs; one process otherwise.

    Raises:
        TrackInputError: a device that is not here, one GPU named for several processes, fewer GPUs than processes.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(wanted_device)
    if count == 1:
        yield Processes(device=device)
        return
    if device.startswith("cuda"):
        device = _own_gpu(device, int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    if rank:
        logging.getLogger().setLevel(logging.ERROR)
    group.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(rank, count, device)
    finally:
        group.destroy_process_group()


def _own_gpu(device: str, number: int) -> str:
    if device != "cuda":
        raise TrackInputError(
            f"expected no single GPU for several processes, got device={device}; use device=auto, and choose GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    if number >= torch.cuda.device_count():
        raise TrackInputError(
            f"expected a GPU for each process of this machine, got {torch.cuda.device_count()} for process "
            f"{number + 1}; start as many processes as there are GPUs"
        )
    return f"cuda:{number}"
