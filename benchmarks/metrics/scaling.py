"""Do shards add up, and does memory stay flat?

python -m benchmarks.metrics.scaling IMAGES SIZE SEED streams so many images through one scorer and prints its peak.
"""

import itertools
import json
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import peak_mb, reset_peak
from benchmarks.metrics.workload import make_image
from eval.category import ScoreCurves
from eval.scorer import Scorer

NUM_SHARDS = 8
POOL = 50


def check_merge(num_images: int, size: int, seed: int) -> dict[str, Any]:
    """Score 8 shards in 8 processes, add up the files they leave, and compare with one pass, bit for bit."""
    one_pass = _scored(range(num_images), size, seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{shard}.state" for shard in range(NUM_SHARDS)]
        numbers = [range(shard, num_images, NUM_SHARDS) for shard in range(NUM_SHARDS)]
        with ProcessPoolExecutor(NUM_SHARDS, multiprocessing.get_context("spawn")) as processes:
            list(processes.map(_save_shard, numbers, itertools.repeat(size), itertools.repeat(seed), paths))
        merged = {name: _merged(order) for name, order in (("in order", paths), ("backwards", paths[::-1]))}
        sizes = [path.stat().st_size for path in paths]
    expected = one_pass.compute()
    return {
        "images": num_images,
        "shards": NUM_SHARDS,
        "largest_shard_bytes": max(sizes),
        "same_metrics": {name: scorer.compute() == expected for name, scorer in merged.items()},
        "same_curves": {name: _same(scorer.curves(), one_pass.curves()) for name, scorer in merged.items()},
        "num_metrics": sum(value is not None for value in expected.metrics.values()),
    }


def _scored(numbers: Iterable[int], size: int, seed: int) -> Scorer:
    scorer = Scorer()
    for number in numbers:
        anomaly_map, mask = make_image(number, size, seed)
        scorer.update(anomaly_map.astype(np.float16), mask, float(anomaly_map.max()))
    return scorer


def _save_shard(numbers: Iterable[int], size: int, seed: int, path: Path) -> None:
    _scored(numbers, size, seed).save(path)


def _merged(paths: Iterable[Path]) -> Scorer:
    total = Scorer()
    for path in paths:
        total.merge(Scorer.load(path))
    return total


def _same(one: ScoreCurves, other: ScoreCurves) -> bool:
    """Whether all arrays of two sets of curves hold the same bits."""
    return pickle.dumps(asdict(one)) == pickle.dumps(asdict(other))


def stream(num_images: int, size: int, seed: int) -> dict[str, Any]:
    """Score N float16 maps that exist one at a time, 50 rendered ones in turn, each time scaled a little differently.

    `peak_mb` is of the whole process, `extra_mb` above what it held before the first image.
    """
    pool = [make_image(number, size, seed) for number in range(POOL)]
    pool = [(anomaly_map.astype(np.float16), mask) for anomaly_map, mask in pool]
    scorer = Scorer()
    scorer.update(*pool[1], 0.0)  # compiled here, not below
    scorer.compute()
    scorer, before, started = Scorer(), reset_peak(), time.perf_counter()
    for number in range(num_images):
        anomaly_map, mask = pool[number % POOL]
        scaled = anomaly_map * np.float16(1 - number // POOL / 1024)
        scorer.update(scaled, mask, float(scaled.max()))
    scorer.compute()
    seconds, peak = time.perf_counter() - started, peak_mb()
    return {"images": num_images, "seconds": seconds, "peak_mb": peak, "extra_mb": peak - before}


if __name__ == "__main__":
    print(json.dumps(stream(*map(int, sys.argv[1:]))))
