"""The pictures: one scale for all, outlines where the masks are, photos once."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest

from tests.support.rows import row
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.report_page.choice import Pick
from tracks.report_page.html import element
from tracks.report_page.pictures import Shown, Style, colours, data_uri, heat_picture, picture_row
from tracks.run.overlay import HeatScale

STYLE = Style(HeatScale(0.0, 0.2, 1.0), threshold=0.5, side=64)
PICK = Pick(row("a.png"), "lowest image score", GOOD, above_f1_max=False, pixel_recall=0.25)


def card(shown, style=STYLE, pick=PICK, kind="miss"):
    return ElementTree.fromstring(picture_row(pick, shown, style, 7, kind))


def decoded(uri):
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def spotted():
    anomaly_map, mask = np.full((32, 48), 0.1, dtype=np.float16), np.zeros((32, 48), dtype=bool)
    mask[4:12, 8:20] = True
    anomaly_map[20:28, 30:40] = 0.9
    return anomaly_map, mask


def lightness(rgb):
    return rgb.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_the_colour_scale_only_gets_lighter():
    steps = np.diff(lightness(colours()))
    assert (steps > -0.5).all()
    assert lightness(colours()[-1:]) - lightness(colours()[:1]) > 200


def test_a_value_has_one_colour_whatever_the_map():
    low = np.array([[0.5, 0.1]], dtype=np.float16).repeat(2, axis=0)
    high = np.array([[0.5, 0.99]], dtype=np.float16).repeat(2, axis=0)
    pixels = [np.asarray(heat_picture(anomaly_map, STYLE)) for anomaly_map in (low, high)]
    assert (pixels[0][:, 0] == pixels[1][:, 0]).all()
    assert (pixels[0][:, 0] == colours()[128]).all()
    assert (pixels[0][:, 1] != pixels[1][:, 1]).any()


def test_values_beyond_the_scale_have_the_colours_of_its_ends():
    beyond = np.array([[-3.0, 5.0]], dtype=np.float16)
    pixels = np.asarray(heat_picture(beyond, STYLE))
    assert pixels[0].tolist() == [colours()[0].tolist(), colours()[-1].tolist()]
    flat = Style(HeatScale(0.0, 0.0, 0.0), None, 64)
    assert (np.asarray(heat_picture(beyond, flat)) == colours()[0]).all()


def test_a_picture_is_shrunk_but_never_enlarged():
    assert heat_picture(np.zeros((200, 100), dtype=np.float16), STYLE).size == (32, 64)
    assert heat_picture(np.zeros((20, 10), dtype=np.float16), STYLE).size == (10, 20)


@pytest.mark.parametrize("photo", ["flat", "noise"])
def test_a_data_uri_holds_the_picture_in_the_shorter_encoding(photo):
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    if photo == "noise":
        pixels = np.random.default_rng(0).integers(0, 255, pixels.shape, dtype=np.uint8)
    read = decoded(uri := data_uri(PIL.Image.fromarray(pixels)))
    assert read.size == (60, 40)
    assert abs(float(np.asarray(read.convert("RGB")).mean()) - float(pixels.mean())) < 8
    assert re.match(r"data:image/(webp|jpeg);base64,[A-Za-z0-9+/]+=*$", uri)


def test_a_card_shows_photo_outlines_and_map_in_the_photos_shape():
    anomaly_map, mask = spotted()
    photo = PIL.Image.new("RGB", (300, 200), (10, 200, 30))
    figure = card(Shown(anomaly_map, mask, photo))
    panels = figure.findall(".//svg")
    assert [panel.get("class") for panel in panels] == ["photo", "outlines", "map"]
    assert {panel.get("viewBox") for panel in panels} == {"0 0 64 43"}
    assert decoded(panels[0].find("image").get("href")).getpixel((5, 5)) == pytest.approx((10, 200, 30), abs=6)
    assert panels[1].find("use").get("href") == f"#{panels[0].find('image').get('id')}"
    hot = decoded(panels[2].find("image").get("href")).convert("RGB").getpixel((35, 24))
    assert hot == pytest.approx(colours()[round(0.9 * 255)].astype(float), abs=25)


def test_the_outlines_lie_where_mask_and_called_pixels_are():
    anomaly_map, mask = spotted()
    outlines = card(Shown(anomaly_map, mask, PIL.Image.new("RGB", (96, 64)))).findall(".//g[@class]")
    paths = {group.get("class"): (group.find("path").get("d"), group.get("transform")) for group in outlines}
    assert paths["outline defect"][0].startswith("M8 4h12v8h-12")
    assert paths["outline called"][0].startswith("M30 20h10v8h-10")
    assert paths["outline defect"][1] == "scale(1.333 1.344)"


def test_without_a_photo_map_and_mask_stay():
    anomaly_map, mask = spotted()
    figure = card(Shown(anomaly_map, mask, None))
    assert [panel.get("class") for panel in figure.findall(".//svg")] == ["outlines", "map"]
    assert figure.find(".//g[@class='outline defect']") is not None


def test_without_a_mask_or_a_threshold_there_is_no_outline():
    figure = card(
        Shown(spotted()[0], None, None), Style(STYLE.scale, None, 64), Pick(row("a.png"), "why", None, None, None)
    )
    assert figure.findall(".//path") == []
    assert "nothing known" in figure.findall(".//svg")[0].get("aria-label")


def test_every_picture_says_what_it_shows():
    anomaly_map, mask = spotted()
    spoken = [
        panel.get("aria-label") for panel in card(Shown(anomaly_map, mask, PIL.Image.new("RGB", (96, 64)))).iter("svg")
    ]
    assert spoken[0] == "Photo a.png"
    assert f"covers {100 * mask.mean():.1f} percent" in spoken[1]
    assert f"{100 * 80 / (32 * 48):.1f} percent lies at or above" in spoken[1]
    assert f"maximum {np.float16(0.9):.4g}" in spoken[2]


@pytest.mark.parametrize(
    ("kind", "verdict", "above", "tag", "beside"),
    [
        ("miss", GOOD, True, "missed", "by the F1-max threshold found"),
        ("miss", DEFECT, False, "found", "by the F1-max threshold missed"),
        ("miss", UNDECIDED, False, "undecided", "by the F1-max threshold missed"),
        ("alarm", DEFECT, False, "false alarm", "by the F1-max threshold no alarm"),
        ("alarm", GOOD, True, "no alarm", "by the F1-max threshold false alarm"),
    ],
)
def test_the_tag_is_by_the_runs_own_threshold_and_the_label_chosen_one_stands_beside(kind, verdict, above, tag, beside):
    figure = card(Shown(spotted()[0], None, None), pick=Pick(PICK.row, "why", verdict, above, 0.25), kind=kind)
    tags = ["".join(node.itertext()) for node in figure.findall("figcaption/span[@class]")]
    assert tags[1] == tag
    assert beside in tags[2]
    assert "25.0\u00a0% of its defect pixels found" in tags[2]


def test_without_a_threshold_of_its_own_a_run_calls_nothing_missed():
    figure = card(Shown(spotted()[0], None, None), pick=Pick(PICK.row, "why", None, False, 0.25), kind="miss")
    tags = figure.findall("figcaption/span[@class]")
    assert len(tags) == 2
    assert "by the F1-max threshold missed" in "".join(tags[1].itertext())


def test_a_name_with_markup_stays_a_name():
    pick = Pick(row('<b>&".png'), "why", None, None, None)
    figure = card(Shown(spotted()[0], None, None), pick=pick)
    assert "".join(figure.find("figcaption/strong").itertext()) == '<b>&".png'
    assert element("p", pick.row.name) == '<p>&lt;b&gt;&amp;".png</p>'
