"""Runs every implementation on one category, each in a child process that is ended when it takes too long.

python -m benchmarks.metrics.compare FOLDER NUMBER is such a child, with the folder of the category and an index into
`IMPLEMENTATIONS`; it prints a line of JSON.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, peak_mb, reset_peak
from benchmarks.metrics.implementations import COLUMNS, IMPLEMENTATIONS, Implementation, Part
from benchmarks.metrics.workload import Category, load_category, make_category, save_category

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
MOST_RUNS = 5
ENOUGH_SECONDS = 5.0


def compare(num_images: int, size: int, seed: int, limit: float, only: str = "") -> Iterator[dict[str, Any]]:
    """One row for each implementation: its name, what it computes, and what `measure` found, or `error`.

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
    return run_child(["benchmarks.metrics.compare", str(folder), str(number)], limit)


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


def measure(implementation: Implementation, category: Category) -> dict[str, Any]:
    """Seconds of each part (median over the runs), extra memory in MB (of the first run), and values.

    A tiny category goes first, so that compiling and importing are counted apart, as `first_s`.
    """
    parts = implementation.parts
    tiny, given = implementation.prepare(make_category(4, 64, seed=0)), implementation.prepare(category)
    first = sum(_timed(part, tiny)[0] for part in parts.values())
    before = reset_peak()
    found = {name: _timed(part, given) for name, part in parts.items()}
    extra = peak_mb() - before
    seconds = {name: [spent] for name, (spent, _) in found.items()}
    while _total(seconds) < ENOUGH_SECONDS and len(next(iter(seconds.values()))) < MOST_RUNS:
        for name, part in parts.items():
            seconds[name].append(_timed(part, given)[0])
    values = {metric: value for _, some in found.values() for metric, value in some.items() if metric in COLUMNS}
    return {
        "seconds": {name: statistics.median(spent) for name, spent in seconds.items()},
        "runs": len(next(iter(seconds.values()))),
        "first_s": first,
        "extra_mb": extra,
        "values": values,
    }


def _timed(part: Part, category: Category) -> tuple[float, Mapping[str, float | None]]:
    started = time.perf_counter()
    result = part(category)
    return time.perf_counter() - started, result


def _total(seconds: dict[str, list[float]]) -> float:
    return sum(sum(spent) for spent in seconds.values())


def main() -> None:
    """Measure; what goes wrong is the result as well."""
    folder, number = sys.argv[1:]
    try:
        result = measure(IMPLEMENTATIONS[int(number)], load_category(Path(folder)))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
