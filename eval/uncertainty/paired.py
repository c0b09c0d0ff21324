"""Which of two runs over the same images is better, and is it more than noise.

Both runs are drawn alike (bootstrap.py), so an image that is hard for both cancels out, and the spread of their
difference over the draws is what another draw of images would change. The interval of a difference is the expanded
percentile one; its p-value, two-sided, is 1 - the level at which that interval begins to touch zero. Where no draw lies
beyond zero, it is the one that a single such draw would give, or that of Student's t (the difference over the spread of
its draws) if that is smaller: 1000 draws tell p-values down to about 0.005, and more draws smaller ones.

Over several categories the p-values are adjusted by Holm's rule (Scandinavian Journal of Statistics, 1979): the chance
that any category is called different although none is stays below 1 - level, for each metric on its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtr

from eval.errors import ScoringInputError
from eval.uncertainty.bootstrap import Resampled, lower_tail, quantiles, small_set

A_BETTER, B_BETTER, NO_DIFFERENCE = "A better", "B better", "no difference beyond noise"
TOO_FEW = "too few images to tell"
_SMALLEST_P = 1e-6


@dataclass(frozen=True)
class Difference:
    """One metric of two runs over the same images: `difference` is a - b, `low` and `high` its interval.

    `p_adjusted` is the p-value after Holm's rule over the categories compared, and decides the verdict. Without draws
    the interval and the p-values are None.
    """

    a: float
    b: float
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    verdict: str = TOO_FEW


def compare(
    metric: str, estimates: tuple[float, float], draws: tuple[Resampled, Resampled], level: float = 0.95
) -> Difference:
    """The difference of one metric; `estimates` are the exact values of A and B, `draws` their resamples.

    Its verdict is that of the unadjusted p-value; see `adjust`.

    Raises:
        ScoringInputError: for resamples of different images or numbers, or a level outside (0, 1).
    """
    (a, b), (of_a, of_b) = estimates, draws
    if metric not in of_a.samples and metric not in of_b.samples:
        return Difference(a, b, a - b)
    if of_a.sizes.get(metric) != of_b.sizes.get(metric) or of_a.samples[metric].size != of_b.samples[metric].size:
        raise ScoringInputError(
            f"Expected two runs drawn alike to compare {metric}, got draws of other images or another number of them. "
            "Resample both over the same images, in one order, with one seed and number of resamples."
        )
    samples = of_a.samples[metric] - of_b.samples[metric]
    tail = lower_tail(level, of_a.sizes[metric])
    low, high = quantiles(samples, tail, 1 - tail)
    p_value = two_sided_p(a - b, samples, of_a.sizes[metric])
    return _judged(Difference(a, b, a - b, low, high, p_value, p_value), level)


def two_sided_p(difference: float, samples: np.ndarray, sizes: Sequence[int]) -> float:
    """The p-value of no difference, in (0, 1], from (B,) differences over the draws; `sizes` as in `Resampled`."""
    samples = samples[np.isfinite(samples)]
    beyond = min(int(np.count_nonzero(samples <= 0)), int(np.count_nonzero(samples >= 0)))
    if 2 * beyond >= samples.size:
        return 1.0
    distance = -ndtri((beyond + 1) / (samples.size + 1))
    if not beyond:
        spread = float(np.std(samples))
        distance = max(distance, abs(difference) / spread if spread else np.inf)
    stretch, freedom = small_set(sizes)
    return max(2 * float(stdtr(freedom, -distance / stretch)), _SMALLEST_P)


def adjust(differences: Mapping[str, Difference], level: float = 0.95) -> dict[str, Difference]:
    """The differences of one metric by category, with p-values adjusted by Holm's rule and the verdicts that follow."""
    p_values = {name: each.p_value for name, each in differences.items() if each.p_value is not None}
    tested = sorted(p_values.items(), key=lambda named: named[1])
    adjusted, smallest = dict(differences), 0.0
    for rank, (name, p_value) in enumerate(tested):
        smallest = max(smallest, min(1.0, p_value * (len(tested) - rank)))
        adjusted[name] = _judged(replace(differences[name], p_adjusted=smallest), level)
    return adjusted


def _judged(difference: Difference, level: float) -> Difference:
    if difference.p_adjusted is None or difference.p_adjusted >= 1 - level:
        return replace(difference, verdict=NO_DIFFERENCE)
    return replace(difference, verdict=A_BETTER if difference.difference > 0 else B_BETTER)
