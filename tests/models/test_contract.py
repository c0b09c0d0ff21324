"""The public checks: a model that keeps the promises passes, one that breaks one is caught by the check of it."""

import pytest
import torch

from models.base import ZERO_SHOT, AnomalyModel, Prediction, groups, stacked
from models.contract import checks_of


class Nearest(AnomalyModel):
    """Distance to the nearest reference, pixel by pixel."""

    def preprocess(self, image):
        return torch.tensor(list(image.convert("L").resize((8, 8)).tobytes())).view(1, 8, 8).expand(3, -1, -1) / 255

    def fit(self, references, category):
        self._states[category] = {"known": torch.stack(list(references))[:, 0]}

    def predict(self, images, categories):
        grey, maps = stacked(images)[:, 0], torch.empty(len(images), 8, 8)
        for category, rows in groups(categories):
            maps[rows] = self.far(grey[rows], self._states[category]["known"] if self._states else grey[:0])
        return Prediction(maps, maps.amax(dim=(1, 2)))

    def far(self, grey, known):
        return (grey[:, None] - known[None]).abs().amin(dim=1) if len(known) else grey

    def reference_prediction(self, category):
        known = self._states[category]["known"]
        rows = [torch.arange(len(known)) != i for i in range(len(known))]
        maps = torch.cat([self.far(one[None], known[row]) for one, row in zip(known, rows, strict=True)])
        return Prediction(maps, maps.amax(dim=(1, 2)))

    @property
    def protocol(self):
        return {"method": "nearest"}


class OfTheBatch(Nearest):
    def predict(self, images, categories):
        found = super().predict(images, categories)
        return Prediction(found.anomaly_maps / found.anomaly_maps.amax(), found.image_scores)


class Drawn(Nearest):
    def predict(self, images, categories):
        found = super().predict(images, categories)
        return Prediction(found.anomaly_maps + torch.rand(1), found.image_scores)


class WritesIntoImages(Nearest):
    def predict(self, images, categories):
        found = super().predict(images, categories)
        images.mul_(0.5)
        return found


class Remembers(Nearest):
    def fit(self, references, category):
        known = [self._states[category]["known"]] if category in self._states else []
        super().fit(references, category)
        self._states[category]["known"] = torch.cat([*known, self._states[category]["known"]])


class LastFitWins(Nearest):
    def fit(self, references, category):
        super().fit(references, category)
        for state in self._states.values():
            state["known"] = self._states[category]["known"]


class AnyCategory(Nearest):
    def fit(self, references, category):
        super().fit(references, category)
        for each in ("nut", "bolt", "screw"):
            self._states.setdefault(each, self._states[category])


class KnowsItself(Nearest):
    def reference_prediction(self, category):
        known = self._states[category]["known"]
        return self.predict(known[:, None].expand(-1, 3, -1, -1), [category] * len(known))


class OddProtocol(Nearest):
    protocol = {"sides": (8, 8)}  # noqa: RUF012


class ZeroShotAlone(Nearest):
    serves = (ZERO_SHOT,)


def broken(model):
    """The names of the checks that a model fails."""
    names = []
    for check in checks_of(model):
        try:
            check(model())
        except AssertionError:
            names.append(check.__name__)
    return names


def test_a_model_that_keeps_what_models_promise_passes():
    assert broken(Nearest) == broken(ZeroShotAlone) == []
    assert len(checks_of(Nearest)) == 7
    assert len(checks_of(ZeroShotAlone)) == 3


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (OfTheBatch, "a_batch_is_one_image_at_a_time_and_the_same_each_time"),
        (Drawn, "a_batch_is_one_image_at_a_time_and_the_same_each_time"),
        (WritesIntoImages, "what_it_is_given_stays_as_it_was"),
        (Remembers, "fitting_again_replaces"),
        (LastFitWins, "the_order_of_fit_does_not_matter"),
        (AnyCategory, "a_category_that_was_not_fitted_is_a_key_error"),
        (KnowsItself, "references_are_scored_as_if_they_were_not_among_them"),
        (OddProtocol, "preprocess_and_protocol_are_plain"),
    ],
)
def test_a_broken_promise_is_found(model, check):
    assert check in broken(model)
