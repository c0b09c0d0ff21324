"""Times one implementation in a process of its own and prints a line of JSON; started by `benchmarks.metrics`.

python -m benchmarks.metrics.child FOLDER NUMBER, with the folder of the category and a place in `IMPLEMENTATIONS`
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.metrics.implementations import COLUMNS, IMPLEMENTATIONS, Implementation, Part
from benchmarks.metrics.memory import peak_mb, reset_peak
from benchmarks.metrics.workload import Category, load_category, make_category

MOST_RUNS = 5
ENOUGH_SECONDS = 5.0


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
