"""Which of many references are remembered, and that the others are scored in their places."""

from dataclasses import replace

import pytest
import torch

from models.base import Prediction
from models.errors import ModelInputError
from models.references import ManyReferences, Prepared, joined
from tests.support.fakes import BrightnessModel, FakeDataset
from tracks.run.runner import fit_references


class Number:
    """Says of an image what stands in it."""

    def predict(self, images, categories):
        scores = torch.stack([image.mean() for image in images])
        return Prediction(scores[:, None, None], scores, {"map_max": scores})


def numbered(count: int) -> torch.Tensor:
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3]), (9, [0, 2, 4, 6])]
)
def test_those_remembered_are_evenly_spread(count, expected):
    assert ManyReferences(4).remembered(numbered(count), "nut").mean(dim=(1, 2, 3)).tolist() == expected


def test_the_others_are_scored_in_their_places_and_it_is_said(caplog):
    many = ManyReferences(4)
    known = many.remembered(numbered(30), "nut")
    assert "nut: 30 references, of more than 4 references 4, evenly spread, are remembered" in caplog.text
    every = many.with_others(Number(), "nut", Number().predict(known, ["nut"] * 4))
    for values in (every.image_scores, every.anomaly_maps[:, 0, 0], every.scalars["map_max"]):
        assert values.tolist() == list(range(30))
    many.remembered(numbered(2), "nut")  # replaces what was known of the category
    two = Number().predict(numbered(2), ["nut"] * 2)
    assert many.with_others(Number(), "nut", two) is two


def test_several_views_of_a_reference_are_rows_of_it():
    many = ManyReferences(2)
    known = many.remembered(numbered(5), "nut")  # 0 and 2
    views = Number().predict(known[[0, 1, 0, 1]], ["nut"] * 4)
    views = replace(views, scalars={**views.scalars, "reference": torch.tensor([0.0, 1.0, 0.0, 1.0])})
    every = many.with_others(Number(), "nut", views)
    assert every.scalars["reference"].tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert every.image_scores.tolist() == [0, 0, 1, 2, 2, 3, 4]


def test_no_reference_and_no_room_are_refused():
    with pytest.raises(ModelInputError, match="at least one reference image of 'nut'"):
        ManyReferences().remembered([], "nut")
    with pytest.raises(ModelInputError, match="max_references to be at least 1, got 0"):
        ManyReferences(0)


def test_groups_come_back_in_order():
    parts = [Number().predict(numbered(4)[[3, 1]], []), Number().predict(numbered(4)[[0, 2]], [])]
    assert joined(parts, [3, 1, 0, 2]).image_scores.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("count", "kind"), [(3, torch.Tensor), (40, Prepared)])
def test_a_few_references_come_as_a_batch_and_hundreds_one_by_one(count, kind):
    given = []

    class Model(BrightnessModel):
        def fit(self, references, category):
            given.append(references)

    samples = FakeDataset().train("bolt")
    fit_references(Model(), [samples[i % len(samples)] for i in range(count)], "bolt", "cpu")
    assert isinstance(given[0], kind)
    assert len(given[0]) == count
