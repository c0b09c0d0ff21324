"""Regions of a map: their boxes in the photo, order, number."""

import numpy as np
import pytest

from tracks.decide.regions import MOST_REGIONS, find_regions
from tracks.run.overlay import HeatScale

SCALE = HeatScale(0.0, 0.3, 0.8)


def test_boxes_are_in_pixels_of_the_photo_and_the_largest_region_comes_first():
    anomaly_map = np.zeros((10, 20), np.float16)
    anomaly_map[1, 1] = 0.9
    anomaly_map[4:8, 10:15] = 0.5
    anomaly_map[5, 12] = 0.75
    first, second = find_regions(anomaly_map, (200, 50), SCALE)
    assert first == {"box": [100, 20, 150, 40], "area": 0.1, "peak": 0.75}
    assert second["box"] == [10, 5, 20, 10]
    assert (second["area"], second["peak"]) == (0.005, pytest.approx(0.9, abs=1e-3))


def test_a_photo_whose_heat_is_not_plain_to_see_has_regions_on_its_own_scale():
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[2:4, 2:4] = 0.2
    assert [region["box"] for region in find_regions(anomaly_map, (10, 10), SCALE)] == [[2, 2, 4, 4]]


def test_no_more_than_twenty_regions():
    anomaly_map = np.zeros((20, 20), np.float32)
    anomaly_map[::2, ::2] = 1
    assert len(find_regions(anomaly_map, (20, 20), SCALE)) == MOST_REGIONS
