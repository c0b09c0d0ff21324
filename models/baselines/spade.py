"""SPADE: the nearest normal images, and for every patch the nearest patch of theirs.

N. Cohen, Y. Hoshen: Sub-Image Anomaly Detection with Deep Pyramid Correspondences (arXiv 2005.02357). Departs from the
paper: the whole image goes in, without a centre crop; K is the number of references where that is below 50; a patch's
score is the mean distance to its nearest patches, not of its square (with kappa = 1 the order of patches is the same).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import FEW_SHOT, AnomalyModel, Images, Prediction, stacked
from models.baselines.patches import (
    check_backbone,
    check_stages,
    encode_in_parts,
    square_grid,
    stage_maps,
)
from models.errors import checked
from models.features import ImageFeatures, PatchBackbone
from models.images import check_batch
from models.maps import upsampled
from models.nearest import Excluded, near_own_position, nearest_rows
from models.references import MAX_REFERENCES, ManyReferences, progress

STAGES = (1, 2, 3)


class SPADE(AnomalyModel):
    """Few-shot only.

    Args:
        backbone: gives tokens by stage and an embedding; a WideResNet50 as published, or a CLIP.
        stages: which stages make a patch's features; None for 1, 2 and 3 of a ResNet, as published, and all of a ViT's.
        num_images: K, the nearest normal images; 50 as published.
        num_patches: kappa, the nearest patches whose mean distance counts; 1 as published.
        sigma: of the map's Gaussian in pixels of the input.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is scored
            against itself.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, num_images: int = 50,
        num_patches: int = 1, sigma: float = 4.0, own_window: float = 0.15,
        max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "spade")
        self.stages = check_stages(backbone, stages, STAGES)
        self.preprocess = backbone.preprocess
        self.num_images = checked("num_images", num_images, num_images >= 1, "at least 1")
        self.num_patches = checked("num_patches", num_patches, num_patches >= 1, "at least 1")
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Remember embeddings (K, D) and patches (K, P, C) of (K, 3, S, S) preprocessed normal images of a category.

        Of a single reference, the embedding of its flip as well.
        """
        images = stacked(self._many.remembered(references, category), self.device)
        features = encode_in_parts(self.backbone, images)
        self._states[category] = {"embeddings": features.embedding, "patches": self._patches(features)}
        if len(images) == 1:
            self._states[category]["flipped"] = self.backbone.encode_image(images.flip(3)).embedding

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories."""
        images = stacked(images, self.device)
        check_batch(images, self.backbone.image_size)
        features = self.backbone.encode_image(images)
        patches = self._patches(features)
        assessed = []
        for i, category in enumerate(categories):
            known = self._states[category]
            embedding = features.embedding[i : i + 1]
            assessed.append(self._assessed(embedding, patches[i], known["embeddings"], known["patches"]))
        return self._prediction(assessed)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against its flip, and its patches against its own."""
        known = self._states[category]
        embeddings, patches = known["embeddings"], known["patches"]
        if "flipped" in known:
            near = near_own_position(square_grid(patches), self.own_window, patches.device)
            return self._prediction([self._assessed(embeddings, patches[0], known["flipped"], patches, near)])
        left_out = []
        for i in progress(range(len(patches)), f"{category}: references left out"):
            others = [j for j in range(len(patches)) if j != i]
            left_out.append(self._assessed(embeddings[i : i + 1], patches[i], embeddings[others], patches[others]))
        return self._many.with_others(self, category, self._prediction(left_out))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "SPADE",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "model_image_size": self.backbone.image_size,
            "stages": " ".join(map(str, self.stages)),
            "map": f"mean distance to the {self.num_patches} nearest patches of the {self.num_images} nearest "
            "references",
            "map_smoothing": f"Gaussian of {self.sigma:g} px",
            "image_score": f"mean squared distance to the embeddings of the {self.num_images} nearest references",
            "few_shot_calibration": "each reference against the others; a single one by the embedding of its flip, and "
            f"its patches against its own, those closer than {self.own_window:g} of the side excluded; "
            f"{self._many.label}",
        }

    def _patches(self, features: ImageFeatures) -> Tensor:
        """The stages joined on the grid of the first (bilinear), (B, P, C)."""
        maps = stage_maps(features, self.backbone.stages, self.stages)
        size = maps[0].shape[2:]
        sized = [F.interpolate(stage, size, mode="bilinear", align_corners=False) for stage in maps]
        return torch.cat(sized, dim=1).flatten(2).transpose(1, 2).contiguous()

    def _assessed(
        self, embedding: Tensor, patches: Tensor, embeddings: Tensor, banks: Tensor, excluded: Excluded | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances (P,) of an image's patches (P, C) and its score (), against normal images (K, D) and (K, P, C)."""
        apart, images = nearest_rows(embedding, embeddings, min(self.num_images, len(embeddings)))
        bank = banks[images[0]].flatten(0, 1)
        count = min(self.num_patches, len(bank))
        distances, _ = nearest_rows(patches, bank, count, excluded=excluded)
        return distances.mean(dim=1), apart.square().mean()

    def _prediction(self, assessed: Sequence[tuple[Tensor, Tensor]]) -> Prediction:
        distances, scores = (torch.stack(parts) for parts in zip(*assessed, strict=True))
        maps = upsampled(distances, square_grid(distances), self.backbone.image_size, self.sigma)
        return Prediction(maps, scores, {"map_max": maps.amax(dim=(1, 2))})
