"""Whatever a name holds, the markup stays whole."""

from xml.etree import ElementTree

import pytest

from tracks.report_page.html import Html, breakable, element, join, percent, plural, short

NASTY = ['<b>&"', "'><script>alert(1)</script>", "&amp;", "a]]>b", "é – 図"]


@pytest.mark.parametrize("text", NASTY)
def test_text_and_attributes_read_back_as_they_were(text):
    read = ElementTree.fromstring(element("td", text, title=text))
    assert (read.tag, read.text, read.attrib) == ("td", text, {"title": text})
    assert len(read) == 0


@pytest.mark.parametrize("text", NASTY)
def test_a_breakable_name_is_the_same_name(text):
    assert "".join(ElementTree.fromstring(element("p", breakable(text))).itertext()) == text


def test_names_break_after_separators():
    assert breakable("a_b/c.png") == "a_<wbr/>b/<wbr/>c.<wbr/>png<wbr/>"


def test_markup_is_not_escaped_twice():
    assert element("p", element("b", "1 < 2"), ["x", None, Html("<br/>")]) == "<p><b>1 &lt; 2</b>x<br/></p>"
    assert join(["<", Html("<i>")]) == "&lt;<i>"


def test_attributes_are_named_as_in_html():
    made = element("rect", x=1.25, width=3, class_="bar", text_anchor="end", id=None)
    assert made == '<rect x="1.2" width="3" class="bar" text-anchor="end"/>'


def test_an_empty_element_that_is_not_void_is_closed():
    assert element("span") == "<span></span>"


@pytest.mark.parametrize(("value", "shown"), [(12.0, "12"), (-0.01, "0"), (3.14, "3.1"), (-2.5, "-2.5")])
def test_coordinates_are_short(value, shown):
    assert short(value) == shown


def test_counts_and_shares():
    assert [plural(1, "image"), plural(2000, "image"), plural(0, "category")] == [
        "1 image",
        "2,000 images",
        "0 categories",
    ]
    assert [percent(0.12345), percent(None)] == ["12.3", "—"]
