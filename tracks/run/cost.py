"""What a run cost, category by category: cost.json in its folder, so that a run that was killed keeps its figures."""

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.base import AnomalyModel
from models.disk import write_atomically

COST_FILE = "cost.json"


class Stopwatch:
    """Adds up the seconds spent inside `with watch:`, waiting at both ends for the queue of `device` where it is a GPU.

    `seconds` are the clock's, `cpu_seconds` those of the processor for all threads of this process: on a busy machine
    the better guide.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.seconds = self.cpu_seconds = 0.0
        self._started = (0.0, 0.0)

    def __enter__(self) -> "Stopwatch":
        self._finish_queue()
        self._started = (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_queue()
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]

    def _finish_queue(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class CostLedger:
    """Measures one category after the other and keeps it: images, seconds, bytes of what `fit` kept, peak memory.

    `started` (of time.perf_counter) is when the first category's share of the whole run begins; `device` is where the
    model works.
    """

    def __init__(self, folder: Path, started: float, device: torch.device | str = "cpu"):
        self._path = folder / COST_FILE
        self._device = torch.device(device)
        self._kept = read_cost(folder)
        self._lap = started
        self.predicting, self._fitting = Stopwatch(self._device), Stopwatch(self._device)
        self._bank_bytes: int | None = None

    @contextmanager
    def fit(self, model: AnomalyModel) -> Iterator[None]:
        """Around the `fit` of one category: its seconds, and what the model holds more afterwards."""
        before = held_bytes(model)
        with self._fitting:
            yield
        self._bank_bytes = held_bytes(model) - before

    def keep(self, category: str, images: int) -> None:
        """Write down a category of which `images` were predicted just now; nothing if there were none."""
        now = time.perf_counter()
        entry = {
            "images": images,
            "predict_seconds": self.predicting.seconds,
            "predict_cpu_seconds": self.predicting.cpu_seconds,
            "fit_seconds": self._fitting.seconds,
            "seconds": now - self._lap,
            "bank_bytes": self._bank_bytes,
        }
        if images:
            earlier = self._kept["categories"].get(category, {})
            if entry["bank_bytes"] is None:
                entry["bank_bytes"] = earlier.get("bank_bytes")
            self._kept["categories"][category] = entry
            for key, value in peak_memory(self._device).items():
                self._kept[key] = max(value, self._kept[key] or 0)
            write_atomically(self._path, json.dumps(self._kept, indent=2) + "\n")
        self._lap, self._bank_bytes = now, None
        self.predicting, self._fitting = Stopwatch(self._device), Stopwatch(self._device)


def read_cost(folder: Path) -> dict[str, Any]:
    """What is kept of a run: `categories` as `CostLedger.keep` writes them, largest memory in MB; None if unknown."""
    nothing: dict[str, Any] = {"categories": {}, "peak_memory_mb": None, "gpu_memory_mb": None}
    path = folder / COST_FILE
    try:
        return {**nothing, **json.loads(path.read_text())} if path.is_file() else nothing
    except ValueError:  # figures of time alone: not worth stopping a run
        return nothing


def peak_memory(device: torch.device | str = "cpu") -> dict[str, int]:
    """The largest memory of this process so far in MB: resident, and on the device (0 where that is no GPU)."""
    gpu = torch.cuda.max_memory_allocated(device) / 1024**2 if torch.device(device).type == "cuda" else 0
    return {"peak_memory_mb": round(_largest_resident_mb()), "gpu_memory_mb": math.ceil(gpu)}


def _largest_resident_mb() -> float:
    """Linux's own mark where there is one: getrusage also counts what the parent held when it started this process."""
    status = Path("/proc/self/status")
    if status.is_file() and (mark := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(mark[1]) / 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1024**2
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def held_bytes(model: nn.Module) -> int:
    """Bytes of the tensors and arrays that a model holds besides its parameters and buffers, each memory once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held, seen, todo = {}, set(), [model]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            memory = each.untyped_storage()
            held[memory.data_ptr()] = memory.nbytes()
        elif isinstance(each, np.ndarray):
            held[each.__array_interface__["data"][0]] = each.nbytes
        else:
            todo.extend(_inside(each))
    return sum(number for address, number in held.items() if address not in weights)


def _inside(thing: Any) -> list[Any]:
    """What a container, a module or an object of the models' own classes holds."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, list | tuple | set):
        return list(thing)
    ours = isinstance(thing, nn.Module) or is_dataclass(thing) or type(thing).__module__.startswith("models.")
    if ours and hasattr(thing, "__dict__"):
        return [value for value in vars(thing).values() if not isinstance(value, str | int | float | bool | None)]
    return []
