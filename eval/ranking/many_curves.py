"""The metrics of many rankings at once: B of them over the same K descending groups of values.

The same definitions as in eval/ranking/curves.py and eval/regions/. A group of several values is a straight
 line between its ends (AUROC, PRO), or lies where its defect pixels do on average (average precision); a group
of one value is a tie, as there.

`positives` and `negatives` are (B, K) float64, what lies in each group, highest values first. A ranking that lacks what
its metric needs comes out as NaN.
"""

import numpy as np


def auroc_rows(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """AUROC of each ranking, (B,)."""
    hits = np.cumsum(positives, axis=1)
    pairs_won = np.sum((hits - positives / 2) * negatives, axis=1)
    return _ratio(pairs_won, hits[:, -1] * np.sum(negatives, axis=1))


def average_precision_rows(positives: np.ndarray, negatives: np.ndarray, below: np.ndarray | float = 0.0) -> np.ndarray:
    """Average precision of each ranking, (B,).

    `below` is (2, K) as in `ValueGroups`, 0 where groups are single values.
    """
    below = np.broadcast_to(below, (2, positives.shape[1]))
    hits = np.cumsum(positives, axis=1) - below[0] * positives
    called = hits + np.cumsum(negatives, axis=1) - below[1] * negatives
    return _ratio(np.sum(positives * _ratio(hits, called, empty=0), axis=1), np.sum(positives, axis=1))


def f1_max_rows(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """The largest F1 over the lower ends of the groups of each ranking, (B,)."""
    hits, called = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
    best = np.max(hits / (called + hits[:, -1:] + (hits[:, -1:] == 0)), axis=1)
    return np.where(hits[:, -1] > 0, 2 * best, np.nan)


def pro_rows(shares: np.ndarray, num_regions: np.ndarray, negatives: np.ndarray, fpr_limit: float) -> np.ndarray:
    """PRO of each ranking, (B,): `shares` (B, K) regions newly covered, `num_regions` (B,) regions in all."""
    totals = np.sum(negatives, axis=1, keepdims=True)
    run = _ratio(negatives, totals)
    ends = np.cumsum(run, axis=1)
    gained = _ratio(shares, num_regions[:, None])
    starts = np.cumsum(gained, axis=1) - gained
    inside = np.clip(fpr_limit - (ends - run), 0, run)  # how far each group reaches before the limit
    area = np.sum(inside * (starts + gained * _ratio(inside, run, empty=0) / 2), axis=1)
    return area / fpr_limit


def region_f1_rows(components: np.ndarray, hits: np.ndarray, num_regions: np.ndarray) -> np.ndarray:
    """The largest region F1 over the lower ends of the groups of each ranking, (B,).

    `components` and `hits` are (B, K), by how many the predicted components and those that hit a region change in each
    group; `num_regions` (B,) is the number of regions.
    """
    predicted = np.cumsum(components, axis=1)
    return np.max(_ratio(2 * np.cumsum(hits, axis=1), predicted + num_regions[:, None]), axis=1)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """What above / below is, and `empty` where below is 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, float(empty)), where=below != 0)
