"""Confidence intervals as results.json keeps them, if it does.

`categories.<name>.intervals` and `mean_intervals` hold [low, high] or null by metric id, `interval_level` the level.
"""

from collections.abc import Mapping
from typing import Any

Interval = tuple[float, float]


def interval(results: Mapping[str, Any], category: str | None, metric: str) -> Interval | None:
    """Low and high end of a metric of a category, or of the mean over them (None); None where there is none."""
    kept = results if category is None else (results.get("categories") or {}).get(category, {})
    ends = (kept.get("mean_intervals" if category is None else "intervals") or {}).get(metric)
    return None if ends is None else (float(ends[0]), float(ends[1]))


def what_they_are(results: Mapping[str, Any]) -> str:
    """Words for a table's caption; empty without intervals."""
    if not any(scores.get("intervals") for scores in (results.get("categories") or {}).values()):
        return ""
    level = results.get("interval_level")
    return ", with confidence intervals" if level is None else f", with {100 * level:g} % confidence intervals"
