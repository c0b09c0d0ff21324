"""How often the intervals of bootstrap.py hold the truth, and how often paired.py sees what is not there.

    python -m benchmarks.bootstrap_coverage [tables, 250 by default] [normal images, anomalous images]

Test sets are made up again and again from one known population: small maps with rectangular defects, in which every
image has its own difficulty, shared in part by two runs. The truth is the metric of a very large set; the second truth,
for F1-max above all, which lies higher on small sets, is the mean over all sets of the size at hand. Rates in percent.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.scorer import Scorer
from eval.table_text import markdown_table
from eval.uncertainty.bootstrap import Resampled, mean_over, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups
from eval.uncertainty.paired import NO_DIFFERENCE, adjust, compare

SIDE, CATEGORIES, RESAMPLES, GROUPS = 24, 4, 1000, 128
SHARED = 0.7  # of the variance of an image's difficulty
METRICS = ("auroc_cls", "f1_cls", "ap_cls", "auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_region", "f1_harmonic")


@dataclass(frozen=True)
class Strength:
    """How far a run lifts a defect above the noise of a map, and an anomalous image above normal ones."""

    pixel: float
    image: float


def draw_set(rng: np.random.Generator, normal: int, anomalous: int, runs: Sequence[Strength]) -> list[list]:
    """For each run the images of one test set: (map, mask, score, label)."""
    number = normal + anomalous
    masks = np.zeros((number, SIDE, SIDE), dtype=bool)
    for mask in masks[:anomalous]:
        for _ in range(rng.integers(1, 3)):
            height, width = rng.integers(3, 9, 2)
            top, left = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
            mask[top : top + height, left : left + width] = True
    labels = np.arange(number) < anomalous
    common = rng.normal(size=(3, number))
    sets = []
    for run in runs:
        offset, lift, score = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * rng.normal(size=(3, number))
        coarse = rng.normal(size=(number, SIDE // 2, SIDE // 2)).repeat(2, axis=1).repeat(2, axis=2)
        maps = 0.5 * offset[:, None, None] + 0.6 * coarse + 0.3 * rng.normal(size=masks.shape)
        maps += masks * (run.pixel * np.exp(0.5 * lift))[:, None, None]
        scores = score + run.image * labels
        sets.append(list(zip(maps.astype(np.float16), masks, scores, labels.astype(int).tolist(), strict=True)))
    return sets


def score(images: list) -> Scorer:
    scorer = Scorer()
    for anomaly_map, mask, image_score, label in images:
        scorer.update(anomaly_map, mask, image_score, label)
    return scorer


def draws_of(images: list, scorer: Scorer, seed: int) -> Resampled:
    counts = ImageCounts(choose_groups(scorer.curves(), GROUPS))
    for image in images:
        counts.add(*image)
    return resample(counts, RESAMPLES, seed)


def study(normal: int, anomalous: int, runs: Sequence[Strength], tables: int) -> None:
    started, rng = time.perf_counter(), np.random.default_rng(normal + 1000 * anomalous)
    factor = 10_000 // (normal + anomalous)
    large = [
        [score(images).compute().metrics for images in draw_set(rng, normal * factor, anomalous * factor, runs)]
        for _ in range(2)
    ]
    truth = {metric: [np.mean([one[run][metric] for one in large]) for run in (0, 1)] for metric in METRICS}
    same = runs[0] == runs[1]
    estimates = {metric: [] for metric in METRICS}
    singles = {metric: [] for metric in METRICS}
    differences = {metric: [] for metric in METRICS}
    mean_values = {metric: [] for metric in METRICS}
    mean_intervals = {metric: [] for metric in METRICS}
    mean_differences = {metric: [] for metric in METRICS}
    holm_hits = dict.fromkeys(METRICS, 0)
    for _ in range(tables):
        found, drawn = [], []
        for _ in range(CATEGORIES):
            sets, seed = draw_set(rng, normal, anomalous, runs), int(rng.integers(1 << 60))
            scorers = [score(images) for images in sets]
            found.append([scorer.compute().metrics for scorer in scorers])
            drawn.append([draws_of(images, scorer, seed) for images, scorer in zip(sets, scorers, strict=True)])
        means = [mean_over({str(i): pair[run] for i, pair in enumerate(drawn)}) for run in (0, 1)]
        for metric in METRICS:
            table = {}
            for i, (values, pair) in enumerate(zip(found, drawn, strict=True)):
                estimates[metric].append(values[0][metric])
                singles[metric].append(pair[0].interval(metric))
                table[str(i)] = compare(metric, (values[0][metric], values[1][metric]), tuple(pair))
            differences[metric] += table.values()
            holm_hits[metric] += any(each.verdict != NO_DIFFERENCE for each in adjust(table).values())
            both = [float(np.mean([values[run][metric] for values in found])) for run in (0, 1)]
            mean_values[metric].append(both[0])
            mean_intervals[metric].append(means[0].interval(metric))
            mean_differences[metric].append(compare(metric, (both[0], both[1]), (means[0], means[1])))
    print(
        f"\n{normal} normal and {anomalous} anomalous images, "
        f"{'two equally good runs' if same else 'A better than B'}: {tables} tables of {CATEGORIES} categories, "
        f"{RESAMPLES} resamples, {time.perf_counter() - started:.0f} s"
    )
    columns = [
        "metric", "A", "B", "interval of A: truth", "truth at this size", "of its mean", "difference", "of the means",
        "p < 0.05", "means p < 0.05", "any category after Holm",
    ]  # fmt: skip
    rows = []
    for metric in METRICS:
        a, b = truth[metric]
        gap = 0.0 if same else a - b
        at_size = float(np.mean(estimates[metric]))
        cells = [
            held(singles[metric], a), held(singles[metric], at_size), held(mean_intervals[metric], at_size),
            held([(d.low, d.high) for d in differences[metric]], gap),
            held([(d.low, d.high) for d in mean_differences[metric]], gap),
            100 * np.mean([d.p_value < 0.05 for d in differences[metric]]),
            100 * np.mean([d.p_value < 0.05 for d in mean_differences[metric]]), 100 * holm_hits[metric] / tables,
        ]  # fmt: skip
        rows.append([metric, f"{a:.3f}", f"{b:.3f}", *(f"{cell:.1f}" for cell in cells)])
    print(markdown_table(columns, rows), end="", flush=True)


def held(intervals: Sequence[tuple[float, float]], truth: float) -> float:
    return 100 * float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals]))


def main() -> None:
    arguments = [int(argument) for argument in sys.argv[1:]]
    tables = arguments[0] if arguments else 250
    sizes = [(arguments[1], arguments[2])] if len(arguments) > 2 else [(6, 10), (20, 24), (30, 80), (100, 100)]
    equal, unequal = [Strength(1.2, 1.5)] * 2, [Strength(2.0, 3.0), Strength(1.4, 2.2)]
    for normal, anomalous in sizes:
        study(normal, anomalous, equal, tables)
        study(normal, anomalous, unequal, tables)


if __name__ == "__main__":
    main()
