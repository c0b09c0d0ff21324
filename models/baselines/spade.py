"""SPADE: the nearest normal images, and for every place the nearest place of theirs.

N. Cohen, Y. Hoshen: Sub-Image Anomaly Detection with Deep Pyramid Correspondences (arXiv 2005.02357). Departs from the
paper: the whole image goes in, without a centre crop; K is the number of references where that is below 50; a place's
score is the mean distance to its nearest places, not of its square (with kappa = 1 the order of places is the same).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import Images, Prediction, check_categories, stacked
from models.baselines.by_category import (
    FEW_SHOT,
    ZERO_SHOT,
    ByCategory,
    RemembersByCategory,
    checked,
    refuse,
)
from models.baselines.patches import (
    check_backbone,
    check_stages,
    encode,
    stage_maps,
)
from models.features import ImageFeatures, PatchBackbone
from models.maps import upsampled
from models.nearest import MAX_ELEMENTS, Excluded, near_own_position, nearest_rows
from models.references import MAX_REFERENCES, ManyReferences, progress

STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Pyramids:
    """Of B images: embeddings (B, D) and places (B, P, C)."""

    embeddings: Tensor
    places: Tensor

    def __getitem__(self, images: slice | list[int]) -> "Pyramids":
        """Some of the images."""
        return Pyramids(self.embeddings[images], self.places[images])

    def moved(self, fn: Callable[[Tensor], Tensor]) -> "Pyramids":
        """On another device."""
        return Pyramids(fn(self.embeddings), fn(self.places))


@dataclass(frozen=True)
class Fitted:
    """The references, and the mirror image where there is a single one."""

    references: Pyramids
    mirrored: Pyramids | None


class SPADE(RemembersByCategory):
    """Few-shot only.

    Args:
        backbone: gives tokens by stage and an embedding; a WideResNet50 as published, or a CLIP.
        stages: which stages make a place's features; None for 1, 2 and 3 of a ResNet, as published, and all of a ViT's.
        num_images: K, the nearest normal images; 50 as published.
        num_places: kappa, the nearest places whose mean distance counts; 1 as published.
        sigma: of the map's Gaussian in pixels of the input.
        own_window: a single reference meets itself without a window of this share of the side.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
        max_elements: largest distance matrix held at a time, in elements.
    """

    serves: ClassVar[tuple[str, ...]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, num_images: int = 50,
        num_places: int = 1, sigma: float = 4.0, own_window: float = 0.15,
        max_references: int = MAX_REFERENCES, max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "spade")
        self.stages = check_stages(backbone, stages, STAGES)
        self.preprocess = backbone.preprocess
        self.num_images = checked("num_images", num_images, num_images >= 1, "at least 1")
        self.num_places = checked("num_places", num_places, num_places >= 1, "at least 1")
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")
        self._fitted: ByCategory[Fitted] = ByCategory(
            lambda old, fn: Fitted(old.references.moved(fn), old.mirrored.moved(fn) if old.mirrored else None)
        )
        self._many = ManyReferences(max_references)
        self._grid = (0, 0)

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Remember (K, 3, S, S) preprocessed normal images of a category."""
        images = stacked(self._many.remembered(references, category), self.device)
        mirrored = self._pyramids(self.backbone.encode_image(images.flip(3))) if len(images) == 1 else None
        self._fitted[category] = Fitted(self._pyramids(encode(self.backbone, images)), mirrored)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories.

        Raises:
            KeyError: for a category that was not fitted, once any was.
            ModelInputError: before any `fit`, or images of another shape.
        """
        check_categories(images, categories)
        if not self._fitted:
            refuse("spade", ZERO_SHOT)
        known = [self._fitted[category].references for category in categories]
        seen = self._pyramids(self.backbone.encode_image(stacked(images, self.device)))
        return self._prediction([self._assessed(seen[i : i + 1], normal) for i, normal in enumerate(known)])

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against its mirror image, and its places against its own."""
        fitted = self._fitted[category]
        references = fitted.references
        if fitted.mirrored is not None:
            elsewhere = near_own_position(self._grid, self.own_window, references.places.device)
            own_places = Pyramids(fitted.mirrored.embeddings, references.places)
            return self._prediction([self._assessed(references, own_places, elsewhere)])
        count = len(references.places)
        left_out = [
            self._assessed(references[i : i + 1], references[[j for j in range(count) if j != i]])
            for i in progress(range(count), f"{category}: references left out")
        ]
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
            "map": f"mean distance to the {self.num_places} nearest places of the {self.num_images} nearest references",
            "map_smoothing": f"Gaussian of {self.sigma:g} px",
            "image_score": f"mean squared distance to the embeddings of the {self.num_images} nearest references",
            "few_shot_calibration": "each reference against the others; a single one by its mirror image's embedding, "
            f"and its places against its own, without a window of {self.own_window:g} of the side; {self._many.label}",
        }

    def _pyramids(self, features: ImageFeatures) -> Pyramids:
        """The stages joined on the grid of the first (bilinear)."""
        maps = stage_maps(features, self.backbone.stages, self.stages)
        self._grid = (maps[0].shape[2], maps[0].shape[3])
        sized = [F.interpolate(stage, self._grid, mode="bilinear", align_corners=False) for stage in maps]
        return Pyramids(features.embedding, torch.cat(sized, dim=1).flatten(2).transpose(1, 2).contiguous())

    def _assessed(self, image: Pyramids, normal: Pyramids, excluded: Excluded | None = None) -> tuple[Tensor, Tensor]:
        """Distances (P,) of the places and the score () of one image."""
        count = min(self.num_images, len(normal.embeddings))
        apart, images = nearest_rows(image.embeddings, normal.embeddings, count)
        places = normal.places[images[0]].flatten(0, 1)
        distances, _ = nearest_rows(
            image.places[0],
            places,
            min(self.num_places, len(places)),
            max_elements=self.max_elements,
            excluded=excluded,
        )
        return distances.mean(dim=1), apart.square().mean()

    def _prediction(self, assessed: Sequence[tuple[Tensor, Tensor]]) -> Prediction:
        distances, scores = (torch.stack(parts) for parts in zip(*assessed, strict=True))
        maps = upsampled(distances, self._grid, self.backbone.image_size, self.sigma)
        return Prediction(maps, scores, {"map_max": maps.amax(dim=(1, 2))})
