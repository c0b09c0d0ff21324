"""What rounding the maps of a category to float16 costs its ranking, measured on a sample of its pixels."""

import numpy as np

from eval.ranking.curves import RankingCurve, curve_from_counts

PIXELS_OF_A_KIND = 500
"""So many defect and so many normal pixels of an image are looked at, spread over all of them."""
LARGEST_CHANGE = 0.001
"""A change of AUROC or AP beyond this is said: it shows in a table."""

Pixels = tuple[np.ndarray, np.ndarray]


class RoundingSample:
    """Some pixels of a category as they were before rounding: up to 12 kB for an anomalous image, 6 for a normal one.

    Args:
        pixels: to begin with, as `pixels()` returns them.
    """

    def __init__(self, pixels: Pixels | None = None) -> None:
        self._parts = [] if pixels is None else [pixels]

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Take pixels of a map (H, W) before rounding and its bool mask; float16 maps and unknown masks have none."""
        if mask is None or anomaly_map.dtype == np.float16:
            return
        normal, defect = (_spread(np.flatnonzero(pixels)) for pixels in (~mask, mask))
        weights = np.repeat([-normal[1], defect[1]], [normal[0].size, defect[0].size])
        self._parts.append((anomaly_map.ravel()[np.concatenate([normal[0], defect[0]])], weights))

    def merge(self, other: "RoundingSample") -> None:
        """Add the pixels of `other`; the order does not matter."""
        self._parts += other._parts

    def pixels(self) -> Pixels:
        """Values (N,) and weights (N,) int64: how many pixels each stands for, negative if they are normal."""
        parts = [(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)), *self._parts]
        values, weights = (np.concatenate(of) for of in zip(*parts, strict=True))
        return values, weights

    def change(self) -> dict[str, float]:
        """By how much rounding changes the pixels' AUROC and AP, by metric; empty without pixels of either kind."""
        values, weights = self.pixels()
        if not (weights > 0).any() or not (weights < 0).any():
            return {}
        with np.errstate(over="ignore"):  # beyond float16: infinite, the highest of all
            rounded = values.astype(np.float16)
        before, after = _curve(values, weights), _curve(rounded, weights)
        return {
            "auroc_seg": after.auroc() - before.auroc(),
            "ap_seg": after.average_precision() - before.average_precision(),
        }


def rank_loss(change: dict[str, float]) -> str:
    """What to say of a change that shows, as `RoundingSample.change` gives it; empty for one that does not."""
    if max(map(abs, change.values()), default=0.0) <= LARGEST_CHANGE:
        return ""
    return (
        "Rounding to float16 makes distinct values of the maps equal, and costs their ranking: by a sample of them it "
        f"changes AUROC by about {change['auroc_seg']:+.3f} and AP by about {change['ap_seg']:+.3f}"
    )


def _spread(places: np.ndarray) -> tuple[np.ndarray, int]:
    """At most `PIXELS_OF_A_KIND` of places (N,), one out of each run of neighbours, and how many each stands for."""
    every = max(1, -(-places.size // PIXELS_OF_A_KIND))
    starts = np.arange(0, places.size, every)
    within = np.random.default_rng(0).integers(every, size=starts.size)  # no regular step: it might follow a column
    return places[np.minimum(starts + within, places.size - 1)], every


def _curve(values: np.ndarray, weights: np.ndarray) -> RankingCurve:
    distinct, ranks = np.unique(values, return_inverse=True)
    counts = [np.bincount(ranks, np.maximum(of, 0), distinct.size)[::-1] for of in (weights, -weights)]
    return curve_from_counts(distinct[::-1], *counts)
