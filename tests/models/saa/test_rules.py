"""Two protocols whole, and each departure its own switch."""

from dataclasses import fields

import pytest

from models.errors import ModelInputError
from models.saa.rules import Rules

SWITCHES = [field.name for field in fields(Rules) if field.name != "name"]


def test_the_protocols_differ_in_every_switch():
    paper, released = Rules.paper(), Rules.released()
    assert [name for name in SWITCHES if getattr(paper, name) == getattr(released, name)] == []


def test_the_protocols_in_numbers():
    paper, released = Rules.paper(), Rules.released()
    assert (paper.exponent, paper.denominator, paper.top_k) == (1, 0, 5)
    assert (paper.area_of, paper.location, paper.name_filter) == ("regions", "iou", "off")
    assert (released.exponent, released.denominator, released.top_k, released.max_side) == (3, 1, 0, 0)
    assert (released.area_of, released.location, released.name_filter) == ("boxes", "off", "substring")
    assert released.bgr
    assert released.objects == "capped"
    assert released.several_objects


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_departure_is_a_switch_of_its_own(switch):
    value = getattr(Rules.released(), switch)
    rules = Rules.named("paper", {switch: value})
    assert getattr(rules, switch) == value
    others = [name for name in SWITCHES if name != switch]
    assert all(getattr(rules, name) == getattr(Rules.paper(), name) for name in others)
    assert rules.label == f"paper with {switch}={value}"


def test_a_switch_that_is_null_stays_as_it_is():
    assert Rules.named("released", dict.fromkeys(SWITCHES)) == Rules.released()
    assert Rules.named("released").label == "released"


@pytest.mark.parametrize(
    ("name", "switches", "message"),
    [
        ("papers", {}, "rules to be one of paper, released, got 'papers'"),
        ("paper", {"colour": True}, "switches among bgr, .*got colour"),
        ("paper", {"name": "mine"}, "got name"),
        ("paper", {"bgr": 1}, "switch bgr to be true or false, got 1"),
        ("paper", {"location": "iuo"}, "switch location to be one of iou, off"),
        ("paper", {"area_of": "masks"}, "switch area_of to be one of regions, boxes"),
        ("paper", {"exponent": -1}, "switch exponent to be a number from 0"),
        ("paper", {"top_k": 2.5}, "switch top_k to be a whole number from 0"),
        ("paper", {"top_k": True}, "switch top_k to be a whole number from 0"),
    ],
)
def test_what_does_not_exist_is_refused(name, switches, message):
    with pytest.raises(ModelInputError, match=message):
        Rules.named(name, switches)
