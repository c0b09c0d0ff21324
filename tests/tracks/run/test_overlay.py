"""Overlays: the planted defect is what changes, good parts stay the plain photo."""

import numpy as np
import PIL.Image
import pytest
from matplotlib import colormaps

from eval.ranking.histogram import ValueCounts
from tracks.decide.decision import KeptThresholds
from tracks.decide.threshold import Threshold
from tracks.run.overlay import (
    COLOUR_MAP,
    MODEL_LINE,
    TRUTH_LINE,
    HeatScale,
    category_scale,
    count_pixels,
    draw_overlays,
    map_bound,
    render_overlay,
    shrunk,
)  # fmt: skip
from tracks.run.store import PredictionStore, Row

SPOT = np.s_[20:36, 40:56]


def noise(seed, size=(64, 64)):
    """A map of a good part, values about 0.1."""
    return np.clip(np.random.default_rng(seed).normal(0.1, 0.02, size), 0, 1).astype(np.float16)


def with_spot(seed):
    anomaly_map = noise(seed)
    anomaly_map[SPOT] = 0.8
    return anomaly_map


def photo(size=(64, 64), seed=0):
    """A grey photo of (width, height) with some texture."""
    grey = np.random.default_rng(seed).integers(90, 160, (size[1], size[0], 1), dtype=np.uint8)
    return PIL.Image.fromarray(np.repeat(grey, 3, axis=2))


def scale_of(maps, normal_maps=()):
    counts = ValueCounts()
    for anomaly_map in maps:
        count_pixels(counts, anomaly_map, normal=False)
    for anomaly_map in normal_maps:
        count_pixels(counts, anomaly_map, normal=True)
    return category_scale(counts)


def change(photo, overlay):
    """(H, W) largest change of a channel where the photo is, the legend left out."""
    pixels = np.asarray(overlay).astype(int)[: photo.height]
    return np.abs(pixels - np.asarray(photo).astype(int)).max(axis=-1)


def test_the_scale_without_normals_is_median_and_99_9th_percentile():
    values = np.random.default_rng(0).random((200, 200)).astype(np.float16)
    scale = scale_of([values[:100], values[100:]])
    assert scale.low == pytest.approx(np.quantile(values, 0.5), abs=1e-3)
    assert scale.high == pytest.approx(np.quantile(values, 0.999), abs=1e-3)
    assert scale.quiet == pytest.approx(scale.low + 0.35 * (scale.high - scale.low))


def test_the_scale_with_normals_is_quiet_up_to_them():
    good, bad = np.linspace(0, 0.2, 10000, dtype=np.float16), np.full(2000, 0.8, dtype=np.float16)
    scale = scale_of([bad], [good])
    assert scale.quiet == pytest.approx(0.2, abs=1e-3)
    assert scale.high == pytest.approx(0.8, abs=1e-3)
    alone = scale_of([], [good])
    assert alone.high == pytest.approx(alone.quiet + 0.5 * (alone.quiet - alone.low))


def test_the_planted_spot_is_where_the_overlay_differs():
    maps = [noise(1), noise(2), with_spot(3)]
    spot = np.zeros((64, 64), dtype=bool)
    spot[SPOT] = True
    changed = change(photo(), render_overlay(photo(), maps[2], scale_of(maps)))
    assert (changed[spot] > 60).all()
    assert changed[~spot].max() <= 1


def test_a_good_part_beside_a_defective_one_stays_the_photo():
    maps = [noise(1), noise(2), with_spot(3)]
    assert change(photo(), render_overlay(photo(), maps[0], scale_of(maps))).max() <= 1


def test_a_folder_of_good_parts_stays_dark_where_normals_are_known():
    references, photos = [noise(seed) for seed in range(4)], [noise(seed) for seed in range(4, 12)]
    scale = scale_of(photos, references)
    changed = np.concatenate([change(photo(), render_overlay(photo(), item, scale)) for item in photos])
    assert np.quantile(changed, 0.99) <= 1
    assert changed.mean() < 0.5


def test_heat_grows_with_the_value():
    steps = np.repeat(np.linspace(0, 1, 8, dtype=np.float32)[None], 8, axis=0)
    plain = PIL.Image.new("RGB", (8, 8), (128, 128, 128))
    pixels = np.asarray(render_overlay(plain, steps, HeatScale(0.0, 0.3, 1.0)))[:8].astype(int)
    np.testing.assert_array_equal(pixels[0, :3], np.full((3, 3), 128))
    changed = np.abs(pixels[0, 3:] - 128).sum(axis=-1)
    assert (np.diff(changed) > 0).all(), changed


def test_a_constant_map_and_an_empty_scale_leave_the_photo():
    constant = np.full((16, 16), 0.5, dtype=np.float16)
    assert change(photo(), render_overlay(photo(), constant, scale_of([constant]))).max() == 0
    assert scale_of([]) == HeatScale(0.0, 0.0, 0.0)


def test_a_long_photo_is_shrunk_to_1024_and_a_small_map_is_stretched_over_it():
    anomaly_map = np.zeros((8, 8), dtype=np.float16)
    anomaly_map[2, 6] = 1.0
    large = photo((2048, 1024))
    overlay = render_overlay(large, anomaly_map, HeatScale(0.0, 0.2, 1.0))
    assert overlay.width == 1024
    assert 512 < overlay.height <= 512 + 30
    small = large.resize((1024, 512), PIL.Image.Resampling.LANCZOS)
    y, x = np.unravel_index(change(small, overlay).argmax(), (512, 1024))
    assert abs(y - 2.5 * 64) < 32
    assert abs(x - 6.5 * 128) < 64


def test_odd_shapes_are_drawn():
    for size in ((1, 1), (1, 300), (3000, 2)):
        overlay = render_overlay(photo(size), noise(0), HeatScale(0.0, 0.05, 0.2))
        assert overlay.width == max(1, round(size[0] * min(1, 1024 / max(size))))


def test_every_pixel_is_the_mix_of_photo_and_colour():
    """Beside a plain version that mixes all pixels, cold ones too."""
    values, scale = np.random.default_rng(0).random((64, 64)).astype(np.float32), HeatScale(0.0, 0.3, 0.9)
    share = np.clip((values - 0.3) / 0.6, 0, 1)
    table = colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3].astype(np.float32) * 255
    opacity = 0.7 * share[..., None]
    mixed = np.asarray(photo()) * (1 - opacity) + table[(share * 255).astype(np.uint8)] * opacity
    painted = np.asarray(render_overlay(photo(), values, scale))[:64]
    np.testing.assert_allclose(painted, np.rint(mixed), atol=1)
    assert (painted == np.rint(mixed)).mean() > 0.99
    assert (painted[share == 0] == np.asarray(photo())[share == 0]).all()


def test_a_photo_shrinks_to_its_longer_side_and_never_grows():
    assert shrunk(PIL.Image.new("L", (900, 450)), 320).size == (320, 160)
    assert shrunk(PIL.Image.new("RGBA", (30, 40)), 320).size == (30, 40)
    assert shrunk(PIL.Image.new("RGBA", (30, 40)), 320).mode == "RGB"


def test_shrinking_in_two_steps_looks_as_in_one():
    large = photo((40, 30)).resize((4000, 3000), PIL.Image.Resampling.BICUBIC)
    plain = large.resize((1024, 768), PIL.Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(shrunk(large, 1024)).astype(int) - np.asarray(plain)).max() <= 3


def outlined(pixels, colour):
    return (pixels == np.array(colour)).all(axis=-1)


@pytest.mark.parametrize(("drawn", "colour"), [({"called": True}, MODEL_LINE), ({"mask": None}, TRUTH_LINE)])
def test_the_outline_runs_around_the_spot_and_nowhere_else(drawn, colour):
    spot = np.zeros((64, 64), dtype=bool)
    spot[SPOT] = True
    drawn = {"mask": spot} if "mask" in drawn else drawn
    scale = HeatScale(0.0, 0.5, 0.9)
    pixels = np.asarray(render_overlay(photo(), with_spot(0), scale, **drawn))[:64]
    expected = np.zeros((64, 64), dtype=bool)
    expected[19:37, 40:56] = expected[20:36, 39:57] = True
    expected[SPOT] = False
    np.testing.assert_array_equal(outlined(pixels, colour), expected)


def test_what_is_hottest_in_a_defect_is_seen_although_references_score_higher():
    """Broken parts whose maps stay below the 99.9th percentile of references left out."""
    references = [np.float16(2) * noise(seed) for seed in range(4)]
    weak = noise(9)
    weak[SPOT] = 0.2
    scale = scale_of([weak], references)
    assert weak.max() < scale.quiet
    plain, called = (render_overlay(photo(), weak, scale, called=called) for called in (False, True))
    assert change(photo(), plain).max() <= 1
    changed = change(photo(), called)
    assert changed[SPOT].min() > 60
    away = np.ones((64, 64), dtype=bool)
    away[16:40, 36:60] = False
    assert np.quantile(changed[away], 0.9) <= 1


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_defect_without_anything_most_anomalous_stays_the_photo(value):
    constant = np.full((64, 64), value, dtype=np.float16)
    assert change(photo(), render_overlay(photo(), constant, scale_of([constant]), called=True)).max() == 0


def test_a_defect_that_is_plain_on_the_shared_scale_keeps_it():
    scale = HeatScale(0.0, 0.3, 1.0)
    assert scale.reaching(with_spot(0).astype(np.float32)) is scale
    own = scale.reaching(np.array([0.1, 0.1, 0.1, 0.2]))
    assert (own.low, own.high, own.own) == (0.1, 0.2, True)
    assert own.quiet == pytest.approx(0.15)
    more_than_half = scale.reaching(np.array([0.1, 0.2, 0.2, 0.2]))
    assert (more_than_half.low, more_than_half.high) == (0.1, 0.2)


@pytest.mark.parametrize(("bound", "high"), [(None, 1.35), (1.0, 1.0), (0.5, 0.9)])
def test_the_scale_ends_within_what_a_map_can_reach(bound, high):
    counts = ValueCounts()
    count_pixels(counts, np.array([0.0] * 10 + [0.9] * 9, dtype=np.float16), normal=True)
    scale = category_scale(counts, bound)
    assert scale.quiet == pytest.approx(0.9, abs=1e-3)
    assert scale.high == pytest.approx(high, abs=1e-3)


def test_the_bound_of_a_run_depends_on_references():
    protocol = {"map_bound": 1, "few_shot_map_bound": 3}
    assert [map_bound(protocol, True), map_bound(protocol, False), map_bound({}, True)] == [3.0, 1.0, None]


class PhotoSample:
    def __init__(self, name, seed):
        self.name, self._seed = name, seed

    def load_image(self):
        return photo(seed=self._seed)


@pytest.fixture
def run(tmp_path):
    """A store of ten images of which the last three are defective, with their samples."""
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    samples = []
    for index in range(10):
        anomaly_map = with_spot(index) if index >= 7 else noise(index)
        name = f"test/x/{index}.png"
        row = Row(name, "bolt", None, "", index / 10, 64, 64, store.map_file("bolt", name), False, "1")
        store.add(row, anomaly_map, None)
        samples.append(PhotoSample(name, index))
    return store, samples


def drawn(store):
    return sorted(path.relative_to(store.folder).as_posix() for path in store.folder.glob("overlays/**/*.png"))


def test_overlays_of_a_run_span_the_ranking_and_share_a_scale(run):
    store, samples = run
    draw_overlays(store, samples, "bolt", count=2)
    assert drawn(store) == ["overlays/bolt/test/x/0.png.png", "overlays/bolt/test/x/9.png.png"]
    good, bad = (PIL.Image.open(store.folder / path) for path in drawn(store))
    assert change(photo(seed=0), good).max() <= 1
    assert change(photo(seed=9), bad)[SPOT].min() > 60


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (4, 4), (99, 10), (-1, 10)])
def test_as_many_overlays_as_asked_for(run, count, expected):
    store, samples = run
    draw_overlays(store, samples, "bolt", count=count)
    assert len(drawn(store)) == expected


def labelled_run(folder, labels):
    """A store of one image per label, the higher the later it comes, each anomalous one with its mask."""
    store = PredictionStore.create(folder, {"categories": ["bolt"], "protocol": {"map_bound": 1.0}, "shots": 0})
    samples = []
    for index, label in enumerate(labels):
        name = f"{index}.png"
        mask = np.zeros((64, 64), dtype=bool)
        mask[SPOT] = label == 1
        row = Row(name, "bolt", label, "", index / 10, 64, 64, store.map_file("bolt", name), True, "1")
        store.add(row, noise(index), mask)
        samples.append(PhotoSample(name, index))
    return store, samples


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 1, 1, 1, 1], 4, {"0", "1", "2", "5"}),  # the highest and the lowest of each kind
        ([0, 1, 1, 1, 1, 1], 4, {"0", "1", "3", "5"}),  # a single good image leaves its place to the others
        ([0, 0, 0, 0, 0, 1], 4, {"0", "2", "4", "5"}),
        ([0, 0, 1, 1, 1, 1], 1, {"5"}),
    ],
)
def test_good_images_are_among_the_overlays(tmp_path, labels, count, expected):
    store, samples = labelled_run(tmp_path / "run", labels)
    draw_overlays(store, samples, "bolt", count=count)
    assert {path.removeprefix("overlays/bolt/").split(".")[0] for path in drawn(store)} == expected


def test_a_run_outlines_the_true_mask_and_what_its_own_threshold_calls_a_defect(tmp_path):
    store, samples = labelled_run(tmp_path / "run", [0, 1])
    KeptThresholds(store.folder).keep_known("bolt", Threshold(0.1, "planted"))
    draw_overlays(store, samples, "bolt", count=-1)
    good, bad = (np.asarray(PIL.Image.open(store.folder / path))[:64] for path in drawn(store))
    assert outlined(bad, TRUTH_LINE)[19, 40:56].all()
    assert not outlined(good, TRUTH_LINE).any()
    assert outlined(bad, MODEL_LINE).any()
    assert not outlined(good, MODEL_LINE).any()
