"""A threshold from the photos to be judged themselves, where nothing else gives one: transductive."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import scipy

from tracks.decide.threshold import ENOUGH_PHOTOS, ROUNDING, Threshold
from tracks.decide.threshold_fit import (
    LEAST_PROBABILITY,
    MAD_EFFICIENCY,
    MAD_PER_DEVIATION,
    doubted,
    fit_threshold,
    inside,
    just_above,
    scale_of,
)
from tracks.errors import TrackInputError

FOLDER = "folder"
"""What a user sets as threshold to have it taken from the photos themselves."""
LEAST_FOR_GROUPS, LEAST_IN_GROUP, LEAST_UPPER_SHARE = 30, 5, 0.2
"""Two groups are sought among so many photos, the lower one of so many; a smaller upper one moves no median."""
LEAST_GAIN, LEAST_APART = 0.25, 3.5
"""How much better two groups describe a score (log likelihood) and how far apart they lie, in standard deviations.

Among 50 draws of one normal, uniform, exponential or Student's t distribution 4 % at most look like two groups."""

LEAST_ALIKE = 0.1
"""Where a smaller share of the other photos scores as low as those taken as references, these are not what is usual."""


def folder_threshold(
    scores: Sequence[float], target_rate: float = 0.05, probabilities: bool = False,
    taken: Mapping[int, str] | None = None,
) -> Threshold:  # fmt: skip
    """A threshold from the photos to be judged themselves: transductive, and right only where most of them are good, or
    where the scores of good ones and of defects are two groups well apart, however many are defects.

    The median + c * MAD, which a minority of defects moves little, of the lower group or of all; c is Student's, with
    the degrees of freedom that a MAD is worth. Where a model has `taken` photos as references (numbers and names of
    scores, each without itself), it is theirs in place of that of all, or where all part best: right where these are
    good.

    Raises:
        TrackInputError: fewer than 10 scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    check_enough_photos(values.size)
    scale = scale_of(values, probabilities)
    fitted = scale.to(inside(values, scale))
    usual = _lower_group(fitted)
    parted = usual.size < values.size
    if taken and not parted:
        parting = float(scale.back(_parting(fitted)))
        return _of_taken(values, taken, parting, target_rate, probabilities)
    middle = float(np.median(usual))
    spread = float(np.median(np.abs(usual - middle))) / MAD_PER_DEVIATION
    factor = float(scipy.special.stdtrit(MAD_EFFICIENCY * (usual.size - 1), 1 - target_rate))
    of = f"the lower {usual.size} of two groups that the scores form" if parted else "their scores"
    source = (
        f"transductive, from these {values.size} photos: median + {factor:.2f} MAD (as a standard deviation) of {of}, "
        f"as {scale.name}; false alarms about {target_rate:.1%} if {'these' if parted else 'most'} photos are good and "
        "good scores normally distributed"
    )
    value = just_above(float(scale.back(middle + factor * spread)))
    if spread <= ROUNDING * max(abs(middle), LEAST_PROBABILITY):
        why = "most photos score the same but for rounding: the model does not tell them apart"
        return Threshold(value, source, target_rate, undecided=why)
    return doubted(Threshold(value, source, target_rate), probabilities)


def _of_taken(
    values: np.ndarray, taken: Mapping[int, str], parting: float, target_rate: float, probabilities: bool
) -> Threshold:
    """The threshold of the photos that a model took as references, or where all scores part best if that is higher.

    Being the least anomalous of the good ones, those taken alone would call too many of the others defects.
    """
    found = fit_threshold(values[list(taken)].tolist(), target_rate, probabilities, names=list(taken.values()))
    which = f"from the {len(taken)} photos taken as references, which other good ones exceed more often than stated"
    source = f"transductive, {which}: {found.source}"
    alike = float(np.mean(np.delete(values, list(taken)) < found.value))
    if parting > found.value:
        source += f"; raised from {found.value:.4f} to where the scores of all {values.size} photos part best (Otsu)"
    found = replace(found, value=max(found.value, parting), source=source, false_alarm_rate=None)
    found = doubted(found, probabilities)
    if alike < LEAST_ALIKE and not found.undecided:
        why = (
            f"of the other photos {alike:.0%} score as low as those taken as references: these are of one kind among "
            "several, or nearly all photos are defects; give photos of good parts"
        )
        found = replace(found, undecided=why)
    return found


def _parting(values: np.ndarray) -> float:
    """Between the two parts of values (N,), N >= 2, that have the largest variance between them (N. Otsu, 1979)."""
    ordered = np.sort(values)
    below = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)[:-1]
    apart = sums / below - (ordered.sum() - sums) / below[::-1]
    best = int(np.argmax(below * below[::-1] * apart**2))
    return float(ordered[best : best + 2].mean())


def _lower_group(values: np.ndarray) -> np.ndarray:
    """The lower of two groups well apart if the values (N,) form such, the upper one no small minority; else all.

    They part where two normal distributions describe them best, each value by its own group alone.
    """
    ordered = np.sort(values)
    below = np.arange(LEAST_IN_GROUP, ordered.size - math.ceil(LEAST_UPPER_SHARE * ordered.size) + 1)
    if ordered.size < LEAST_FOR_GROUPS or not np.ptp(ordered):
        return values
    halves = [(ordered[:count], ordered[count:]) for count in below]
    means, spreads = (np.array([[of(half) for half in pair] for pair in halves]) for of in (np.mean, np.std))
    spreads = np.maximum(spreads, ROUNDING * ordered.std())
    shares = np.stack([below, ordered.size - below], axis=1) / ordered.size
    gains = np.log(ordered.std()) - (shares * np.log(spreads / shares)).sum(axis=1)
    best = int(np.argmax(gains))
    apart = float(np.diff(means[best])[0]) / math.sqrt(np.mean(spreads[best] ** 2))
    return ordered[: below[best]] if gains[best] >= LEAST_GAIN and apart >= LEAST_APART else values


def check_enough_photos(count: int, asked: str = f"threshold={FOLDER}") -> None:
    """Refuse to take a threshold from a handful of photos; `asked` is the setting that wants one."""
    if count < ENOUGH_PHOTOS:
        raise TrackInputError(
            f"expected {ENOUGH_PHOTOS} or more readable photos for {asked}, got {count}: so few do not show "
            "what is usual; give references=folder, or threshold=number"
        )
