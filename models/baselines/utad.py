"""Texture anomalies by self-similarity: a patch is anomalous if even the patches most like it are unlike it.

T. Aota, L. T. T. Tong, T. Okatani: Zero-Shot Versus Many-Shot: Unsupervised Texture Anomaly Detection (WACV 2023), the
method that SAA+'s saliency comes from, and by that paper's equation (SAA+ Eq. 5, rule "paper"): the mean of 1 - cosine
to the N = 400 nearest patches of the same image. Departs from its source in what SAA+ departs in; the image score is
the highest value of the map.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F

from models.base import ZERO_SHOT, AnomalyModel, Images, Prediction
from models.errors import checked
from models.images import KeepSize
from models.maps import blurred
from models.saa.saliency.prompt import Saliency


class UTAD(AnomalyModel):
    """Zero-shot only: saliency alone is the anomaly map.

    Args:
        saliency_map: Eq. 5.
        map_size: side of the maps in pixels.
        sigma: of the map's Gaussian in pixels of the map; 0 for none.
        max_side: images with a longer side are shrunk to it, in pixels; 0 for never.
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(self, saliency_map: Saliency, *, map_size: int = 256, sigma: float = 4.0, max_side: int = 0):
        super().__init__()
        need = "one with a net that gives features; choose weights that have one (weights=tiny or wide_resnet50_2)"
        checked("saliency_map", "one without", getattr(saliency_map, "net", None) is not None, need)
        self.saliency_map = saliency_map
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self.max_side = checked("max_side", max_side, max_side >= 0, "at least 0")
        self.preprocess = KeepSize(self.max_side)
        self.eval()

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W), each against itself."""
        size = (self.map_size, self.map_size)
        each = [F.interpolate(self.saliency_map(image)[None, None], size, mode="bilinear") for image in images]
        maps = blurred(torch.cat(each), self.sigma)[:, 0]
        return Prediction(maps, maps.amax(dim=(1, 2)))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "UTAD-like self-similarity",
            "map": f"saliency alone, Gaussian of {self.sigma:g} px",
            "map_size": self.map_size,
            "largest_side": self.max_side or "as it is",
            "image_score": "maximum of the map",
            **self.saliency_map.protocol,
        }
