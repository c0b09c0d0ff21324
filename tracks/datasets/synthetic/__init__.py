"""A data set that is drawn, not shipped: products of many looks with planted defects and exact masks."""

from tracks.datasets.synthetic.dataset import Synthetic, SyntheticSample
from tracks.datasets.synthetic.products import (
    DEFECT_KINDS,
    HELD_OUT_KINDS,
    INVENTED,
    SOURCE,
    SOURCE_KINDS,
    TARGET,
    VALIDATION,
    kinds_of,
)
from tracks.datasets.synthetic.rendering import Rendering, render

__all__ = [
    "DEFECT_KINDS",
    "HELD_OUT_KINDS",
    "INVENTED",
    "SOURCE",
    "SOURCE_KINDS",
    "TARGET",
    "VALIDATION",
    "Rendering",
    "Synthetic",
    "SyntheticSample",
    "kinds_of",
    "render",
]
