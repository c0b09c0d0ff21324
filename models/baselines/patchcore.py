"""PatchCore: a bank of locally aware patch tokens, and how far a patch is from the nearest of them.

K. Roth, L. Pemula et al.: Towards Total Recall in Industrial Anomaly Detection (arXiv 2106.08265). Departs from
the paper:

* The whole image goes in, without a centre crop.
* The bank is kept whole by default, since that of a few shots is small; `coreset` 0.25, 0.1 or 0.01 as published. The
  greedy selection is exact, where the published one estimates distances by a random projection.
* `pos_radius` is RAD's (longkukuhi/RAD): patches are compared with those at about their own position alone.

The image score is Eq. 7, which the authors' code leaves out; its b is 9, as in anomalib.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import FEW_SHOT, AnomalyModel, Images, Prediction, groups, stacked
from models.baselines.coreset import greedy_coreset
from models.baselines.patches import (
    check_backbone,
    check_stages,
    encode_in_parts,
    square_grid,
    stage_maps,
    within,
)
from models.errors import checked
from models.features import PatchBackbone
from models.maps import interpolated, upsampled
from models.nearest import Excluded, beyond_positions, near_own_position, nearest_rows
from models.references import MAX_REFERENCES, ManyReferences, progress

STAGES = (2, 3)


class PatchCore(AnomalyModel):
    """Few-shot only.

    Args:
        backbone: gives patch tokens by stage; a WideResNet50 as published, or a CLIP.
        stages: which of its stages; None for 2 and 3 of a ResNet, as published, and all that a ViT gives.
        patch_size: side in patches (odd) of the neighbourhood that makes a patch locally aware.
        stage_dim: channels to which each stage's neighbourhoods are averaged; None for as many as the stage has.
        target_dim: channels to which the joined stages are averaged; None for all of them.
        coreset: share of the patches that is kept; 1 for all.
        pos_radius: compare with patches no farther than this many cells of the grid (RAD); None for all. A coreset
            keeps no positions, so `coreset` must be 1.
        num_neighbours: b of the image score's reweighting (Eq. 7).
        sigma: of the map's Gaussian in pixels of the input.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is scored
            against itself.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, patch_size: int = 3,
        stage_dim: int | None = 1024, target_dim: int | None = 1024, coreset: float = 1.0,
        pos_radius: int | None = None, num_neighbours: int = 9, sigma: float = 4.0, own_window: float = 0.15,
        max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "patchcore")
        self.stages = check_stages(backbone, stages, STAGES)
        self.preprocess = backbone.preprocess
        self.patch_size = checked("patch_size", patch_size, patch_size >= 1 and patch_size % 2 == 1, "odd, 1 or more")
        self.stage_dim = checked("stage_dim", stage_dim, stage_dim is None or stage_dim >= 1, "at least 1, or null")
        self.target_dim = checked(
            "target_dim", target_dim, target_dim is None or target_dim >= 1, "at least 1, or null"
        )
        self.coreset = checked("coreset", coreset, 0 < coreset <= 1, "above 0 and up to 1")
        good = pos_radius is None or (pos_radius >= 0 and coreset == 1)
        self.pos_radius = checked("pos_radius", pos_radius, good, "null, or at least 0 with coreset 1")
        self.num_neighbours = checked("num_neighbours", num_neighbours, num_neighbours >= 1, "at least 1")
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Remember the patches (K, P, C) of (K, 3, S, S) preprocessed normal images, and their bank (M, C)."""
        patches = self._patches(stacked(self._many.remembered(references, category), self.device))
        self._states[category] = {"patches": patches, "bank": self._reduced(patches)}

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories."""
        patches = self._patches(stacked(images, self.device))
        distances, scores = patches.new_empty(patches.shape[:2]), patches.new_empty(len(patches))
        for category, members in groups(categories):
            known, own = self._states[category], patches[members]
            distances[members], scores[members] = self._assessed(
                own, known["bank"], self._window(own, known["patches"])
            )
        return self._prediction(distances, scores)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the patches of the others; a single one against itself elsewhere."""
        patches = self._states[category]["patches"]
        if len(patches) == 1:
            near = near_own_position(square_grid(patches), self.own_window, patches.device)
            return self._prediction(*self._assessed(patches, patches[0], near))
        left_out = []
        for i in progress(range(len(patches)), f"{category}: references left out"):
            own, others = patches[i : i + 1], torch.cat([patches[:i], patches[i + 1 :]])
            left_out.append(self._assessed(own, self._reduced(others), self._window(own, others)))
        distances, scores = (torch.cat(parts) for parts in zip(*left_out, strict=True))
        return self._many.with_others(self, category, self._prediction(distances, scores))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "PatchCore",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "model_image_size": self.backbone.image_size,
            "stages": " ".join(map(str, self.stages)),
            "patches": f"{self.patch_size} x {self.patch_size} patches, averaged to {self.stage_dim or 'their own'} "
            f"channels a stage, {self.target_dim or 'all of them'} in all",
            "coreset": f"{self.coreset:g} of the patches, exact greedy selection"
            if self.coreset < 1
            else "all patches",
            "map": f"distance to the nearest patch{within(self.pos_radius)}, Gaussian of {self.sigma:g} px",
            "image_score": f"largest distance, reweighted by {self.num_neighbours} neighbours (Eq. 7)",
            "few_shot_calibration": "each reference against the others; a single one against itself, without a window "
            f"of {self.own_window:g} of the side around each patch; {self._many.label}",
        }

    def _patches(self, images: Tensor) -> Tensor:
        """Locally aware patches (B, P, C) of (B, 3, S, S) images on the grid of the first of the stages."""
        features = encode_in_parts(self.backbone, images, self.stages)
        maps = stage_maps(features, self.backbone.stages, self.stages)
        return locally_aware(maps, self.patch_size, self.stage_dim, self.target_dim)

    def _reduced(self, patches: Tensor) -> Tensor:
        """(K, P, C) to the (M, C) of the bank."""
        rows = patches.flatten(0, 1)
        if self.coreset == 1:
            return rows
        return rows[greedy_coreset(rows, max(1, round(self.coreset * len(rows))))]

    def _window(self, patches: Tensor, references: Tensor) -> Excluded | None:
        """Which patches (K, P, C) of references those (B, P, C) of images are not compared with, if any."""
        if self.pos_radius is None:
            return None
        grid = square_grid(patches)
        return beyond_positions(grid, [(grid, len(references))], self.pos_radius, patches.device, len(patches))

    def _assessed(self, patches: Tensor, bank: Tensor, excluded: Excluded | None = None) -> tuple[Tensor, Tensor]:
        """Distances (B, P) and image scores (B,) of patches (B, P, C)."""
        distances, rows = nearest_rows(patches.flatten(0, 1), bank, excluded=excluded)
        distances, rows = distances.view(patches.shape[:2]), rows.view(patches.shape[:2])
        worst = distances.argmax(dim=1)
        image = torch.arange(patches.shape[0], device=patches.device)
        scores = reweighted(
            patches[image, worst], distances[image, worst], rows[image, worst], bank, self.num_neighbours
        )
        return distances, scores

    def _prediction(self, distances: Tensor, scores: Tensor) -> Prediction:
        maps = upsampled(distances, square_grid(distances), self.backbone.image_size, self.sigma)
        return Prediction(maps, scores, {"map_max": maps.amax(dim=(1, 2))})


def locally_aware(
    maps: Sequence[Tensor], patch_size: int, stage_dim: int | None, target_dim: int | None
) -> Tensor:  # fmt: skip
    """Stages (B, C_n, h_n, w_n) to patches (B, h_1 * w_1, C): each patch with its neighbours, averaged and joined.

    As in the authors' code, averages run over a neighbourhood's channels laid out with their positions, zeros beyond
    the edge; where `stage_dim` is a stage's own width, that is the mean over the positions. Averaging commutes with the
    resizing of coarser stages to the grid of the first (bilinear), and is done before it.
    """
    size = (int(maps[0].shape[2]), int(maps[0].shape[3]))
    joined = []
    for stage in maps:
        if stage_dim in (None, stage.shape[1]):
            averaged = F.avg_pool2d(stage, patch_size, stride=1, padding=patch_size // 2)
        else:
            around = F.unfold(stage, patch_size, padding=patch_size // 2)  # (B, C_n * positions around, h_n * w_n)
            pooled = F.adaptive_avg_pool1d(around.transpose(1, 2), stage_dim)
            averaged = pooled.transpose(1, 2).unflatten(2, stage.shape[2:])
        joined.append(interpolated(averaged, size))
    patches = torch.cat(joined, dim=1).flatten(2).transpose(1, 2)
    return F.adaptive_avg_pool1d(patches, target_dim or patches.shape[2]).contiguous()


def reweighted(patches: Tensor, distances: Tensor, rows: Tensor, bank: Tensor, num_neighbours: int) -> Tensor:
    """Image scores (B,) from each image's farthest patch (B, C), its distance s* and its nearest row m* of the bank.

    Eq. 7: (1 - exp s* / sum of exp |patch - m|) s*, over the b rows m nearest to m*, itself among them. A bank of
    one row has nothing to weigh with, and the score is s*.
    """
    count = min(num_neighbours, bank.shape[0])
    if count < 2:
        return distances
    around = nearest_rows(bank[rows], bank, count)[1]  # (B, b)
    apart = (patches[:, None] - bank[around]).norm(dim=2)
    share = torch.exp(distances - torch.logsumexp(apart, dim=1))
    return (1 - share) * distances
