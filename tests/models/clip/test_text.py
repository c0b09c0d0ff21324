"""Sentences and their mean: counts, order of operations, defects, names."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.testing import assert_close

from models.clip.text import PromptEnsemble
from models.errors import ModelInputError
from tests.support.clip_stand_ins import PROMPTS, small_backbone

CONF = Path(__file__).resolve().parents[3] / "conf"


def published() -> PromptEnsemble:
    node = yaml.safe_load((CONF / "prompts/april_gan.yaml").read_text())
    return PromptEnsemble(node["normal_states"], node["anomalous_states"], node["templates"])


def test_the_published_ensemble_has_420_distinct_sentences():
    normal, anomalous = published().sentences("metal_nut")
    assert (len(normal), len(anomalous)) == (245, 175)
    assert len({*normal, *anomalous}) == 420
    assert normal[0] == "a bad photo of a metal_nut."
    assert "a photo of the cool flawless metal_nut." in normal
    assert "this is one metal_nut with damage in the scene." in anomalous
    assert not any("{" in sentence for sentence in [*normal, *anomalous])


def test_features_are_normalised_then_averaged_then_normalised():
    backbone = small_backbone("vit")
    columns = []
    for sentences in PROMPTS.sentences("nut"):
        total = torch.zeros(24, dtype=torch.float64)
        for sentence in sentences:
            vector = backbone.encode_text([sentence])[0].double()
            total += vector / vector.norm()
        mean = total / len(sentences)
        columns.append(mean / mean.norm())
    expected = torch.stack(columns, dim=1).float()
    got = PROMPTS.text_features(backbone, "nut")
    assert got.shape == (24, 2)
    assert_close(got, expected, rtol=1e-4, atol=1e-6)
    raw_mean = torch.stack([backbone.encode_text(group).mean(dim=0) for group in PROMPTS.sentences("nut")], dim=1)
    assert (got - raw_mean / raw_mean.norm(dim=0)).abs().max() > 1e-5  # the order matters


def test_defects_add_anomalous_states_word_for_word():
    ensemble = PromptEnsemble(["{}"], ["broken {}"], ["a photo of a {}."], defects=["scratch", " a deep dent ", ""])
    normal, anomalous = ensemble.sentences("bolt")
    assert normal == ["a photo of a bolt."]
    assert anomalous == [
        "a photo of a broken bolt.",
        "a photo of a bolt with scratch.",
        "a photo of a bolt with a deep dent.",
    ]


@pytest.mark.parametrize(("clean", "expected"), [(False, "a metal_nut_2"), (True, "a metal nut 2")])
def test_clean_names_shows_blanks(clean, expected):
    ensemble = PromptEnsemble(["{}"], ["broken {}"], ["a {}"], clean_names=clean)
    assert ensemble.sentences("metal_nut_2")[0] == [expected]


def test_a_category_is_text_and_nothing_else():
    ensemble = PromptEnsemble(["flawless {}"], ["broken {}"], ["a {}."])
    assert ensemble.sentences("{0} nut {x}")[0] == ["a flawless {0} nut {x}."]


def test_ensembles_compare_by_content():
    lists, tuples = PromptEnsemble(["{}"], ["bad {}"], ["a {}"]), PromptEnsemble(("{}",), ("bad {}",), ("a {}",))
    assert lists == tuples
    assert hash(lists) == hash(tuples)
    assert lists != PromptEnsemble(["{}"], ["bad {}"], ["a {}"], defects=["dent"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("normal_states", [], "at least one of normal_states"),
        ("anomalous_states", ["broken"], "anomalous_states .* slot {} once, got 'broken'"),
        ("templates", ["a {} of {}"], "templates .* once"),
        ("templates", "a {}", "templates .* list of texts"),
        ("defects", [3], "defects .* list of texts"),
    ],
)
def test_prompts_that_cannot_be_filled_are_refused(field, value, message):
    good = {"normal_states": ["{}"], "anomalous_states": ["bad {}"], "templates": ["a {}"], "defects": []}
    with pytest.raises(ModelInputError, match=message):
        PromptEnsemble(**{**good, field: value})
