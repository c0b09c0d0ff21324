"""Runs every implementation on one category, each in a child process that is ended when it takes too long."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.metrics.implementations import IMPLEMENTATIONS, Implementation
from benchmarks.metrics.workload import make_category, save_category

ROOT = Path(__file__).resolve().parents[2]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def compare(num_images: int, size: int, seed: int, limit: float, only: str = "") -> Iterator[dict[str, Any]]:
    """One row for each implementation: its name, what it computes, and what `child.measure` found, or `error`.

    `limit` is in seconds, for the whole child process; `only` is part of the names of those to run, empty for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_category(make_category(num_images, size, seed), Path(folder))
        for number, one in enumerate(IMPLEMENTATIONS):
            if only in one.name:
                print(f"{num_images} images: {one.name}, {one.computes}", file=sys.stderr)
                yield {"name": one.name, "computes": one.computes, **_run(one, number, Path(folder), limit)}


def _run(one: Implementation, number: int, folder: Path, limit: float) -> dict[str, Any]:
    if one.package and not importlib.util.find_spec(one.package):
        return {"error": "not installed"}
    return run_child(["benchmarks.metrics.child", str(folder), str(number)], limit)


def run_child(arguments: Sequence[str], limit: float | None = None) -> dict[str, Any]:
    """Run a module of this benchmark, its libraries on one thread, and read the last line it prints, which is JSON."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT, env={**os.environ, **ONE_THREAD}, timeout=limit, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit:g} s"}
    if done.returncode < 0:
        return {"error": f"ended by signal {-done.returncode}, as when memory runs out"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])
