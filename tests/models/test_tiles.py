"""Large images in overlapping tiles: which tiles, how they are joined, and that a model profits of them."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from models.base import AnomalyModel, Prediction
from models.errors import ModelInputError
from models.images import Preprocess
from models.tiles import (
    AUTO,
    NATIVE,
    OVERLAP,
    WHOLE,
    Tiled,
    TiledPreprocess,
    Views,
    boxes,
    check_tiles,
    joined_maps,
    layout,
    reduced,
    share,
)
from tests.support.clip_stand_ins import random_images, small_model
from tracks.decide.threshold import weights_threshold

SIDE = 16


class Darkest(AnomalyModel):
    """The map is how dark a pixel is, less how dark it is in the references; the score its maximum. Sees 16 x 16."""

    def __init__(self):
        super().__init__()
        self.known = {}

    @staticmethod
    def preprocess(image):
        values = torch.frombuffer(bytearray(image.convert("L").resize((SIDE, SIDE)).tobytes()), dtype=torch.uint8)
        return (1 - values.view(1, SIDE, SIDE).float() / 255).expand(3, -1, -1)

    def fit(self, references, category):
        self.known[category] = references.mean(1)

    def predict(self, images, categories):
        maps = images.mean(1)
        if self.known:
            maps = maps - torch.stack([self.known[category].amax(0) for category in categories])
        return Prediction(maps, maps.amax((1, 2)))

    def reference_prediction(self, category):
        maps = self.known[category] - self.known[category].amin(0)
        return Prediction(maps, maps.amax((1, 2)))

    @property
    def protocol(self):
        return {"method": "darkest", "model_image_size": SIDE}


@pytest.mark.parametrize(
    ("size", "tiles", "expected"),
    [
        ((300, 300), AUTO, (0, 0)), ((900, 900), AUTO, (2, 2)), ((900, 600), AUTO, (2, 3)), ((600, 900), AUTO, (3, 2)),
        ((300, 900), AUTO, (3, 1)), ((4000, 3000), WHOLE, (0, 0)), ((900, 900), 3, (3, 3)),
        ((448, 448), NATIVE, (3, 3)), ((1, 1), AUTO, (0, 0)),
    ],
)  # fmt: skip
def test_which_tiles_an_image_has(size, tiles, expected):
    assert layout(size, 224, tiles) == expected


@pytest.mark.parametrize("tiles", [(2, 2), (1, 3), (4, 2)])
def test_tiles_cover_the_image_and_overlap(tiles):
    places = list(boxes(tiles))
    assert len(places) == tiles[0] * tiles[1]
    assert min(place[0] for place in places) == min(place[1] for place in places) == 0
    assert max(place[2] for place in places) == pytest.approx(1)
    assert max(place[3] for place in places) == pytest.approx(1)
    first, second = places[:2]
    assert first[2] - second[0] == pytest.approx(OVERLAP * share(tiles[1]))


@pytest.mark.parametrize("tiles", [(2, 2), (3, 5), (1, 2)])
def test_the_maps_of_tiles_are_joined_without_seams(tiles):
    """Tiles cut from a linear ramp give the ramp."""
    places, centres, side = list(boxes(tiles)), (torch.arange(24) + 0.5) / 24, 120
    maps = [
        2 * (top + centres * (bottom - top))[:, None] + left + centres * (right - left)
        for left, top, right, bottom in places
    ]
    pixels = (torch.arange(side) + 0.5) / side
    ramp, inside = 2 * pixels[:, None] + pixels, slice(8, -8)  # outside lie the outer halves of the maps' outer pixels
    joined = joined_maps(torch.stack(maps), places, side)
    assert_close(joined[inside, inside], ramp[inside, inside], atol=0.03, rtol=0)


def test_a_small_defect_is_seen_in_a_tile_and_lies_at_its_place():
    image = PIL.Image.new("L", (160, 160), 255)
    image.paste(0, (120, 40, 126, 46))
    whole, tiled = Darkest(), Tiled(Darkest(), 4, score_weight=1.0, map_weight=1.0)
    seen = tiled.predict([tiled.preprocess(image)], ["part"])
    assert seen.image_scores > 1.5 * whole.predict(whole.preprocess(image)[None], ["part"]).image_scores
    row, column = divmod(int(seen.anomaly_maps[0].argmax()), tiled.map_side)
    assert (column / tiled.map_side, row / tiled.map_side) == pytest.approx((123 / 160, 43 / 160), abs=0.04)


def test_a_tile_is_compared_with_the_references_at_its_position():
    """A dark corner that all references have is no defect; the same corner elsewhere is."""
    normal, turned = PIL.Image.new("L", (64, 64), 255), PIL.Image.new("L", (64, 64), 255)
    normal.paste(0, (0, 0, 20, 20))
    turned.paste(0, (44, 44, 64, 64))
    model = Tiled(Darkest(), 2)
    model.fit([model.preprocess(normal), model.preprocess(normal)], "part")
    same, other = (model.predict([model.preprocess(image)], ["part"]) for image in (normal, turned))
    assert float(same.anomaly_maps.max()) == pytest.approx(0, abs=1e-6)
    assert float(other.anomaly_maps.max()) > 0.5
    assert_close(model.reference_prediction("part").image_scores, torch.zeros(2), atol=1e-6, rtol=0)


def test_small_images_are_as_without_tiles_but_for_the_size_of_the_map():
    inner = small_model("timm")
    model = Tiled(inner, AUTO)
    images = random_images(3, inner.backbone.image_size)
    plain, seen = inner.predict(images, ["nut"] * 3), model.predict(images, ["nut"] * 3)
    assert_close(seen.image_scores, plain.image_scores)
    assert seen.anomaly_maps.shape == (3, model.map_side, model.map_side)


def noise(*size):
    return PIL.Image.effect_noise(size, 90).convert("RGB")


@pytest.mark.parametrize("fitted", [False, True])
def test_a_batch_is_one_image_at_a_time_whatever_their_sizes(fitted):
    model = Tiled(small_model("timm"), AUTO)
    images = [model.preprocess(noise(*size)) for size in ((300, 300), (90, 300), (90, 90))]
    if fitted:
        model.fit([model.preprocess(noise(300, 300)), model.preprocess(noise(300, 300))], "nut")
    together = model.predict(images, ["nut"] * 3)
    for i, image in enumerate(images):
        alone = model.predict([image], ["nut"])
        assert_close(alone.anomaly_maps[0], together.anomaly_maps[i], atol=1e-3, rtol=1e-3)
        assert_close(alone.image_scores[0], together.image_scores[i], atol=1e-3, rtol=1e-3)


def test_references_left_out_are_scored_as_whole_and_tiles():
    model = Tiled(small_model("timm"), AUTO)
    images = [model.preprocess(noise(300, 300)) for _ in range(3)]
    model.fit(images, "nut")
    left_out, remembered = model.reference_prediction("nut"), model.predict(images, ["nut"] * 3)
    assert left_out.image_scores.shape == (3,)
    assert left_out.anomaly_maps.shape == (3, model.map_side, model.map_side)
    assert (left_out.image_scores > remembered.image_scores).all()


def test_the_protocol_says_how_images_are_cut():
    labels = {str(tiles): Tiled(Darkest(), tiles).protocol["tiles"] for tiles in (AUTO, NATIVE, 3)}
    assert len(set(labels.values())) == 3
    assert "3 tiles" in labels["3"]


def test_the_threshold_of_the_weights_is_the_inner_models():
    inner = Darkest()
    inner.image_threshold, inner.threshold_source = 0.4, "here"
    assert weights_threshold(Tiled(inner, AUTO)).value == 0.4


@pytest.mark.parametrize("tiles", ["hole", 1, 0, 17, 2.5, True, None])
def test_other_ways_to_cut_are_refused(tiles):
    with pytest.raises(ModelInputError, match="expected tiles to be whole, auto, native or a number from 2 to 16, got"):
        check_tiles(tiles)


def test_models_without_a_size_and_images_of_others_are_refused():
    class Free(Darkest):
        protocol = {"method": "free"}  # noqa: RUF012

    with pytest.raises(ModelInputError, match="squares of one size with tiles=auto, got Free"):
        Tiled(Free(), AUTO)
    with pytest.raises(ModelInputError, match=r"of shape \(3, n x 16, m x 16\), got \(3, 20, 16\)"):
        Tiled(Darkest(), AUTO).predict([torch.zeros(3, 20, 16)], ["part"])


def test_a_photo_of_twelve_megapixels_makes_a_bounded_canvas():
    preprocess = TiledPreprocess(lambda image: torch.zeros(3, 224, 224), 224, NATIVE)
    assert preprocess(PIL.Image.new("L", (4000, 3000))).numel() * 4 < 80e6


@pytest.mark.parametrize(
    ("size", "factor"), [((4000, 3000), 2), ((2200, 2200), 1), ((900, 9000), 1), ((8000, 6000), 4)]
)
def test_a_large_photo_is_averaged_down_before_it_is_cut(size, factor):
    fine = np.random.default_rng(0).integers(90, 160, (60, 80, 3), dtype=np.uint8)
    photo = PIL.Image.fromarray(fine).resize(size, PIL.Image.Resampling.BICUBIC)
    cells = layout(photo.size, 224, AUTO)
    small = reduced(photo, 224, cells)
    assert small.size == (-(-size[0] // factor), -(-size[1] // factor))
    assert (small is photo) == (factor == 1)
    plain = Preprocess(224)
    apart = (TiledPreprocess(plain, 224, AUTO)(photo)[:, :224, :224].float() - plain.pixels(photo)).abs()
    assert apart.max() <= 1.01
    assert apart.mean() <= (0.3 if factor > 1 else 0)


def test_canvases_are_in_bytes_and_finished_as_the_inner_preprocess_does():
    tiled, photo = TiledPreprocess(Preprocess(64, (0.1, 0.5, 0.7), (0.3, 0.2, 0.4)), 64, AUTO), noise(150, 150)
    canvas = tiled(photo)
    assert canvas.dtype == torch.uint8
    views = Views.of([canvas, canvas], tiled, torch.device("cpu"))
    cut = [photo.crop([round(150 * edge) for edge in box]) for box in boxes((2, 2))]
    assert torch.equal(views.wholes[1], tiled.inner(photo))
    assert all(torch.equal(views.tiles[4 + i], tiled.inner(each)) for i, each in enumerate(cut))
    floats = Views.of([tiled.finished(canvas)], tiled, torch.device("cpu"))
    assert torch.equal(floats.wholes[0], views.wholes[0])  # what is finished stays


def test_maps_of_several_images_are_joined_as_one_by_one():
    places, maps = list(boxes((2, 3))), torch.rand(3, 6, 10, 10)
    assert torch.equal(joined_maps(maps, places, 50), torch.stack([joined_maps(each, places, 50) for each in maps]))


def test_one_batch_to_a_core_gives_what_one_after_the_other_does():
    model = Tiled(small_model("resnet"), 2)
    pictures = [model.preprocess(noise(210, 200)), model.preprocess(noise(300, 200))]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(model.predict(pictures, ["nut", "bolt"]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_close(found[0].anomaly_maps, found[1].anomaly_maps, rtol=1e-5, atol=1e-6)
    assert_close(found[0].image_scores, found[1].image_scores, rtol=1e-5, atol=1e-6)
