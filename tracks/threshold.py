"""From image scores of normal photos to the threshold of a verdict, honest about how few photos there are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit, stdtr, stdtrit

from models.base import AnomalyModel, Prediction
from models.errors import ModelInputError
from tracks.errors import TrackInputError

LARGEST_SPREAD_FACTOR = 4.0
"""At most this many standard deviations above the mean: two or three references cannot ask for more."""
SINGLE_MARGIN = 0.25
"""One reference has no spread: the threshold is its score and this share of it more."""
SINGLE_LOG_ODDS = 1.0
"""The same for a score that is a probability."""
LEAST_PROBABILITY = 1e-6
"""Nearer to 0 or 1 no odds are told apart."""
FALLBACK = 0.5
"""The threshold where neither references nor the weights give one; assumes scores that are probabilities."""


@dataclass(frozen=True)
class Threshold:
    """An image is a defect when its score is `value` or more.

    `false_alarm_rate` is the share of good images expected above it (None: unknown) and `source` says in a
    sentence where the value comes from. A score between `value` and `highest_normal`, the highest score of a
    reference, is one that the references contradict: unsure.
    """

    value: float
    source: str
    false_alarm_rate: float | None = None
    highest_normal: float | None = None

    def is_defect(self, score: float) -> bool:
        """The verdict on an image score."""
        return score >= self.value

    def is_unsure(self, score: float) -> bool:
        """Whether threshold and references disagree on this score; False without references."""
        if self.highest_normal is None:
            return False
        return min(self.value, self.highest_normal) < score <= max(self.value, self.highest_normal)


def fit_threshold(
    reference_scores: Sequence[float], target_rate: float = 0.05, probabilities: bool = False
) -> Threshold:
    """A threshold from the leave-one-out scores of K normal images alone, K >= 1.

    `target_rate` in (0, 1) is the share of good images that may be called defects. With enough references
    (K + 1 >= 1 / target_rate) the rule is split conformal: an order statistic, right for any distribution of
    exchangeable scores. With fewer it is the upper end of Student's prediction interval for one more normal
    draw, never below the highest reference; that one is exceeded by a new good image with probability 1/(K+1).
    Both hold for scores like those of new good images. Leave-one-out scores lie somewhat above these, the more so
    the smaller K, as each reference is compared with K - 1 others: real rates are then below what is stated.

    Scores that are `probabilities` in [0, 1] are fitted by their log odds, so that the threshold stays below 1; it is
    never further above the highest than it would be above a single reference.

    Raises:
        TrackInputError: no score, a score that is not finite, or a rate outside (0, 1).
    """
    scores = np.sort(np.asarray(reference_scores, dtype=np.float64))
    if scores.size == 0 or not np.isfinite(scores).all():
        raise TrackInputError(
            f"expected the finite scores of one or more references to fit a threshold, got {scores.tolist()}; "
            "check the reference images"
        )
    if not 0 < target_rate < 1:
        raise TrackInputError(f"expected a false-alarm rate between 0 and 1, got {target_rate}; try 0.05")
    if probabilities:
        return _by_log_odds(scores, target_rate)
    rank = math.ceil((1 - target_rate) * (scores.size + 1) - 1e-9)
    if rank <= scores.size:
        return _conformal(scores, rank)
    return _single(scores[0]) if scores.size == 1 else _student(scores, target_rate)


def known_threshold(value: float | None, source: str) -> Threshold:
    """The threshold that comes with the weights, or 0.5 with that said."""
    if value is None:
        return Threshold(FALLBACK, "0.5, a convention: neither references nor the weights give a threshold")
    return Threshold(float(value), f"from the weights: {source or 'no source stated'}")


def weights_threshold(model: AnomalyModel) -> Threshold:
    """What the model, or the header of its adapter, states as the threshold of the zero-shot image score."""
    header = model if hasattr(model, "image_threshold") else getattr(getattr(model, "adapter", None), "header", None)
    return known_threshold(getattr(header, "image_threshold", None), getattr(header, "threshold_source", ""))


def leave_one_out(model: AnomalyModel, category: str) -> Prediction:
    """The K references of a fitted category, each scored without itself: what `fit_threshold` wants.

    Raises:
        TrackInputError: the model cannot score its own references.
    """
    try:
        with torch.inference_mode():
            return model.reference_prediction(category)
    except (NotImplementedError, ModelInputError) as error:
        raise TrackInputError(
            "expected a model that scores each of its references as if it were a test image, to fit a threshold on "
            f"them; {type(model).__name__} does not{f' ({error})' if str(error) else ''}"
        ) from error


def _by_log_odds(scores: np.ndarray, target_rate: float) -> Threshold:
    odds = logit(np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
    if scores.size == 1:
        value = _just_above(float(expit(odds[0] + SINGLE_LOG_ODDS)))
        source = (
            f"the score of the only reference, its odds x {math.exp(SINGLE_LOG_ODDS):.1f}, a convention: one shows "
            "no spread; false alarms up to 50%, more references bring that down"
        )
        return Threshold(value, source, 0.5, float(scores[0]))
    found = fit_threshold(odds.tolist(), target_rate)
    if found.value > odds[-1] + SINGLE_LOG_ODDS:
        return _least_margin(scores, odds)
    value = max(float(expit(found.value)), float(scores[-1])) if found.value > odds[-1] else float(expit(found.value))
    source = found.source.replace("reference scores", "reference scores as log odds", 1)
    return Threshold(_just_above(value), source, found.false_alarm_rate, float(scores[-1]))


def _least_margin(scores: np.ndarray, odds: np.ndarray) -> Threshold:
    """One good image unlike the others asks for no wider margin than a single reference does."""
    count, value = scores.size, odds[-1] + SINGLE_LOG_ODDS
    widening = math.sqrt(1 + 1 / count)
    rate = 1 - float(stdtr(count - 1, (value - odds.mean()) / odds.std(ddof=1) / widening))
    source = (
        f"the highest of {count} reference scores, its odds x {math.exp(SINGLE_LOG_ODDS):.1f}, as with a single "
        f"reference; false alarms about {rate:.1%} if good scores are normally distributed as log odds, at most "
        f"{1 / (count + 1):.0%} if not"
    )
    return Threshold(_just_above(max(float(expit(value)), float(scores[-1]))), source, rate, float(scores[-1]))


def _conformal(scores: np.ndarray, rank: int) -> Threshold:
    """The `rank`-th smallest of K scores: a new good image exceeds it with probability 1 - rank / (K + 1)."""
    count = scores.size
    rate = 1 - rank / (count + 1)
    source = f"conformal, number {rank} of {count} reference scores in rising order; false alarms about {rate:.1%}"
    return Threshold(_just_above(scores[rank - 1]), source, rate, float(scores[-1]))


def _student(scores: np.ndarray, target_rate: float) -> Threshold:
    """The mean + c * std with c from Student's t (K - 1 degrees of freedom), for 2 <= K."""
    count = scores.size
    widening = math.sqrt(1 + 1 / count)  # the mean is itself an estimate
    factor = min(float(stdtrit(count - 1, 1 - target_rate)) * widening, LARGEST_SPREAD_FACTOR)
    rate = 1 - float(stdtr(count - 1, factor / widening))
    bound = scores.mean() + factor * scores.std(ddof=1)
    source = (
        f"mean + {factor:.2f} standard deviations of {count} reference scores, at least their maximum; "
        f"false alarms about {rate:.1%} if good scores are normally distributed, at most {1 / (count + 1):.0%} if not"
    )
    return Threshold(_just_above(max(bound, scores[-1])), source, rate, float(scores[-1]))


def _single(score: float) -> Threshold:
    source = (
        f"the score of the only reference + {SINGLE_MARGIN:.0%}, a convention: one image shows no spread; "
        "false alarms up to 50%, more references bring that down"
    )
    return Threshold(_just_above(score + SINGLE_MARGIN * abs(score)), source, 0.5, float(score))


def _just_above(score: float) -> float:
    """The next float32, so that a photo that scores exactly as a reference does is no defect."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))
