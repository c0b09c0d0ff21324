"""Whatever a name holds, the markup stays whole; numbers are written in one way."""

from xml.etree import ElementTree

import pytest

from tracks.report_page.html import breakable, percent, plural, significant, templates

NASTY = ['<b>&"', "'><script>alert(1)</script>", "&amp;", "a]]>b", "é – 図"]


@pytest.mark.parametrize("text", NASTY)
def test_text_and_attributes_read_back_as_they_were(text):
    made = templates().from_string('<td title="{{ text }}">{{ text }}</td>').render(text=text)
    read = ElementTree.fromstring(made)
    assert (read.text, read.attrib, len(read)) == (text, {"title": text}, 0)
    broken = ElementTree.fromstring(templates().from_string("<p>{{ text|breakable }}</p>").render(text=text))
    assert "".join(broken.itertext()) == text


def test_names_break_after_separators():
    assert breakable("a_b/c.png") == "a_<wbr/>b/<wbr/>c.<wbr/>png<wbr/>"


def test_counts_and_numbers():
    assert [plural(1, "image"), plural(2000, "image"), plural(0, "category")] == [
        "1 image",
        "2,000 images",
        "0 categories",
    ]
    assert [percent(0.12345), percent(None), significant(0.123456)] == ["12.3", "—", "0.1235"]
