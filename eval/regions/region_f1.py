"""Region F1: how many defect regions are outlined, and how many of the components called anomalous outline one.

At a threshold the 8-connected components of the called pixels are set against the 8-connected regions of the mask,
image by image. A component is a hit if its intersection over union with one region is at least 0.6 (the value of the
SAA papers). As that is above one half, no component can hit two regions and no region can be hit by two: the matching
is one-to-one. Precision is hits / components and recall hits / regions over all images of the category, and F1 is
2 hits / (components + regions). The best over all distinct scores is reported, found from where the numbers change,
without a grid.

This is not the region F1 of the SAA papers' tables: see `eval.legacy` for that one.
"""

from dataclasses import dataclass

import numpy as np

from eval.errors import ScoringInputError
from eval.ranking.curves import F1Max

LEAST_IOU = 0.6


@dataclass(frozen=True, eq=False)
class RegionCurve:
    """How many components, and how many hits, there are at each of K distinct thresholds.

    `thresholds` is (K,), strictly descending; `components` and `hits` are (K,) int64, K >= 1.
    """

    thresholds: np.ndarray
    components: np.ndarray
    hits: np.ndarray
    num_regions: int

    def f1_max(self) -> F1Max:
        """The largest F1 over all thresholds; 0 at the highest threshold if nothing is ever hit.

        Raises:
            ScoringInputError: without a defect region.
        """
        if not self.num_regions:
            raise ScoringInputError(
                "Region F1 is about the defect regions found, so at least one was expected; got none. "
                "Leave this category out of the average."
            )
        f1 = 2 * self.hits / (self.components + self.num_regions)
        best = int(np.argmax(f1))
        hits, components = int(self.hits[best]), int(self.components[best])
        return F1Max(float(f1[best]), float(self.thresholds[best]), hits / components, hits / self.num_regions)


def region_curve(
    values: np.ndarray, components: np.ndarray, hit_values: np.ndarray, hits: np.ndarray, num_regions: int
) -> RegionCurve:
    """The curve from all changes of a category, in any order.

    `values` (E,) are scores at which the number of components changes, `components` (E,) by how much; `hit_values` and
    `hits`, (F,) each, the same for hits.
    """
    thresholds, ranks = np.unique(np.concatenate([values, hit_values]), return_inverse=True)
    steps = np.zeros((2, thresholds.size), dtype=np.int64)
    np.add.at(steps[0], ranks[: values.size], components)
    np.add.at(steps[1], ranks[values.size :], hits)
    totals = np.cumsum(steps[:, ::-1], axis=1)
    return RegionCurve(thresholds[::-1], totals[0], totals[1], num_regions)
