"""Prompts as data: the published ones come out as they were sent, and a product of one's own is one entry."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import tracks.command.config
import tracks.predict  # noqa: F401  (registers the resolver of PROMPT)
from models.errors import ModelInputError
from models.saa.language import Caption, ProductPrompt, PromptBook, PromptChoice

CONF = Path(__file__).resolve().parents[3] / "conf"
GENERAL = ("defect on {}", "damage on {}", "flaw on {}")


def chosen(*overrides, command="zero_shot"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(command, ["model=saa_plus", *overrides]).prompts)


def book(**changes):
    return PromptBook(source="test", general=GENERAL, **changes)


def texts(captions):
    return [caption.text for caption in captions]


def test_captions_are_the_general_ones_and_then_the_products_own():
    nut = {"captions": [["blue defect", "scratch"], ["hole"]], "filter": "nut"}
    captions = book(products={"metal_nut": nut}).captions("metal_nut", "both")
    assert captions == (
        Caption("defect on metal nut", "metal nut"),
        Caption("damage on metal nut", "metal nut"),
        Caption("flaw on metal nut", "metal nut"),
        Caption("blue defect. scratch", "nut"),
        Caption("hole", "nut"),
    )


def test_raw_names_keep_the_underscore_as_the_published_code_does():
    captions = book(defects=["scratch"]).captions("metal_nut", "both", raw_names=True)
    assert captions[0] == Caption("defect on metal_nut", "metal_nut")
    assert captions[-1] == Caption("scratch", "metal_nut")


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("both", ["defect on nut", "damage on nut", "flaw on nut", "scratch"]),
        ("general", ["defect on nut", "damage on nut", "flaw on nut"]),
        ("specific", ["scratch"]),
        ("naive", ["anomaly"]),
    ],
)
def test_one_word_chooses_the_language_prompts(language, expected):
    captions = book(products={"nut": {"captions": [["scratch"]]}}).captions("nut", language)
    assert texts(captions) == expected


def test_without_captions_the_way_out_is_named():
    with pytest.raises(ModelInputError, match=r"expected specific prompts for 'nut'.*PROMPT="):
        book().captions("nut", "specific")


def test_words_of_ones_own_are_a_caption_each_and_none_comes_twice():
    captions = book(defects=[" scratch ", "dent", "scratch", ""]).captions("nut", "specific")
    assert texts(captions) == ["scratch", "dent"]


def test_what_is_not_said_of_a_product_is_its_name_and_the_defaults():
    product = book(default={"top_k": 7, "area_share": 0.5}).product("steel_bracket")
    assert (product.name, product.object, product.filter) == ("steel_bracket", "steel bracket", "steel_bracket")
    assert (product.count, product.top_k, product.area_share, product.overlap) == (1, 7, 0.5, 0.0)


def test_blanks_underscores_and_capitals_name_the_same_product():
    one = book(products={"Steel Bracket": {"count": 3}})
    assert one.product("steel_bracket").count == 3
    assert one.knows("steel bracket")
    assert not one.knows("bracket")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"object": "nut", "colour": "red"}, r"'nut' to have some of name, object.*colour"),
        ({"captions": "scratch"}, r"'nut'.*list of texts, got 's'"),
        ({"captions": [["scratch", 3]]}, r"'nut'.*list of texts"),
        ({"count": 0}, r"'nut'.*count to be a whole number from 1, got 0"),
        ({"count": 1.5}, r"'nut'.*count to be a whole number"),
        ({"top_k": 0}, r"'nut'.*top_k"),
        ({"area_share": 0}, r"'nut'.*area_share to be above 0"),
        ({"area_share": "half"}, r"the prompts of 'nut'"),
        ({"overlap": 1.0}, r"'nut'.*overlap"),
        ("scratch", r"the prompts of 'nut' to have some of"),
    ],
)
def test_a_bad_entry_is_refused_by_product_and_field(entry, message):
    with pytest.raises(ModelInputError, match=message):
        book(products={"nut": entry})


def test_general_prompts_are_a_list():
    with pytest.raises(ModelInputError, match="expected general of the prompts to be a list"):
        PromptBook(source="test", general="defect")


def test_a_choice_hands_own_words_to_every_source_and_needs_two():
    choice = PromptChoice({"a": book(), "b": book()}, defects=["dent"])
    assert all(each.defects == ("dent",) for each in choice.sources.values())
    assert "dent" in choice.label
    with pytest.raises(ModelInputError, match="two or more sources"):
        PromptChoice({"a": book()})


def test_the_published_prompts_come_out_as_they_were_sent():
    expert = chosen("prompts=saa_expert")
    assert len(expert.products) == 29
    nut = expert.captions("metal_nut", "both", raw_names=True)
    assert texts(nut) == ["defect on metal_nut", "damage on metal_nut", "flaw on metal_nut",
                          "blue defect. black defect. red defect. scratch"]  # fmt: skip
    assert [caption.filter for caption in nut] == ["metal_nut"] * 3 + ["nut"]
    assert texts(expert.captions("carpet", "specific")) == ["black hole", "thread", "defect"]
    pcb = expert.product("pcb1")
    assert (pcb.object, pcb.count, pcb.top_k, pcb.area_share) == ("printed circuit board", 1, 1, 0.3)
    assert (expert.product("cashew").top_k, expert.product("cashew").area_share) == (17, 0.05)
    assert expert.product("capsules").count == 20
    assert expert.product("chewinggum").object_caption == "chewinggum"
    tile = expert.captions("magnetic_tile", "both", raw_names=True)
    assert texts(tile)[0] == "defect on mtd"
    assert len(tile) == 5


def test_how_many_passes_the_published_prompts_take():
    """1 for the object, 3 general ones, and the product's own: the facts of the published code."""
    expert = chosen("prompts=saa_expert")
    passes = {name: 4 + len(entry.captions) for name, entry in expert.products.items()}
    assert passes["carpet"] == 7
    assert passes["pcb4"] == 10
    mvtec, visa = list(passes.values())[:15], list(passes.values())[15:27]
    assert sum(mvtec) == 78
    assert sum(visa) == 75


def test_the_model_picks_its_own_prompts_and_the_command_line_others():
    assert texts(chosen().captions("nut", "both")) == ["defect on nut", "damage on nut", "flaw on nut"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert instantiate(compose("zero_shot", ["model=saa"]).prompts).general == ("anomaly",)
        clip = compose("zero_shot", []).prompts
        assert clip._target_ == "models.clip.text.PromptEnsemble"


def test_a_product_of_ones_own_on_the_command_line():
    own = "+prompts.products.steel_bracket={object: steel bracket, captions: [[deep scratch, dent], [rust]], count: 2}"
    product = chosen("prompts=saa_general", own)
    assert texts(product.captions("steel bracket", "specific")) == ["deep scratch. dent", "rust"]
    assert product.product("steel bracket").count == 2


def test_words_of_the_environment_reach_the_prompts(monkeypatch):
    monkeypatch.setenv("VANDKIT_PROMPT", "scratch, a deep dent")
    for name in ("saa_general", "saa_expert", "saa_naive"):
        assert chosen(f"prompts={name}", command="predict").defects == ("scratch", "a deep dent")
    automatic = chosen("prompts=saa_auto", command="predict")
    assert [each.defects for each in automatic.sources.values()] == [("scratch", "a deep dent")] * 3


def test_the_label_says_where_prompts_come_from():
    assert chosen("prompts=saa_general").label == "SAA+ general prompts (label-free)"
    assert "test defects" in chosen("prompts=saa_expert").label
    assert chosen("prompts=saa_general", "prompts.defects=[scratch]").label.endswith("and the words scratch")


def test_label_free_defaults_say_nothing_of_any_product():
    text = yaml.safe_load((CONF / "prompts/saa_general.yaml").read_text())
    assert text["products"] == {}
    assert ProductPrompt(**text["default"]) == ProductPrompt()
