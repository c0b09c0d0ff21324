"""What a run cost, as far as its results.json says; what is absent is said to be absent."""

from collections.abc import Mapping
from typing import Any

ABSENT = "not recorded in results.json"
EACH = "the whole command, loading and scoring included, by all images; too short if it continued an earlier one"


def cost_facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Time per image, whole time and peak memory, in words with their units."""
    seconds, images, memory = (results.get(key) for key in ("seconds", "images", "peak_memory_mb"))
    whole = f"{seconds:,.1f} s" if seconds else ABSENT
    each = f"{1000 * seconds / images:,.1f} ms ({EACH})" if seconds and images else ABSENT
    return {
        "time per image": each,
        "whole command": whole,
        "images": ABSENT if images is None else f"{images:,}",
        "peak memory": ABSENT if memory is None else f"{memory:,.0f} MB",
    }
