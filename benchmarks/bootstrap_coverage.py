"""How often the intervals of bootstrap.py hold the truth, and how often paired.py sees what is not there.

    python -m benchmarks.bootstrap_coverage [tables, 250 by default] [normal images, anomalous images]

Test sets are made up again and again from one known population: small maps with rectangular defects, in which every
image has its own difficulty, shared in part by two runs. The truth is the metric of a very large set; the second truth,
for F1-max above all, which lies higher on small sets, is the mean over all sets of the size at hand. Rates in percent.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.scorer import Scorer
from eval.table_text import markdown_table
from eval.uncertainty.bootstrap import RESAMPLED, Resampled, mean_over, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups
from eval.uncertainty.paired import NO_DIFFERENCE, Difference, adjust, compare

SIDE, CATEGORIES, RESAMPLES, GROUPS = 24, 4, 1000, 128
SHARED = 0.7  # of the variance of an image's difficulty
COLUMNS = (
    "metric", "A", "B", "interval of A: truth", "truth at this size", "of its mean", "difference", "of the means",
    "p < 0.05", "means p < 0.05", "any category after Holm",
)  # fmt: skip
Interval = tuple[float, float]


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


@dataclass
class Seen:
    """What the tables showed of one metric: of run A alone, of A - B, and of both as means over the categories."""

    estimates: list[float] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    mean_intervals: list[Interval] = field(default_factory=list)
    mean_differences: list[Difference] = field(default_factory=list)
    tables_with_a_verdict: int = 0

    def row(self, a: float, b: float, gap: float) -> list[str]:
        """Cells in percent; `a` and `b` are the true values of the runs, `gap` the true difference."""
        at_size = float(np.mean(self.estimates))
        pairs = [(d.low, d.high) for d in self.differences], [(d.low, d.high) for d in self.mean_differences]
        cells = [
            held(self.intervals, a), held(self.intervals, at_size), held(self.mean_intervals, at_size),
            *(held(each, gap) for each in pairs),
            *(100 * np.mean([d.p_value < 0.05 for d in each]) for each in (self.differences, self.mean_differences)),
            100 * self.tables_with_a_verdict / len(self.mean_differences),
        ]  # fmt: skip
        return [f"{a:.3f}", f"{b:.3f}", *(f"{cell:.1f}" for cell in cells)]


def held(intervals: Sequence[Interval], truth: float) -> float:
    return 100 * float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals]))


def add_table(
    seen: Mapping[str, Seen], rng: np.random.Generator, normal: int, anomalous: int, runs: Sequence[Strength]
) -> None:
    """Draw the test sets of one table and score both runs on them."""
    found, drawn = [], []
    for _ in range(CATEGORIES):
        sets, seed = draw_set(rng, normal, anomalous, runs), int(rng.integers(1 << 60))
        scorers = [score(images) for images in sets]
        found.append([scorer.compute().metrics for scorer in scorers])
        drawn.append([draws_of(images, scorer, seed) for images, scorer in zip(sets, scorers, strict=True)])
    means = [mean_over({str(i): pair[run] for i, pair in enumerate(drawn)}) for run in (0, 1)]
    for metric, of in seen.items():
        table = {}
        for i, (values, pair) in enumerate(zip(found, drawn, strict=True)):
            of.estimates.append(values[0][metric])
            of.intervals.append(pair[0].interval(metric))
            table[str(i)] = compare(metric, (values[0][metric], values[1][metric]), tuple(pair))
        of.differences += table.values()
        of.tables_with_a_verdict += any(each.verdict != NO_DIFFERENCE for each in adjust(table).values())
        both = [float(np.mean([values[run][metric] for values in found])) for run in (0, 1)]
        of.mean_intervals.append(means[0].interval(metric))
        of.mean_differences.append(compare(metric, (both[0], both[1]), (means[0], means[1])))


def study(normal: int, anomalous: int, runs: Sequence[Strength], tables: int) -> None:
    """Print how often the intervals of so many tables held the truth, which is taken from two sets of 10,000 images."""
    started, rng = time.perf_counter(), np.random.default_rng(normal + 1000 * anomalous)
    factor, same = 10_000 // (normal + anomalous), runs[0] == runs[1]
    large = [
        [score(images).compute().metrics for images in draw_set(rng, normal * factor, anomalous * factor, runs)]
        for _ in range(2)
    ]
    seen = {metric: Seen() for metric in RESAMPLED}
    for _ in range(tables):
        add_table(seen, rng, normal, anomalous, runs)
    print(
        f"\n{normal} normal and {anomalous} anomalous images, "
        f"{'two equally good runs' if same else 'A better than B'}: {tables} tables of {CATEGORIES} categories, "
        f"{RESAMPLES} resamples, {time.perf_counter() - started:.0f} s"
    )
    rows = []
    for metric, of in seen.items():
        a, b = (float(np.mean([one[run][metric] for one in large])) for run in (0, 1))
        rows.append([metric, *of.row(a, b, 0.0 if same else a - b)])
    print(markdown_table(COLUMNS, rows), end="", flush=True)


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
