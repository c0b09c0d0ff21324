"""A fixed batch of small categories and all their scores; run as a module it prints them, compiled or not, as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from eval.compiled import COMPILED, falling_order
from eval.ranking.counting import DefectValues, count_patterns
from tests.support.plain_scores import Category

NUM_CATEGORIES = 60


def categories() -> Iterator[Category]:
    """Maps of all float types, few and many values, both signs and all sizes, with and without normal images."""
    for seed in range(NUM_CATEGORIES):
        rng = np.random.default_rng(seed)
        dtype = (np.float16, np.float32, np.float64)[seed % 3]
        levels, scale = (1, 2, 5, 4000)[seed // 3 % 4], (1.0, 1e-3, 10.0)[seed % 5 % 3]
        given = Category([], [], [], [], [])
        for i in range(int(rng.integers(1, 6))):
            shape = rng.integers(1, 14, 2)
            mask = (rng.random(shape) < (0.0, 0.1, 0.5)[(i + seed) % 3]) | (rng.random() < 0.02)
            values = (rng.integers(0, levels, shape) - levels // 2 + levels * mask * rng.random()) * scale
            given.maps.append(values.astype(dtype))
            given.masks.append(mask)
            given.scores.append(float(rng.integers(0, 5)))
            given.labels.append(None if seed % 2 else int(mask.any()))
            given.types.append("ab"[i % 2])
        yield given


def _passes() -> Iterator[list[int]]:
    """What the passes over pixels return."""
    rng = np.random.default_rng(0)
    for dtype in (np.float16, np.float32, np.float64):
        values = np.append(np.round(rng.normal(size=3000), 2), [-0.0, 0.0]).astype(dtype)
        yield falling_order(values).tolist()
        if dtype != np.float16:
            yield DefectValues(np.unique(values[:40] + dtype(0))).count([values, values[::2].copy()]).tolist()
    counts = np.zeros(1 << 16, dtype=np.int64)
    count_patterns(rng.normal(size=900).astype(np.float16).view(np.uint16), counts)
    yield counts[counts > 0].tolist()


def results() -> dict[str, Any]:
    """All that the batch comes to, as plain numbers."""
    scored = [asdict(result) for given in categories() for result in (given.scored(), given.scored_unrounded())]
    return {"scored": scored, "passes": list(_passes())}


if __name__ == "__main__":
    print(json.dumps({"compiled": COMPILED, **results()}))
