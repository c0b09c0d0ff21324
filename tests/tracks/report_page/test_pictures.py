"""The pictures: one scale for all, outlines where the masks are, photos once."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from tests.support.rows import row
from tracks.decide.threshold import GOOD
from tracks.report_page.choice import Pick
from tracks.report_page.html import templates
from tracks.report_page.pictures import LONGEST_PATH, Style, colours, data_uri, draw_picture, heat_picture, outline
from tracks.run.overlay import HeatScale

STYLE = Style(HeatScale(0.0, 0.2, 1.0), threshold=0.5, side=64)
PICK = Pick(row("a.png"), "lowest image score", GOOD, above_f1_max=False, pixel_recall=0.25)


def card(anomaly_map, mask, photo, style=STYLE, pick=PICK):
    """The markup of an image: the figure, and what opens at a click."""
    made = (
        templates().get_template("parts.html").module.picture(draw_picture(pick, anomaly_map, mask, photo, style), "7")
    )
    return ElementTree.fromstring(f"<div>{made}</div>")


def panels(made):
    return made.findall("figure//svg")


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
    made = card(*spotted(), PIL.Image.new("RGB", (300, 200), (10, 200, 30)))
    photo, outlines, heat = panels(made)
    assert [panel.get("class") for panel in panels(made)] == ["photo", "outlines", "map"]
    assert {panel.get("viewBox") for panel in made.iter("svg")} == {"0 0 64 43"}
    assert decoded(photo.find("image").get("href")).getpixel((5, 5)) == pytest.approx((10, 200, 30), abs=6)
    assert outlines.find("use").get("href") == f"#{photo.get('id')}"
    hot = decoded(heat.find("image").get("href")).convert("RGB").getpixel((35, 24))
    assert hot == pytest.approx(colours()[round(0.9 * 255)].astype(float), abs=25)


def test_a_click_opens_the_same_pictures_large():
    made = card(*spotted(), PIL.Image.new("RGB", (300, 200)))
    large = made.find("div[@popover]")
    assert made.find("figure//button").get("popovertarget") == large.get("id")
    assert [f"#{panel.get('id')}" for panel in panels(made)] == [use.get("href") for use in large.iter("use")]
    assert large.find("p/button").get("popovertargetaction") == "hide"


def filled(line, size):
    """The pixels inside an outline, and on it, (height, width) bool."""
    image = PIL.Image.new("1", size)
    for part in re.findall(r"M([^z]*)z", line.path):
        corners = np.array(part.split(), dtype=float).reshape(-1, 2)
        PIL.ImageDraw.Draw(image).polygon([(x, y) for x, y in corners], fill=1, outline=1)
    return np.asarray(image)


def test_the_outlines_lie_where_mask_and_called_pixels_are():
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:30, 7:40] = True
    line = outline(mask, (60, 40))
    assert (line.path, line.x, line.y) == ("M7 5 7 29 39 29 39 5z", 1, 1)
    assert (filled(line, (60, 40)) == mask).all()
    assert (filled(outline(mask, (120, 80)), (120, 80)) == mask.repeat(2, 0).repeat(2, 1)).all()
    round_ = np.hypot(*(np.indices((40, 60)) - [[[20]], [[30]]])) < 15
    assert (filled(outline(round_, (60, 40)), (60, 40)) == round_).all()
    groups = card(*spotted(), PIL.Image.new("RGB", (96, 64))).findall(".//g[@class]")
    paths = {group.get("class"): group.find("path").get("d") for group in groups}
    assert paths == {"outline defect": "M11 5 11 15 26 15 26 5z", "outline called": "M40 27 40 37 52 37 52 27z"}


def test_a_hole_has_its_own_outline():
    mask = np.ones((20, 20), dtype=bool)
    mask[5:15, 5:15] = False
    assert outline(mask, (20, 20)).path.count("M") == 2
    assert outline(np.zeros((4, 4), dtype=bool), (4, 4)) is None


@pytest.mark.parametrize("shape", [(1000, 700), (3001, 40)])
def test_a_speck_of_a_large_mask_is_not_lost(shape):
    for place in np.random.default_rng(0).integers(0, shape, (20, 2)):
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(place)] = True
        x, y = map(int, re.fullmatch(r"M(\d+) (\d+)z", outline(mask, (35, 50)).path).groups())
        assert abs(np.array([y, x]) + 0.5 - (place + 0.5) * [50, 35] / shape).max() <= max(0.51, 0.5 * 35 / shape[1])


def test_a_wild_mask_gets_a_coarser_outline_instead_of_a_long_one():
    line = outline(np.random.default_rng(0).random((256, 256)) < 0.3, (256, 256))
    assert 0 < len(line.path) <= LONGEST_PATH
    assert line.x > 1


def test_without_a_photo_map_and_mask_stay():
    made = card(*spotted(), None)
    assert [panel.get("class") for panel in panels(made)] == ["outlines", "map"]
    assert made.find(".//g[@class='outline defect']") is not None


def test_without_a_mask_or_a_threshold_there_is_no_outline():
    made = card(spotted()[0], None, None, Style(STYLE.scale, None, 64), Pick(row("a.png"), "why", None, None, None))
    assert made.findall(".//path") == []
    assert "nothing known" in panels(made)[0].get("aria-label")
    assert len(made.findall("figure/figcaption/span")) == 2, "and without a verdict no word for it"


def test_every_picture_says_what_it_shows():
    anomaly_map, mask = spotted()
    made = card(anomaly_map, mask, PIL.Image.new("RGB", (96, 64)))
    spoken = [panel.get("aria-label") for panel in panels(made)]
    assert spoken[0] == "Photo a.png"
    assert f"covers {100 * mask.mean():.1f} percent" in spoken[1]
    assert f"{100 * 80 / (32 * 48):.1f} percent lies at or above" in spoken[1]
    assert f"maximum {np.float16(0.9):.4g}" in spoken[2]


def test_a_name_with_markup_stays_a_name():
    made = card(spotted()[0], None, None, pick=Pick(row('<b>&".png'), "why", None, None, None))
    assert "".join(made.find("figure/figcaption/strong").itertext()) == '<b>&".png'
