"""The runner's own arithmetic beside the project's: tiles, resizing, joining, reading, verdicts."""

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from models import tiles
from models.images import Preprocess
from tracks.datasets.images import read_image
from tracks.decide.threshold import Threshold
from tracks.exporting import run

RULES = {"side": 64, "overlap": tiles.OVERLAP, "large": tiles.LARGE, "stretch": tiles.STRETCH}
RULES |= {"most_native": tiles.MOST_NATIVE, "kept_times": tiles.KEPT_TIMES}


@pytest.mark.parametrize("kind", ["auto", "native", 2, 5])
@pytest.mark.parametrize("size", [(64, 64), (90, 100), (100, 101), (97, 96), (600, 100), (64, 400), (2000, 1500)])
def test_photos_are_cut_alike(kind, size):
    expected = tiles.layout(size, 64, kind)
    got = run.layout(size, {**RULES, "tiles": kind})
    assert got == expected
    assert list(run.boxes(got, tiles.OVERLAP)) == list(tiles.boxes(expected))
    photo = PIL.Image.linear_gradient("L").resize(size).convert("RGB")
    ours, theirs = tiles.reduced(photo, 64, expected), run.reduced(photo, RULES, got)
    assert ours.size == theirs.size
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("size", [(7, 9), (20, 31), (5, 11), (3, 4)])
def test_maps_are_resized_alike(size):
    values = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(run.resized(values.numpy(), size), expected.numpy(), atol=1e-6)


def test_tiles_are_joined_alike():
    places = list(tiles.boxes((2, 3)))
    maps = torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = tiles.joined_maps(maps, places, 50)
    got = run.joined_maps(list(maps.numpy()), places, 50, tiles.OVERLAP)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def pictures():
    drawn = np.random.default_rng(0)
    colours = drawn.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    yield "grey", PIL.Image.fromarray(colours[..., 0]), {}
    yield "rgb", PIL.Image.fromarray(colours[..., :3]), {}
    yield "transparent", PIL.Image.fromarray(colours), {}
    yield "palette", PIL.Image.fromarray(colours[..., :3]).quantize(16), {}
    yield "twelve bits", PIL.Image.fromarray(drawn.integers(0, 4000, (20, 30)).astype(np.uint16)), {}
    turned = PIL.Image.Exif()
    turned[274] = 6
    yield "turned", PIL.Image.fromarray(colours[..., :3]), {"exif": turned}


@pytest.mark.parametrize(("picture", "options"), [pytest.param(*given, id=name) for name, *given in pictures()])
def test_files_are_read_and_prepared_alike(picture, options, tmp_path):
    picture.save(tmp_path / "a.png", **options)
    expected, got = read_image(tmp_path / "a.png"), run.opened(tmp_path / "a.png", None)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))
    how = Preprocess(16)
    prepared = run.preprocessed(got, {"image_size": 16, "mean": how.mean, "std": how.std})
    np.testing.assert_array_equal(prepared, how(expected).numpy())


@pytest.mark.parametrize("highest", [None, 0.3, 0.6])
@pytest.mark.parametrize("why", ["", "no use"])
def test_verdicts_are_the_thresholds(highest, why):
    threshold = Threshold(0.5, "by hand", highest_normal=highest, undecided=why)
    runner = run.Runner.__new__(run.Runner)
    runner.threshold = {"value": 0.5, "highest_normal": highest, "undecided": why}
    for score in (0.1, 0.3, 0.4, 0.5, 0.55, 0.6, 0.9):
        assert runner.verdict(score) == threshold.verdict(score)


def test_a_folder_and_a_single_pixel_are_no_photos(tmp_path):
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="got a folder: name its files"):
        run.opened(tmp_path, None)
    with pytest.raises(ValueError, match="got 1 x 1"):
        run.opened(tmp_path / "one.png", None)
