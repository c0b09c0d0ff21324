"""PaDiM: a Gaussian of patch tokens at every position of the image, and the Mahalanobis distance to it.

T. Defard et al.: PaDiM, a Patch Distribution Modeling Framework for Anomaly Detection and Localization (arXiv
2011.08785). Departs from the paper: the whole image goes in, without a centre crop; and the covariance of K images is
never written out (`Gaussians`).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import FEW_SHOT, AnomalyModel, Images, Prediction, groups, stacked
from models.baselines.patches import check_backbone, check_stages, encode_in_parts, square_grid, stage_maps
from models.errors import checked
from models.features import PatchBackbone
from models.gaussians import REGULARISATION, SIGMA, Gaussians
from models.maps import upsampled
from models.references import MAX_REFERENCES, ManyReferences, progress

STAGES = (1, 2, 3)


class PaDiM(AnomalyModel):
    """Few-shot only.

    Args:
        backbone: gives patch tokens by stage; a ResNet18 or WideResNet50 as published, or a CLIP.
        stages: which of its stages; None for 1, 2 and 3 of a ResNet, as published, and all that a ViT gives.
        num_channels: how many channels are kept, drawn by `seed`; all where there are fewer. Published are 100 of a
            ResNet18 and 550 of a WideResNet50.
        seed: of that draw.
        regularisation: added to the diagonal of each covariance.
        sigma: of the map's Gaussian in pixels of the input.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)
    channels: Tensor

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, num_channels: int = 550, seed: int = 0,
        regularisation: float = REGULARISATION, sigma: float = SIGMA, max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "padim")
        self.stages = check_stages(backbone, stages, STAGES)
        self.preprocess = backbone.preprocess
        widths = [backbone.stage_widths[list(backbone.stages).index(stage)] for stage in self.stages]
        checked("num_channels", num_channels, num_channels >= 1, "at least 1")
        self.num_channels = min(num_channels, sum(widths))
        self.seed = int(seed)
        drawn = torch.randperm(sum(widths), generator=torch.Generator().manual_seed(self.seed))[: self.num_channels]
        self.register_buffer("channels", drawn.sort().values, persistent=False)
        self.regularisation = checked("regularisation", regularisation, regularisation > 0, "above 0")
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Learn the Gaussians of (K, 3, S, S) preprocessed normal images of a category; keeps their tokens (K, P, C).

        Of a single reference, those of its flip as well.
        """
        images = stacked(self._many.remembered(references, category), self.device)
        tokens = self._tokens(images)
        known = Gaussians.of(tokens, self.regularisation)
        state = {"tokens": tokens, "mean": known.mean, "centred": known.centred, "inner": known.inner}
        if len(images) == 1:
            state["flipped"] = self._tokens(images.flip(3))
        self._states[category] = state

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories."""
        tokens = self._tokens(stacked(images, self.device))
        distances = tokens.new_empty(tokens.shape[:2])
        for category, members in groups(categories):
            known = self._states[category]
            gaussians = Gaussians(known["mean"], known["centred"], known["inner"], self.regularisation)
            distances[members] = gaussians.distance(tokens[members])
        return self._prediction(distances)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference under the Gaussians of the others; a single one under that of its flip."""
        known = self._states[category]
        tokens = known["tokens"]
        if "flipped" in known:
            return self._prediction(Gaussians.of(known["flipped"], self.regularisation).distance(tokens))
        left_out = []
        for i in progress(range(len(tokens)), f"{category}: references left out"):
            others = torch.cat([tokens[:i], tokens[i + 1 :]])
            left_out.append(Gaussians.of(others, self.regularisation).distance(tokens[i : i + 1]))
        return self._many.with_others(self, category, self._prediction(torch.cat(left_out)))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "PaDiM",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "model_image_size": self.backbone.image_size,
            "stages": " ".join(map(str, self.stages)),
            "channels": f"{self.num_channels}, drawn by seed {self.seed}",
            "map": f"Mahalanobis distance, covariance + {self.regularisation:g} I, Gaussian of {self.sigma:g} px",
            "image_score": "maximum of the map",
            "few_shot_calibration": "each reference under the Gaussians of the others; a single one under that of its "
            f"mirror image; {self._many.label}",
        }

    def _tokens(self, images: Tensor) -> Tensor:
        """The chosen channels of the stages, joined on the grid of the first by the nearest value: (B, P, C)."""
        features = encode_in_parts(self.backbone, images, self.stages)
        maps = stage_maps(features, self.backbone.stages, self.stages)
        joined = torch.cat([F.interpolate(stage, maps[0].shape[2:], mode="nearest") for stage in maps], dim=1)
        return joined[:, self.channels].flatten(2).transpose(1, 2)

    def _prediction(self, distances: Tensor) -> Prediction:
        maps = upsampled(distances, square_grid(distances), self.backbone.image_size, self.sigma)
        return Prediction(maps, maps.amax(dim=(1, 2)))
