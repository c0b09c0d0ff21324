"""Where a defect is: the parts of a map that are outlined in its overlay, as boxes in the photo."""

import math
from typing import Any

import numpy as np

from tracks.run.overlay import HeatScale

MOST_REGIONS = 20


def find_regions(anomaly_map: np.ndarray, size: tuple[int, int], scale: HeatScale) -> list[dict[str, Any]]:
    """The connected parts of a map (h, w) from the scale's quiet level on, largest first, at most 20.

    Of each the `box` [x0, y0, x1, y1] in pixels of the photo of `size` (width, height), x1 and y1 just outside; its
    `area` as a share of the photo; its `peak`, the highest value of the map. The scale is the photo's own where its
    heat is not plain to see on the common one, as in its overlay.
    """
    values = anomaly_map.astype(np.float32)
    from scipy.ndimage import find_objects, label  # not before the first defect is outlined

    marks, _ = label(values >= scale.reaching(values).quiet)
    counts = np.bincount(marks.ravel())
    found: list[dict[str, Any]] = []
    for number, (rows, columns) in enumerate(find_objects(marks), start=1):
        across, down = size[0] / values.shape[1], size[1] / values.shape[0]
        box = [math.floor(columns.start * across), math.floor(rows.start * down),
               math.ceil(columns.stop * across), math.ceil(rows.stop * down)]  # fmt: skip
        inside = values[rows, columns][marks[rows, columns] == number]
        found.append({"box": box, "area": round(float(counts[number] / values.size), 6), "peak": float(inside.max())})
    return sorted(found, key=lambda region: -region["area"])[:MOST_REGIONS]
