"""AnomalyDINO without references: the test images of a category score each other, patch by patch (transductive).

S. Damm et al. (arXiv 2405.14529; dammsi/AnomalyDINO, run_anomalydino_batched.py). Departs from the paper:

* Maps and masks are those of `AnomalyDINO`, with its departures; nothing is rotated.
* Where no distance is below the quantile, as among few patches, the distance at the quantile counts; the published mean
  is not defined there.
"""

from collections.abc import Generator, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.base import ZERO_SHOT, Prediction
from models.baselines.anomaly_dino import AnomalyDINO
from models.baselines.patches import together
from models.errors import checked
from models.features import PatchBackbone
from models.images import check_image
from models.mutual import Scratch, lowest_means
from models.nearest import MAX_ELEMENTS
from models.references import progress
from models.transductive import TransductiveModel


class AnomalyDINOBatch(TransductiveModel):
    """Zero-shot only.

    Args:
        backbone: gives patch tokens at any resolution; DINOv2 ViT-S/14 with its final norm as published.
        side: pixels of the shorter side, the aspect ratio kept (672 as published); None for the backbone's.
        stage: whose tokens are compared; None for the backbone's last.
        masking: whose background is left out, as of `AnomalyDINO`.
        share: of the distances to all patches of the other images, those below this quantile are averaged.
        map_size: side of the maps in pixels.
        memory_mb: what is kept of the images beyond so much memory lies in temporary files.
        max_elements: largest matrix of distances held at a time, or a patch's distances to one image.
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, side: int | None = None, stage: int | None = None,
        masking: str | Sequence[str] = "published_mvtec", share: float = 0.001, map_size: int = 256,
        memory_mb: int = 2048, max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        self.one = AnomalyDINO(
            backbone, side=side, stage=stage, rotations="none", masking=masking, map_size=map_size
        )  # fmt: skip
        self.preprocess = self.one.preprocess
        self.share = checked("share", share, 0 < share <= 1, "above 0 and up to 1")
        self.memory_mb = checked("memory_mb", memory_mb, memory_mb >= 0, "at least 0")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")

    def _together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int
    ) -> Generator[Prediction, None, None]:
        with Scratch(self.memory_mb) as scratch:
            patches, masks, grids, sizes = [], [], [], []
            for start in progress(range(0, len(images), at_once), f"{category}: features"):
                for image in images[start : start + at_once]:
                    check_image(image)
                    tokens, grid = self.one._tokens(image)
                    patches.append(scratch.empty(*tokens.shape).copy_(F.normalize(tokens, dim=1)))
                    masks.append(self.one._mask(tokens, grid, category))
                    grids.append(grid)
                    sizes.append((image.shape[1], image.shape[2]))
            means = lowest_means(patches, self.share, device=self.device, max_elements=self.max_elements)
            found = (
                self.one._assessed(distances.masked_fill(~mask, 0), grid, size)
                for distances, mask, grid, size in zip(means, masks, grids, sizes, strict=True)
            )
            for each in found:
                yield together([each])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        one = self.one.protocol
        of = f"mean of the distances (1 - cosine) to other test images' patches below their {self.share:g} quantile"
        known = {key: value for key, value in one.items() if key not in ("rotations", "few_shot_calibration")}
        return {**known, "method": "AnomalyDINO, batched", "map": f"{of}, {self.one.smoothing}"}
