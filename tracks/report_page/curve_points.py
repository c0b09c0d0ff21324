"""The points of PR, ROC and PRO curves, and the few of them that a drawing needs."""

from dataclasses import dataclass

import numpy as np

from eval.ranking.curves import RankingCurve


@dataclass(frozen=True, eq=False)
class Points:
    """A polyline (N, 2) of x and y in [0, 1], x never falling; `of` is how many thresholds it stands for."""

    xy: np.ndarray
    of: int


def roc_points(curve: RankingCurve) -> Points:
    """False positive rate against recall from (0, 0) to (1, 1); straight between thresholds, as ties count half."""
    x = np.concatenate([[0.0], curve.false_positives / curve.num_negative])
    y = np.concatenate([[0.0], curve.true_positives / curve.num_positive])
    return Points(np.stack([x, y], axis=1), curve.thresholds.size)


def precision_recall_points(curve: RankingCurve) -> Points:
    """Recall against precision as average precision adds it up: in steps, each at the precision of its right end."""
    recall = curve.true_positives / curve.num_positive
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    before = np.concatenate([[0.0], recall[:-1]])
    steps = np.stack([np.stack([before, precision], axis=1), np.stack([recall, precision], axis=1)], axis=1)
    return Points(steps.reshape(-1, 2), curve.thresholds.size)


def pro_points(rate: np.ndarray, overlap: np.ndarray, limit: float) -> Points:
    """False positive rate (K,) against mean overlap of the defect regions (K,), from rate 0 up to `limit`."""
    inside = rate <= limit
    x, y = np.append(rate[inside], limit), np.append(overlap[inside], np.interp(limit, rate, overlap))
    return Points(np.stack([x, y], axis=1), int(rate.size))


def thin(xy: np.ndarray, tolerance: float) -> np.ndarray:
    """A subset of the points (N, 2), ends included, such that none left out is further than `tolerance` from the line.

    Splits at the furthest point until none is too far (Ramer 1972; Douglas and Peucker 1973).
    """
    keep = np.zeros(len(xy), dtype=bool)
    keep[[0, -1]] = True
    todo = [(0, len(xy) - 1)]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        distance = _distance_to_segment(xy[first + 1 : last], xy[first], xy[last])
        furthest = int(np.argmax(distance))
        if distance[furthest] > tolerance:
            middle = first + 1 + furthest
            keep[middle] = True
            todo += [(first, middle), (middle, last)]
    return xy[keep]


def _distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(points - start - share[:, None] * along, axis=1)
