"""The threshold of a verdict from image scores of good photos alone, honest about how few there are.

`fit_threshold`, in its order:

1. Probabilities become log odds and other positive scores logarithms: there good images scatter about normally.
2. A reference that scores like a defect beside the others is named and left out (`_odd`).
3. With K + 1 >= 1 / target rate references the threshold is an order statistic: split conformal, right for any
   distribution. With fewer it is the upper end of a prediction interval for one more good image (`_predicted`), whose
   spread leans on what is usual on photographs: a handful of numbers hardly shows one. Several scores of one reference
   (a model may score views of it) enter by their variance within and between references.
4. Where such a threshold deserves no verdict, `Threshold.undecided` says why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # whose `special` is imported where it is first asked for

from models.base import Prediction
from tracks.decide.threshold import ROUNDING, Threshold
from tracks.errors import TrackInputError

USUAL_LOG_ODDS, USUAL_LOGARITHMS = 0.6, 0.15
"""Standard deviations of good images' scores that are usual on the validation photographs, by scale."""
USUAL_WEIGHT = 4.0
"""It counts as much as a spread seen in this many further references."""
ODD_CHANCE = 0.01
"""A reference is odd if the highest of as many good images lies so far out with this probability at most."""
ODD_SHARE = 0.05
"""At most this share of the references (or one of them) can be odd: more of a kind are no exception."""
LEAST_FOR_ODD = 4
MAD_PER_DEVIATION = 0.6745
"""Of a normal distribution, whose MAD is worth `MAD_EFFICIENCY` as many images as the standard deviation."""
MAD_EFFICIENCY = 0.37
CEILING = 0.99
"""A threshold on probabilities from here on leaves defects next to no room."""
LEAST_PROBABILITY = 1e-6
"""Nearer to 0 or 1 no odds are told apart."""


@dataclass(frozen=True)
class Scale:
    """Where scores are fitted: its `name`, how to get there and back, and what spread is `usual` there, if known."""

    name: str
    to: np.ufunc
    back: np.ufunc
    usual: float | None


def fit_threshold(
    reference_scores: Sequence[float], target_rate: float = 0.05, probabilities: bool = False, *,
    references: Sequence[int] | None = None, names: Sequence[str] | None = None,
) -> Threshold:  # fmt: skip
    """A threshold from the leave-one-out scores of K normal images alone, K >= 1.

    `target_rate` in (0, 1) is the share of good images that may be called defects; `probabilities` says that scores lie
    in [0, 1]. `references` tells which reference (0 to K - 1) each score is of, where there are several of one; the
    first of each is that of the image as it is. `names` are those of the K references.

    Leave-one-out scores lie somewhat above those of new good images, the more so the smaller K, as each reference is
    compared with K - 1 others: real rates are then below what is stated.

    Raises:
        TrackInputError: no score, a score that is not finite, or a rate outside (0, 1).
    """
    scores = np.asarray(reference_scores, dtype=np.float64)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise TrackInputError(
            f"expected the finite scores of one or more references to fit a threshold, got {scores.tolist()}; "
            "check the reference images"
        )
    if not 0 < target_rate < 1:
        raise TrackInputError(f"expected a false-alarm rate between 0 and 1, got {target_rate}; try 0.05")
    owners = np.arange(scores.size) if references is None else np.asarray(references)
    views = [scores[owners == owner] for owner in np.unique(owners)]
    names = names or [f"reference {number}" for number in range(1, len(views) + 1)]
    own = np.array([of_one[0] for of_one in views])
    if np.ptp(own) <= ROUNDING * np.abs(own).max() and (len(views) > 1 or own[0] == 0):
        return _identical(own)
    scale = scale_of(scores, probabilities)
    fitted = [scale.to(inside(of_one, scale)) for of_one in views]
    odd = _odd(fitted, scale)
    kept = [of_one for index, of_one in enumerate(fitted) if index not in odd]
    used = np.delete(own, odd)
    found = conformal(used, target_rate) or _predicted(kept, used, scale, target_rate)
    found = replace(found, odd_references=tuple(names[index] for index in odd), reference_scores=tuple(used.tolist()))
    if odd and found.false_alarm_rate is not None:
        more = found.false_alarm_rate + len(odd) / (len(views) + 1)
        found = replace(
            found, source=f"{found.source}; {more:.1%} if {', '.join(found.odd_references)} is good after all"
        )
    return doubted(found, probabilities)


def reference_threshold(
    prediction: Prediction, names: Sequence[str], target_rate: float, probabilities: bool
) -> Threshold:
    """The threshold from what a model says of its references left out, `AnomalyModel.reference_prediction`."""
    return fit_threshold(
        prediction.image_scores.tolist(), target_rate, probabilities, references=owners(prediction), names=names
    )


def owners(prediction: Prediction) -> list[int]:
    """Which reference each score is of: as a model says in the scalar "reference", else one for each."""
    count = len(prediction.image_scores)
    return [int(number) for number in prediction.scalars.get("reference", range(count))]


def scale_of(scores: np.ndarray, probabilities: bool) -> Scale:
    """The scale on which such scores of good images scatter about normally."""
    if probabilities:
        return Scale("log odds", scipy.special.logit, scipy.special.expit, USUAL_LOG_ODDS)
    if (scores > 0).all():
        return Scale("logarithms", np.log, np.exp, USUAL_LOGARITHMS)
    usual = USUAL_LOGARITHMS * abs(float(scores[0])) if scores.size == 1 else None  # of the only number that there is
    return Scale("they are", np.positive, np.positive, usual)


def inside(scores: np.ndarray, scale: Scale) -> np.ndarray:
    """The scores where the scale has a finite value for each."""
    return np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY) if scale.to is scipy.special.logit else scores


def _moderated(variance: float, freedom: float, scale: Scale) -> tuple[float, float]:
    """A standard deviation that leans on the usual one (Smyth 2004, moderated t), and its degrees of freedom."""
    if scale.usual is None:
        return math.sqrt(variance), freedom
    total = USUAL_WEIGHT + freedom
    return math.sqrt((USUAL_WEIGHT * scale.usual**2 + freedom * variance) / total), total


def _odd(fitted: Sequence[np.ndarray], scale: Scale) -> list[int]:
    """The references that score like a defect beside the others, by median and moderated MAD; [] if more than a few do.

    A good one is taken for odd once in a hundred fits (Bonferroni over the references, Student's t).
    """
    means = np.array([of_one.mean() for of_one in fitted])
    if means.size < LEAST_FOR_ODD:
        return []
    middle = float(np.median(means))
    mad = float(np.median(np.abs(means - middle))) / MAD_PER_DEVIATION
    spread, freedom = _moderated(mad**2, means.size - 1, scale)
    if not spread:
        return []
    odd = np.flatnonzero(scipy.special.stdtr(freedom, (middle - means) / spread) < ODD_CHANCE / means.size)
    return [] if odd.size > max(1, ODD_SHARE * means.size) else odd.tolist()


def conformal(scores: np.ndarray, target_rate: float) -> Threshold | None:
    """The order statistic that one more good image exceeds with at most the target rate; None with too few references.

    The r-th smallest of K scores is exceeded with probability 1 - r / (K + 1).
    """
    count = scores.size
    rank = math.ceil((1 - target_rate) * (count + 1) - 1e-9)
    if rank > count:
        return None
    rate = 1 - rank / (count + 1)
    source = f"conformal, number {rank} of {count} reference scores in rising order; false alarms about {rate:.1%}"
    return Threshold(just_above(np.sort(scores)[rank - 1]), source, rate, float(scores.max()))


def _predicted(fitted: Sequence[np.ndarray], own: np.ndarray, scale: Scale, target_rate: float) -> Threshold:
    """The upper end of a prediction interval for one more good image, never below the highest of their `own` scores.

    One-way random effects: the scores of a reference scatter about its mean, the means about that of all. Degrees of
    freedom are Satterthwaite's; the variance is moderated by the usual one, which is all that a single reference has.
    """
    means = np.array([of_one.mean() for of_one in fitted])
    count, scores = means.size, sum(of_one.size for of_one in fitted)
    variance, freedom = _total_variance(fitted, means)
    spread, freedom = _moderated(variance, freedom, scale)
    quantile = float(scipy.special.stdtrit(freedom, 1 - target_rate))
    factor = quantile * math.sqrt(1 + 1 / count)  # the mean is itself an estimate
    highest = float(own.max())
    value = max(float(scale.back(means.mean() + factor * spread)), highest)
    of_views = f" ({scores} scores)" if scores > count else ""
    leaning = "" if scale.usual is None else f", a spread that leans on {scale.usual:.2g}, usual on photographs"
    source = (
        f"mean + {factor:.2f} x {spread:.2g} of {count} reference{'s' if count > 1 else ''}{of_views} as {scale.name}"
        f"{leaning}; at least their maximum; false alarms about {target_rate:.1%} if good scores are normally "
        f"distributed, at most {1 / (count + 1):.0%} if not"
    )
    return Threshold(just_above(value), source, target_rate, highest)


def _total_variance(fitted: Sequence[np.ndarray], means: np.ndarray) -> tuple[float, float]:
    """The variance of the score of one more good image, and its degrees of freedom.

    0 for a single reference: how its views scatter does not tell how far apart good parts lie.
    """
    count, extra = means.size, sum(of_one.size - 1 for of_one in fitted)
    if count == 1:
        return 0.0, 0.0
    within = sum(float(np.sum((of_one - of_one.mean()) ** 2)) for of_one in fitted) / extra if extra else 0.0
    within *= 1 - float(np.mean([1 / of_one.size for of_one in fitted]))  # the rest is in the spread of the means
    between = float(means.var(ddof=1))
    parts = [(between, count - 1), (within, extra)]
    weight = sum(part**2 / freedom for part, freedom in parts if freedom)
    return between + within, (between + within) ** 2 / weight if weight else count - 1.0


def _identical(scores: np.ndarray) -> Threshold:
    """No verdict rests on rounding: references that score the same show nothing of how good images differ."""
    why = (
        f"the references (here {scores.size}) all score {scores[0]:.4g}, but for rounding: they are copies of one "
        "another, or the model tells nothing apart; give photos of different good parts"
    )
    return Threshold(just_above(scores.max()), f"the score of {scores.size} like references", None, None, (), why)


def doubted(found: Threshold, probabilities: bool) -> Threshold:
    """A threshold that judges nothing if it is next to the highest possible score."""
    if not probabilities or found.value < CEILING:
        return found
    why = (
        f"the threshold {found.value:.3f} is next to the highest possible score, 1, so that it finds no defect; give "
        "more references, as alike as the good parts are, or set ARGS=threshold=number yourself"
    )
    return replace(found, undecided=why)


def just_above(score: float) -> float:
    """The next float32, so that a photo that scores exactly as a reference does is no defect."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))
