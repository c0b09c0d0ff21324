"""A region of interest, from a mask and from points."""

import numpy as np
import PIL.Image
import pytest

from tracks.datasets.region import Region
from tracks.errors import TrackInputError


def test_a_mask_and_the_same_polygon_are_the_same_region(tmp_path):
    mask = np.zeros((40, 80), np.uint8)
    mask[10:20, 20:60] = 1  # not black
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    region = Region(str(tmp_path / "mask.png"))
    points = Region([[0.25, 0.25], [0.75, 0.25], [0.75, 0.5], [0.25, 0.5]])
    assert region.box == (0.25, 0.25, 0.75, 0.5)
    np.testing.assert_allclose(points.box, region.box, atol=2e-3)
    assert region.pixels((400, 100)) == (100, 25, 300, 50)
    assert region.inside((5, 7)).all()


def test_outside_the_region_a_map_is_blank():
    region = Region([[0, 0], [1, 0], [0, 1]])
    anomaly_map = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    blanked = region.blanked(anomaly_map)
    assert blanked[0, 0] == 1
    assert blanked[9, 9] == 1
    assert blanked[8, 0] == 81
    found = region.on_photo([{"box": [0, 0, 5, 5], "area": 0.5, "peak": 1}], (10, 10))
    assert found == [{"box": [0, 0, 5, 5], "area": 0.5, "peak": 1}]


def test_an_empty_mask_is_refused(tmp_path):
    PIL.Image.new("L", (5, 5)).save(tmp_path / "black.png")
    with pytest.raises(TrackInputError, match="with nothing"):
        Region(str(tmp_path / "black.png"))
