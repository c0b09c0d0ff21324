"""Several models that vote: each member's values calibrated on the references alone, then averaged.

No test image has a say in how another is scored. With references, a member's map and score go through
v^k / (v^k + mu^k), mu being what the member says of the references, each left out (the mean of the maps' maxima, the
mean of the image scores): 0.5 is "as high as a normal image gets" for every member, whatever its unit. Without
references there is nothing to calibrate with, and members count by their own values times their shares.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import FEW_SHOT, INDUCTIVE, ZERO_SHOT, AnomalyModel, Images, Prediction, State, below, refuse
from models.errors import ModelInputError, checked
from models.images import KeepSize
from models.maps import hill
from models.references import Prepared, predicted


class Ensemble(AnomalyModel):
    """Zero- and few-shot, as far as its members are: those that need references sit out without them, as a run says.

    Args:
        members: built models by name; one that cannot learn from references counts with its zero-shot verdict.
        shares: weights of members in the average, 1 where not named; they need not add up to 1.
        map_exponent: k of the calibration of maps.
        score_exponent: k of the calibration of image scores.
        map_size: side of the maps in pixels.
        max_side: images with a longer side are shrunk to it, in pixels; 0 for never.
    """

    def __init__(
        self, members: Mapping[str, AnomalyModel], *, shares: Mapping[str, float] | None = None,
        map_exponent: float = 2.0, score_exponent: float = 4.0, map_size: int = 256, max_side: int = 0,
    ):  # fmt: skip
        super().__init__()
        checked("members", list(members), len(members) > 0, "at least one model")
        together = [name for name, member in members.items() if member.setting != INDUCTIVE]
        checked(
            "members", together or "none", not together, "such as score each image by itself, not transductive ones"
        )
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

    def fit(self, references: Images, category: str) -> None:
        """Let the members learn from K uint8 images (3, H, W) of any sizes, and calibrate all of them.

        Keeps by member its verdict on the references, left out where it learns from them: `maps` (K, h, w), `scores`
        (K,), and what is typical of it, the mean of the maps' maxima and of the scores, each ().

        Raises:
            ModelInputError: no reference, or no member that can learn from one.
        """
        checked("references", len(references), len(references) > 0, f"at least one image of {category!r}")
        members = self._by_name()
        if not any(FEW_SHOT in member.serves for member in members.values()):
            refuse(f"ensemble (of {', '.join(members)})", FEW_SHOT)
        state: State = {}
        for name, member in members.items():
            ready = Prepared(references, partial(_again, member.preprocess))  # type: ignore[arg-type]
            if FEW_SHOT in member.serves:
                member.fit(ready, category)
                left_out = member.reference_prediction(category)
            else:
                left_out = predicted(member, ready, range(len(ready)), category)
            maps, scores = left_out.anomaly_maps, left_out.image_scores
            state |= {f"{name}.maps": maps, f"{name}.scores": scores}
            state |= {f"{name}.typical_map": maps.amax(dim=(1, 2)).mean(), f"{name}.typical_score": scores.mean()}
        self._states[category] = state

    def state(self, category: str) -> State:
        """Its own calibration and what the members learnt, theirs by name."""
        state = super().state(category)
        for name, member in self._by_name().items():
            if FEW_SHOT in member.serves:
                state |= {f"{name}/{key}": tensor for key, tensor in member.state(category).items()}
        return state

    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it."""
        super().load_state({name: tensor for name, tensor in state.items() if "/" not in name}, category, references)
        for name, member in self._by_name().items():
            if FEW_SHOT in member.serves:
                ready = Prepared(references, partial(_again, member.preprocess))  # type: ignore[arg-type]
                member.load_state(below(state, f"{name}/"), category, ready)

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W) of any sizes.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: before any `fit`, where no member can do without references.
        """
        members = self._by_name() if self._states else self._without_references()
        on_processor = [image.cpu() for image in images]
        seen: dict[Any, Images] = {}  # members with the same `preprocess` share its result
        verdicts = {}
        for name, member in members.items():
            if member.preprocess not in seen:
                seen[member.preprocess] = [_again(member.preprocess, image) for image in on_processor]
            verdicts[name] = member.predict(seen[member.preprocess], categories)
        return self._averaged(self._calibrated(verdicts, categories) if self._states else verdicts)

    def reference_prediction(self, category: str) -> Prediction:
        """The references, each left out by the members; the calibration itself is on all of them."""
        known = self._states[category]
        left_out = {name: Prediction(known[f"{name}.maps"], known[f"{name}.scores"]) for name in self.members}
        count = len(next(iter(left_out.values())).image_scores)
        return self._averaged(self._calibrated(left_out, [category] * count))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model; those of a member begin with its name."""
        members = self._by_name()
        sit_out = [name for name, member in members.items() if ZERO_SHOT not in member.serves]
        only_words = [name for name, member in members.items() if FEW_SHOT not in member.serves]
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
        labels: dict[str, Any] = {name: member.protocol for name, member in members.items()}
        if trained := [each["adapter_trained_on"] for each in labels.values() if "adapter_trained_on" in each]:
            own["adapter_trained_on"] = ", ".join(trained)
        return {**own, **{f"{name}.{key}": value for name, each in labels.items() for key, value in each.items()}}

    def _by_name(self) -> dict[str, AnomalyModel]:
        return dict(self.members.items())  # type: ignore[arg-type]

    def _without_references(self) -> dict[str, AnomalyModel]:
        """The members that can do without references."""
        able = {name: member for name, member in self._by_name().items() if ZERO_SHOT in member.serves}
        if not able:
            refuse(f"ensemble (of {', '.join(self.members)})", ZERO_SHOT)
        return able

    def _calibrated(self, verdicts: Mapping[str, Prediction], categories: Sequence[str]) -> dict[str, Prediction]:
        """Each member's verdict on B images, 0.5 being what is typical of it in the image's category."""
        known, found = [self._states[category] for category in categories], {}
        for name, each in verdicts.items():
            of_map = torch.stack([state[f"{name}.typical_map"] for state in known])[:, None, None]
            of_score = torch.stack([state[f"{name}.typical_score"] for state in known])
            maps = hill(each.anomaly_maps, of_map, self.map_exponent)
            found[name] = Prediction(maps, hill(each.image_scores, of_score, self.score_exponent))
        return found

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


def _again(preprocess: Callable[[PIL.Image.Image], Tensor], image: Tensor) -> Tensor:
    """A (3, H, W) uint8 image as a member wants it."""
    return preprocess(PIL.Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())))
