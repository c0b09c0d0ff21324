"""Several models that vote: each member's values calibrated on the references alone, then averaged.

No test image has a say in how another is scored. With references, a member's map and score go through
v^k / (v^k + mu^k), mu being what the member says of the references, each left out (the mean of the maps' maxima, the
mean of the image scores): 0.5 is "as high as a normal image gets" for every member, whatever its unit. Without
references there is nothing to calibrate with, and members count by their own values times their shares.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import AnomalyModel, Images, Prediction, check_categories
from models.baselines.by_category import (
    BOTH,
    FEW_SHOT,
    ZERO_SHOT,
    ByCategory,
    RemembersByCategory,
    checked,
    refuse,
)
from models.errors import ModelInputError
from models.images import KeepSize
from models.maps import hill
from models.references import Prepared, predicted


@dataclass(frozen=True)
class Typical:
    """What a member says of normal images: the mean of its maps' maxima and of its image scores, each ()."""

    map_max: Tensor
    image_score: Tensor


@dataclass(frozen=True)
class Fitted:
    """Each member's verdict on the references, left out where it learns from them, and what is typical of it."""

    left_out: dict[str, Prediction]
    typical: dict[str, Typical]

    def moved(self, fn: Callable[[Tensor], Tensor]) -> "Fitted":
        """On another device."""
        left_out = {
            name: Prediction(fn(each.anomaly_maps), fn(each.image_scores)) for name, each in self.left_out.items()
        }
        typical = {name: Typical(fn(each.map_max), fn(each.image_score)) for name, each in self.typical.items()}
        return Fitted(left_out, typical)


class Ensemble(RemembersByCategory):
    """Zero- and few-shot, as far as its members are: those that need references sit out without them, as a run says.

    Args:
        members: built models by name; one that cannot learn from references counts with its zero-shot verdict.
        shares: weights of members in the average, 1 where not named; they need not add up to 1.
        map_exponent: k of the calibration of maps.
        score_exponent: k of the calibration of image scores.
        map_size: side of the maps in pixels.
        max_side: images with a longer side are shrunk to it, in pixels; 0 for never.
    """

    serves: ClassVar[tuple[str, ...]] = BOTH

    def __init__(
        self, members: Mapping[str, AnomalyModel], *, shares: Mapping[str, float] | None = None,
        map_exponent: float = 2.0, score_exponent: float = 4.0, map_size: int = 256, max_side: int = 0,
    ):  # fmt: skip
        super().__init__()
        checked("members", list(members), len(members) > 0, "at least one model")
        self.members = nn.ModuleDict(dict(members))
        known = set(shares or {}) <= set(members)
        checked("shares", dict(shares or {}), known, f"of members, which are {', '.join(members)}")
        self.shares = {name: float((shares or {}).get(name, 1.0)) for name in members}
        good = min(self.shares.values()) >= 0 and sum(self.shares.values()) > 0
        checked("shares", self.shares, good, "at least 0 each, and some above 0")
        self.map_exponent = checked("map_exponent", map_exponent, map_exponent > 0, "above 0")
        self.score_exponent = checked("score_exponent", score_exponent, score_exponent > 0, "above 0")
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.max_side = checked("max_side", max_side, max_side >= 0, "at least 0")
        self.preprocess = KeepSize(self.max_side)
        self._fitted: ByCategory[Fitted] = ByCategory(Fitted.moved)

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Let the members learn from K uint8 images (3, H, W) of any sizes, and calibrate all of them.

        Raises:
            ModelInputError: no reference, or no member that can learn from one.
        """
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        if not any(_serves(member, FEW_SHOT) for member in self.members.values()):
            refuse(f"ensemble (of {', '.join(self.members)})", FEW_SHOT)
        left_out = {}
        for name, member in self.members.items():
            ready = Prepared(references, partial(_again, member.preprocess))  # type: ignore[arg-type]
            if _serves(member, FEW_SHOT):
                member.fit(ready, category)  # type: ignore[operator]
                left_out[name] = member.reference_prediction(category)  # type: ignore[operator]
            else:
                left_out[name] = predicted(member, ready, range(len(ready)), category)  # type: ignore[arg-type]
        typical = {
            name: Typical(each.anomaly_maps.amax(dim=(1, 2)).mean(), each.image_scores.mean())
            for name, each in left_out.items()
        }
        self._fitted[category] = Fitted(left_out, typical)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W) of any sizes.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: before any `fit`, where no member can do without references.
        """
        check_categories(images, categories)
        fitted = [self._fitted[category] for category in categories] if self._fitted else None
        names = list(self.members) if fitted else self._without_references()
        seen = _Prepared(images)
        verdicts = {name: self.members[name].predict(seen.by(self.members[name]), categories) for name in names}  # type: ignore[operator]
        if fitted is None:
            return self._averaged(verdicts)
        parts = []
        for i, known in enumerate(fitted):
            one = {n: Prediction(v.anomaly_maps[i : i + 1], v.image_scores[i : i + 1]) for n, v in verdicts.items()}
            parts.append(self._averaged(self._calibrated(one, known.typical)))
        maps, scores = (torch.cat([getattr(part, name) for part in parts]) for name in ("anomaly_maps", "image_scores"))
        return Prediction(maps, scores)

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """The references, each left out by the members; the calibration itself is on all of them."""
        fitted = self._fitted[category]
        return self._averaged(self._calibrated(fitted.left_out, fitted.typical))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model; those of a member begin with its name."""
        sit_out = [name for name, member in self.members.items() if not _serves(member, ZERO_SHOT)]
        only_words = [name for name, member in self.members.items() if not _serves(member, FEW_SHOT)]
        own: dict[str, Any] = {
            "method": "ensemble",
            "members": ", ".join(f"{share:g} x {name}" for name, share in self.shares.items()),
            "sit_out_without_references": ", ".join(sit_out) or "none",
            "learn_nothing_from_references": ", ".join(only_words) or "none",
            "map_size": self.map_size,
            "largest_side": self.max_side or "as it is",
            "zero_shot": "mean of the members' own values, not calibrated",
            "few_shot": f"mean of v^k / (v^k + mu^k), k = {self.map_exponent:g} for maps and {self.score_exponent:g} "
            "for image scores, mu from the references, each left out",
        }
        labels: dict[str, Any] = {name: member.protocol for name, member in self.members.items()}
        if trained := [each["adapter_trained_on"] for each in labels.values() if "adapter_trained_on" in each]:
            own["adapter_trained_on"] = ", ".join(trained)
        return {**own, **{f"{name}.{key}": value for name, each in labels.items() for key, value in each.items()}}

    def _without_references(self) -> list[str]:
        """The members that can do without references."""
        names = [name for name, member in self.members.items() if _serves(member, ZERO_SHOT)]
        if not names:
            refuse(f"ensemble (of {', '.join(self.members)})", ZERO_SHOT)
        return names

    def _calibrated(self, verdicts: Mapping[str, Prediction], typical: Mapping[str, Typical]) -> dict[str, Prediction]:
        return {
            name: Prediction(
                hill(each.anomaly_maps, typical[name].map_max, self.map_exponent),
                hill(each.image_scores, typical[name].image_score, self.score_exponent),
            )
            for name, each in verdicts.items()
        }

    def _averaged(self, verdicts: Mapping[str, Prediction]) -> Prediction:
        """The members' mean by their shares, maps at one size."""
        total = sum(self.shares[name] for name in verdicts)
        if total == 0:
            raise ModelInputError(f"expected a share above 0 among {', '.join(verdicts)}, got none; set shares")
        size = (self.map_size, self.map_size)
        maps = sum(
            self.shares[name] / total * F.interpolate(each.anomaly_maps[:, None], size, mode="bilinear")[:, 0]
            for name, each in verdicts.items()
        )
        scores = sum(self.shares[name] / total * each.image_scores for name, each in verdicts.items())
        assert isinstance(maps, Tensor)
        assert isinstance(scores, Tensor)
        return Prediction(maps, scores)


class _Prepared:
    """Images as each member wants them; members with the same `preprocess` share its result."""

    def __init__(self, images: Images):
        self._images = [image.cpu() for image in images]
        self._known: dict[Any, Images] = {}

    def by(self, member: nn.Module) -> Images:
        preprocess: Any = member.preprocess
        if preprocess not in self._known:
            self._known[preprocess] = [_again(preprocess, image) for image in self._images]
        return self._known[preprocess]


def _again(preprocess: Callable[[PIL.Image.Image], Tensor], image: Tensor) -> Tensor:
    """A (3, H, W) uint8 image as a member wants it."""
    return preprocess(PIL.Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())))


def _serves(member: nn.Module, track: str) -> bool:
    """Whether a model has a use on a track; one that does not say serves both."""
    return track in getattr(member, "serves", BOTH)
