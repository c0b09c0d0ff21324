"""A decision threshold, what it says of a score, and where one comes from without references."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from models.base import AnomalyModel, Prediction
from models.errors import ModelInputError
from models.tiles import Tiled
from tracks.errors import TrackInputError

DEFECT, GOOD, UNDECIDED = "DEFECT", "OK", "undecided"
FALLBACK = 0.5
"""The threshold where neither references nor the weights give one; assumes scores that are probabilities."""
UNCHECKED = (
    "never checked on photographs of yours; give references (photos of good parts) for one that is, or take them from "
    "the photos with own_references=8"
)
RENDERED = "synthetic"
"""The word by which a source of a threshold says that it was learnt on rendered pictures."""
ROUNDING = 1e-3
"""Scores that differ by less than this share of their size are the same but for rounding."""
ENOUGH_PHOTOS = 10
"""Fewer do not show what is usual among them."""
NEARLY_ALL = 0.95


@dataclass(frozen=True)
class Threshold:
    """An image is a defect when its score is `value` or more.

    `false_alarm_rate` is the share of good images expected above it (None: unknown) and `source` says in a
    sentence where the value comes from. `highest_normal` is the highest score of a reference. Scores above it and below
    `value` are undecided: no reference scores as high, yet a good image may. `undecided` is the reason why nothing
    above the references (without `highest_normal`: nothing at all) is judged; "" where it is.
    `odd_references` are references that score like defects and were left out of the fit; `reference_scores` are those
    of the others.
    """

    value: float
    source: str
    false_alarm_rate: float | None = None
    highest_normal: float | None = None
    odd_references: tuple[str, ...] = ()
    undecided: str = ""
    reference_scores: tuple[float, ...] = ()

    def verdict(self, score: float) -> str:
        """DEFECT, OK or undecided."""
        above_references = self.highest_normal is None or score > self.highest_normal
        if self.undecided and above_references:
            return UNDECIDED
        if score >= self.value:
            return DEFECT
        return UNDECIDED if self.highest_normal is not None and above_references else GOOD

    def is_defect(self, score: float) -> bool:
        """Whether the verdict on an image score is DEFECT."""
        return self.verdict(score) == DEFECT

    def is_unsure(self, score: float) -> bool:
        """Whether threshold and references disagree on this score; False without references."""
        if self.highest_normal is None:
            return False
        return min(self.value, self.highest_normal) < score <= max(self.value, self.highest_normal)

    @property
    def remarks(self) -> list[str]:
        """Sentences that a user should read before the verdicts."""
        odd = [f"{name} scores like a defect: look at it or leave it out" for name in self.odd_references]
        where = "" if self.highest_normal is None else " above the references"
        return odd + ([f"no verdict{where}: {self.undecided}"] if self.undecided else [])

    def after(self, scores: Sequence[float]) -> "Threshold":
        """The threshold once the scores of 10 or more images are known: undecided if they show it to be no use.

        Transductive, but it only ever withdraws verdicts.
        """
        why = self.contradiction(scores)
        return replace(self, highest_normal=None, undecided=why) if why else self

    def contradiction(self, scores: Sequence[float]) -> str:
        """How the scores of judged images show that the threshold is no use; "" where they do not."""
        if not self.reference_scores or self.undecided or len(scores) < ENOUGH_PHOTOS:
            return ""
        lowest, typical, highest = np.quantile(self.reference_scores, (0, 0.5, 1))
        nearly_all = float(np.quantile(scores, NEARLY_ALL))
        if max(abs(lowest), abs(highest)) < ROUNDING * abs(float(np.median(scores))):
            return "the references differ from one another by next to nothing beside what the photos do; give others"
        if typical > nearly_all and max(scores) < self.value:
            return (
                f"scored without themselves the references reach {lowest:.2f} to {highest:.2f}, yet {NEARLY_ALL:.0%} "
                f"of the photos stay below {nearly_all:.2f} and none reaches {self.value:.2f}: this threshold finds "
                "nothing; give more references, or set ARGS=threshold=number by the scores"
            )
        return ""


FEW_FALSE_ALARMS = 0.1
"""Of good images, at a threshold that comes with weights: of what they were chosen on at most so many, on average."""


@dataclass(frozen=True)
class Cut:
    """A score that parts good images from defects: the rates at `value`, and the next lower score, None if none is."""

    value: float
    below: float | None
    recall: float
    false_alarms: float


def best_cut(scores: Sequence[tuple[ArrayLike, ArrayLike]], most_false_alarms: float = 1.0) -> Cut:
    """Where recall less false alarms (Youden's J) is highest on average; of several equal ones the lowest.

    `scores` holds those of the good and of the defective images of each category; all categories count alike. Cuts
    with a larger share of false alarms than `most_false_alarms` do not take part, unless all have.
    """
    pairs = [[np.asarray(each) for each in pair] for pair in scores]
    candidates = np.unique(np.concatenate([each for pair in pairs for each in pair]))
    rates = np.array([[[(each >= value).mean() for each in pair] for pair in pairs] for value in candidates])
    false_alarms, recall = rates.mean(axis=1).T
    allowed = false_alarms <= most_false_alarms + 1e-9  # of a mean of shares
    best = int(np.argmax(np.where(allowed | ~allowed.any(), recall - false_alarms, -np.inf)))
    below = float(candidates[best - 1]) if best else None
    return Cut(float(candidates[best]), below, float(recall[best]), float(false_alarms[best]))


def known_threshold(value: float | None, source: str) -> Threshold:
    """The threshold that comes with the weights, or 0.5 with that said."""
    if value is None:
        return Threshold(
            FALLBACK, f"0.5, a convention: neither references nor the weights give a threshold; {UNCHECKED}"
        )
    where = "from the weights, learnt on renderings" if RENDERED in source else "from the weights"
    return Threshold(float(value), f"{where}: {source or 'no source stated'}; {UNCHECKED}")


def weights_threshold(model: AnomalyModel) -> Threshold:
    """What the model, or the header of its adapter, states as the threshold of the zero-shot image score."""
    model = model.model if isinstance(model, Tiled) else model
    header = model if hasattr(model, "image_threshold") else getattr(getattr(model, "adapter", None), "header", None)
    return known_threshold(getattr(header, "image_threshold", None), getattr(header, "threshold_source", ""))


class NoLeaveOneOut(TrackInputError):
    """A model cannot score its own references; that a reference does not read is another matter."""


def leave_one_out(model: AnomalyModel, category: str) -> Prediction:
    """The K references of a fitted category, each scored without itself: what `fit_threshold` wants.

    Raises:
        NoLeaveOneOut: the model cannot score its own references.
    """
    try:
        with torch.inference_mode():
            return model.reference_prediction(category).cpu()
    except (NotImplementedError, ModelInputError) as error:
        raise NoLeaveOneOut(
            "expected a model that scores each of its references as if it were a test image, to fit a threshold on "
            f"them; {type(model).__name__} does not{f' ({error})' if str(error) else ''}"
        ) from error
