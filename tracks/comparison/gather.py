"""Finished runs as rows of a table: what differs in its categories is joined, what differs in its seed averaged."""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from eval.errors import ScoringInputError
from eval.tables import COLUMNS, over_seeds

log = logging.getLogger(__name__)
METRIC_COLUMNS = tuple(metric + suffix for metric in COLUMNS for suffix in ("", "_std"))
"""Of a CSV file, the columns that `metric_cells` fills."""

Run = Mapping[str, Any]
"""The content of a results.json, and whatever else the caller knows of the run."""


def gather(runs: Iterable[Run], kind: Callable[[Run], Hashable]) -> Iterator[tuple[dict[str, Any], list[Run]]]:
    """For each kind of run, in the order in which kinds first come: the row, and a run behind it for each seed.

    Runs of one kind and seed are one, its categories joined and what was decided of them under `decided`. Seeds that
    lack a category are left out with a warning. Rows are those of `over_seeds`; where seeds do not fit together
    otherwise, the first stands alone and `alone_because` says why.
    """
    joined: dict[tuple[Hashable, int], dict[str, Any]] = {}
    for run in runs:
        whole = joined.setdefault((kind(run), run["seed"]), {**run, "categories": {}, "decided": {}})
        whole["categories"] |= run["categories"]
        whole["decided"] |= run.get("decision", {}).get("categories", {})
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for (each, _), whole in joined.items():
        groups[each].append(whole)
    for group in groups.values():
        if complete := _complete(group):
            yield _averaged(complete), complete


def metric_cells(mean: Mapping[str, Mapping[str, float | None] | None]) -> list[float | None]:
    """Mean and deviation of each metric of a row, as fractions; None where it has none."""
    return [(mean[metric] or {}).get(key) for metric in COLUMNS for key in ("mean", "std")]


def _complete(group: Sequence[Run]) -> list[Run]:
    """The seeds that have every category any seed has; the others cannot be averaged with them."""
    wanted = {name for run in group for name in run["categories"]}
    for run in group:
        if lacking := wanted - set(run["categories"]):
            log.warning("seed %s lacks %s and is left out", run["seed"], ", ".join(sorted(lacking)))
    return [run for run in group if set(run["categories"]) == wanted]


def _averaged(runs: Sequence[Run]) -> dict[str, Any]:
    try:
        return over_seeds(runs)
    except ScoringInputError as error:
        return {**over_seeds(runs[:1]), "alone_because": str(error)}
