"""AUROC, average precision and F1-max of a ranking: exact, ties included.

A score at or above the threshold is called anomalous, and every distinct score is one threshold. All
three metrics follow from one thing, how many anomalous and normal items lie at or above each distinct
score (`RankingCurve`), whether those counts come from an array or from a histogram.
"""

from dataclasses import dataclass

import numpy as np

from eval.errors import ScoringInputError


@dataclass(frozen=True)
class F1Max:
    """The best F1 over all thresholds, where it is reached, and precision and recall there, in [0, 1].

    `threshold` is in the unit of the scores; the highest one where several reach the same F1.
    """

    value: float
    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class RankingCurve:
    """How many anomalous and how many normal items score at or above each of K distinct values.

    `thresholds` is (K,), strictly descending; `true_positives` and `false_positives` are (K,) int64,
    never falling, and end in the numbers of anomalous and of normal items.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    @property
    def num_positive(self) -> int:
        """How many items are anomalous."""
        return int(self.true_positives[-1]) if self.true_positives.size else 0

    @property
    def num_negative(self) -> int:
        """How many items are normal."""
        return int(self.false_positives[-1]) if self.false_positives.size else 0

    def auroc(self) -> float:
        """The chance that an anomalous item outscores a normal one, a tie counting half, in [0, 1].

        Raises:
            ScoringInputError: without an anomalous or without a normal item.
        """
        self._expect_both()
        pairs_won = np.diff(self.true_positives, prepend=0) * -0.5
        pairs_won += self.true_positives
        pairs_won *= np.diff(self.false_positives, prepend=0)
        return float(np.sum(pairs_won) / (self.num_positive * self.num_negative))

    def auroc_up_to(self, fpr_limit: float) -> float:
        """The area up to a false positive rate in (0, 1], brought to a scale on which chance has 0.5, in [0, 1].

        McClish 1989, as scikit-learn's `max_fpr`.

        Raises:
            ScoringInputError: without an anomalous or without a normal item.
        """
        self._expect_both()
        rates = np.concatenate([[0.0], self.false_positives / self.num_negative])
        found = np.concatenate([[0.0], self.true_positives / self.num_positive])
        chance = fpr_limit**2 / 2
        return (1 + (area_up_to(fpr_limit, rates, found) - chance) / (fpr_limit - chance)) / 2

    def average_precision(self) -> float:
        """Precision averaged over the recall gained at each threshold (no interpolation), in (0, 1].

        Raises:
            ScoringInputError: without an anomalous item.
        """
        self._expect_positive("Average precision")
        hits, called, _ = self._where_found()
        return float(np.sum(hits / called * np.diff(hits, prepend=0)) / self.num_positive)

    def f1_max(self) -> F1Max:
        """The largest F1 over all thresholds.

        Raises:
            ScoringInputError: without an anomalous item.
        """
        self._expect_positive("F1")
        hits, called, indices = self._where_found()
        f1 = 2 * hits / (called + self.num_positive)
        best = int(np.argmax(f1))  # the first, hence the highest threshold, of equals
        return F1Max(
            value=float(f1[best]),
            threshold=float(self.thresholds[indices[best]]),
            precision=int(hits[best]) / int(called[best]),
            recall=int(hits[best]) / self.num_positive,
        )

    def _where_found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where anomalous items are found, and so F1 and precision can gain: true positives, all called, indices."""
        indices = np.flatnonzero(np.diff(self.true_positives, prepend=0))
        hits = self.true_positives[indices]
        return hits, hits + self.false_positives[indices], indices

    def _expect_both(self) -> None:
        if not self.num_positive or not self.num_negative:
            raise ScoringInputError(
                "AUROC compares anomalous with normal items, so at least one of each was expected; got "
                f"{self.num_positive} anomalous and {self.num_negative} normal. Leave this set out of the average."
            )

    def _expect_positive(self, metric: str) -> None:
        if not self.num_positive:
            raise ScoringInputError(
                f"{metric} is about the anomalous items found, so at least one was expected; got none among "
                f"{self.num_negative}. Leave this set out of the average."
            )


def area_up_to(limit: float, x: np.ndarray, y: np.ndarray) -> float:
    """Area under the straight lines joining (x, y), x never falling from 0 to 1, from x = 0 to the limit."""
    inside = int(np.searchsorted(x, limit, side="right"))  # points at or left of the limit; at least (0, 0)
    area = float(np.sum(np.diff(x[:inside]) * (y[1:inside] + y[: inside - 1]) / 2))
    if inside == x.size:
        return area
    run = limit - x[inside - 1]
    slope = (y[inside] - y[inside - 1]) / (x[inside] - x[inside - 1])
    return area + float(run * (y[inside - 1] + slope * run / 2))


def curve_from_counts(values: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> RankingCurve:
    """The curve of K distinct values (K,), strictly descending, with how many of each kind have them, (K,) each."""
    return RankingCurve(
        thresholds=values,
        true_positives=np.cumsum(positives, dtype=np.int64),
        false_positives=np.cumsum(negatives, dtype=np.int64),
    )


def curve_from_scores(scores: np.ndarray, labels: np.ndarray) -> RankingCurve:
    """The curve of (N,) scores of any float type, not rounded, with (N,) labels, bool or 0/1, 1 anomalous.

    Raises:
        ScoringInputError: for arrays that are not 1-D and equally long, NaN or inf, other labels than 0 and 1.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ScoringInputError(
            f"Expected scores and labels as two 1-D arrays of one length, got shapes {scores.shape} and "
            f"{labels.shape}. Flatten both in the same order, for example with ravel()."
        )
    is_number = scores.dtype.kind in "fiu"
    bad = int(np.count_nonzero(~np.isfinite(scores))) if is_number else 0
    if bad or not is_number:
        raise ScoringInputError(
            f"Expected finite numbers as scores, got {scores.dtype} with "
            f"{bad} NaN or infinite. Mend what produced them: they have no place in a ranking."
        )
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ScoringInputError(
            f"Expected labels 0 (normal) and 1 (anomalous), or bool, got values such as "
            f"{labels[~np.isin(labels, (0, 1))][0]!r}. Turn them into bool by the rule your data set states."
        )
    values, ranks = np.unique(scores, return_inverse=True)  # ascending
    anomalous = labels.astype(bool)
    positives, negatives = (np.bincount(ranks[of], minlength=values.size)[::-1] for of in (anomalous, ~anomalous))
    return curve_from_counts(values[::-1], positives, negatives)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve of (N,) scores and labels; see `RankingCurve.auroc`, `curve_from_scores`."""
    return curve_from_scores(scores, labels).auroc()


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision of (N,) scores and labels; see `RankingCurve.average_precision`, `curve_from_scores`."""
    return curve_from_scores(scores, labels).average_precision()


def f1_max(scores: np.ndarray, labels: np.ndarray) -> F1Max:
    """Largest F1 over all thresholds of (N,) scores and labels; see `curve_from_scores`."""
    return curve_from_scores(scores, labels).f1_max()


def f1_floor(num_positive: int, num_total: int) -> float:
    """The F1 of calling everything anomalous, in (0, 1]: what F1-max cannot fall below.

    Raises:
        ScoringInputError: unless 1 <= num_positive <= num_total.
    """
    if not 1 <= num_positive <= num_total:
        raise ScoringInputError(
            f"The F1 floor needs at least one anomalous item and no more of them than items, got {num_positive} "
            f"of {num_total}. Leave a set without anomalous items out of the average."
        )
    return 2 * num_positive / (num_positive + num_total)
