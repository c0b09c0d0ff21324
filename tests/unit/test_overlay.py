"""Overlays: the planted defect is what changes, good parts stay the plain photo."""

import numpy as np
import PIL.Image
import pytest

from eval.histogram import ValueCounts
from tracks.overlay import HeatScale, category_scale, count_pixels, draw_overlays, render_overlay
from tracks.store import PredictionStore, Row

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


def test_the_outline_runs_around_the_spot_and_nowhere_else():
    scale = HeatScale(0.0, 0.9, 1.0)  # no heat at all, so that the line alone shows
    pixels = np.asarray(render_overlay(photo(), with_spot(0), scale, outline=0.5))[:64]
    white = (pixels == 255).all(axis=-1)
    expected = np.zeros((64, 64), dtype=bool)
    expected[19:37, 40:56] = expected[20:36, 39:57] = True
    expected[SPOT] = False
    np.testing.assert_array_equal(white, expected)


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
