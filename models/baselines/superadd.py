"""SuperADD: several stages of a large ViT at about native resolution, each patch against a bank of normal ones.

SuperADD (arXiv 2605.14808, LukasRoom/SuperADD), first of the industrial track of VAND 4.0, on MVTec AD 2. Written from
its recipe; the code, which is CC BY-NC, was not used. Departs from it:

* Below 8 references none is held out for the threshold of the maps: each is left out of the bank in turn instead, a
  single one compared with itself elsewhere.
* Sides of the shrunk image are the nearest multiples of the patch; tile and overlap are rounded down to such.
* Brightness and thinning follow from a seed and, of brightness, the pixels of the image.
* Maps of a quarter of the image's height and width are handed on as squares of `map_size`.
* The challenge ranks binary maps alone; the image score here is the mean of the highest 1 % of the map.
* Binary maps are made of exported maps (models/baselines/closing.py), not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import FEW_SHOT, AnomalyModel, Images, Prediction
from models.baselines.native_tiles import tiled_maps
from models.baselines.patches import check_backbone, check_stages, together
from models.baselines.thinning import thinned
from models.errors import checked
from models.features import PatchBackbone
from models.frozen import seeded_by
from models.images import KeepSize, ScaledPreprocess, check_image
from models.maps import square, top_mean
from models.nearest import Excluded, near_own_position, nearest_rows
from models.references import MAX_REFERENCES, ManyReferences, progress

STAGES = (2, 3)
HELD_OUT_EVERY = 8
"""Of as many references, or more, every so many-th is held out for the threshold."""
SHRINK = 4
"""Maps have this part of the image's height and width."""


@dataclass(frozen=True)
class Bank:
    """Rows (M, C) of one stage, and of which reference and which patch of its grid each is, (M,)."""

    rows: Tensor
    references: Tensor
    patches: Tensor


class SuperADD(AnomalyModel):
    """Few-shot only.

    Args:
        backbone: gives patch tokens at any resolution; a DINOv3 ViT-H+/16 as published.
        stages: which of its stages; None for all that a ViT gives, and 2 and 3 of a convolutional net.
        scale: of the image's sides, before tiles are cut.
        tile: side of a tile in pixels.
        overlap: half of what neighbouring tiles share at least, in pixels.
        brightness: each reference that is remembered is made brighter or darker by up to this share.
        bank_size: patches remembered of each stage.
        quantile: of the values of maps of references held out, times
        factor: makes the threshold of the maps.
        top_share: of the map's pixels, the highest, whose mean is the image score.
        map_size: side of the maps in pixels.
        seed: of brightness and of the choice of patches.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is scored
            against itself.
        max_references: how many references are learnt; of more, evenly spread ones, and the others are only scored.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, scale: float = 0.625, tile: int = 640,
        overlap: int = 128, brightness: float = 0.2, bank_size: int = 100_000, quantile: float = 0.95,
        factor: float = 1.421, top_share: float = 0.01, map_size: int = 512, seed: int = 0, own_window: float = 0.15,
        max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "superadd")
        self.stages = check_stages(backbone, stages, STAGES)
        self.scale = checked("scale", scale, scale > 0, "above 0")
        self.tile, self.overlap = (px // backbone.stride * backbone.stride for px in (tile, overlap))
        checked("tile", tile, self.tile >= backbone.stride, f"at least the backbone's stride, {backbone.stride}")
        checked("overlap", overlap, 0 <= 2 * self.overlap < self.tile, f"from 0 to below half of the tile, {self.tile}")
        self.brightness = checked("brightness", brightness, 0 <= brightness < 1, "from 0 to below 1")
        self.bank_size = checked("bank_size", bank_size, bank_size >= 1, "at least 1")
        self.quantile = checked("quantile", quantile, 0 < quantile <= 1, "above 0 and up to 1")
        self.factor = checked("factor", factor, factor > 0, "above 0")
        self.top_share = checked("top_share", top_share, 0 < top_share <= 1, "above 0 and up to 1")
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.seed = int(seed)
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.preprocess = KeepSize()
        pixels = backbone.preprocess
        self._prepare = ScaledPreprocess(scale, backbone.stride, pixels.mean, pixels.std)
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Learn the banks and the threshold of K uint8 images (3, H, W) of a category.

        The state: `bank0` (M, C) and so on, a stage each; the `threshold` () of its maps; `left_out_maps` (K, S, S) and
        `left_out_scores` (K,) of the references, each scored as if it were a test image.
        """
        learnt = self._many.remembered(references, category)
        held_out = range(0, len(learnt), HELD_OUT_EVERY) if len(learnt) >= HELD_OUT_EVERY else ()
        banks = self._banks([(i, learnt[i]) for i in range(len(learnt)) if i not in held_out], category)
        found = []
        for i in progress(range(len(learnt)), f"{category}: references left out"):
            maps = self._maps(learnt[i])
            own = [self._own(bank, i, each.shape[1:]) for bank, each in zip(banks, maps, strict=True)]
            found.append(self._assessed(maps, learnt[i].shape[1:], [bank.rows for bank in banks], own))
        left_out = together(found)
        normal = left_out.anomaly_maps[list(held_out) or slice(None)]
        threshold = self.factor * float(np.quantile(normal.cpu().numpy(), self.quantile))
        self._states[category] = {
            **{f"bank{n}": bank.rows for n, bank in enumerate(banks)},
            "threshold": torch.tensor(threshold, dtype=torch.float64),
            "left_out_maps": left_out.anomaly_maps,
            "left_out_scores": left_out.image_scores,
        }

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W), each of its own size, of B named categories."""
        found = []
        for image, category in zip(images, categories, strict=True):
            state = self._states[category]
            banks = [state[f"bank{n}"] for n in range(len(self.stages))]
            found.append(self._assessed(self._maps(image), image.shape[1:], banks))
        return together(found)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against itself elsewhere."""
        state = self._states[category]
        left_out = Prediction(state["left_out_maps"], state["left_out_scores"])
        return self._many.with_others(self, category, left_out)

    def map_threshold(self, category: str) -> float:
        """The value above which a pixel of a fitted category's maps is a defect, learnt of references held out."""
        return float(self._states[category]["threshold"])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "SuperADD",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "precision": str(getattr(self.backbone, "precision", "float32")),
            "model_image_size": f"sides x {self.scale:g}, tiles of {self.tile} px that share {2 * self.overlap} px",
            "stages": " ".join(map(str, self.stages)),
            "bank": f"{self.bank_size} patches a stage, thinned where they crowd, brightness +- {self.brightness:g}, "
            f"seed {self.seed}",
            "map": f"distance to the nearest patch / channels, mean of the stages, {self.map_size} x {self.map_size}",
            "map_threshold": f"{self.factor:g} x the {self.quantile:g} quantile of the maps of references held out",
            "image_score": f"mean of the highest {self.top_share:g} of the map's pixels",
            "few_shot_calibration": f"of {HELD_OUT_EVERY} references or more every {HELD_OUT_EVERY}th is held out, of "
            "others each against the others; a single one against itself, without a window of "
            f"{self.own_window:g} of the side around each patch; {self._many.label}",
        }

    def _banks(self, references: Sequence[tuple[int, Tensor]], category: str) -> list[Bank]:
        """One bank for each stage, of numbered images."""
        tokens: list[list[Tensor]] = [[] for _ in self.stages]
        for _, image in progress(references, f"{category}: references"):
            for kept, each in zip(tokens, self._maps(self._lit(image)), strict=True):
                kept.append(each.flatten(1).T)
        banks = []
        for parts in tokens:
            rows, lengths = torch.cat(parts), torch.tensor([len(part) for part in parts])
            kept_rows = thinned(rows, self.bank_size, self.seed)
            numbers = torch.tensor([i for i, _ in references]).repeat_interleave(lengths).to(rows.device)
            patches = torch.cat([torch.arange(len(part)) for part in parts]).to(rows.device)
            banks.append(Bank(rows[kept_rows], numbers[kept_rows], patches[kept_rows]))
        return banks

    def _lit(self, image: Tensor) -> Tensor:
        """A uint8 image made brighter or darker."""
        check_image(image)
        factor = 1 + self.brightness * (2 * float(torch.rand((), generator=seeded_by(image, self.seed))) - 1)
        return (factor * image.float()).round().clamp(0, 255).to(torch.uint8)

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The stages (C_n, h_n, w_n) of a uint8 image (3, H, W)."""
        check_image(image)
        prepared = self._prepare(PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy()))
        return tiled_maps(self.backbone, prepared.to(self.device), self.stages, self.tile, self.overlap)

    def _own(self, bank: Bank, reference: int, grid: Sequence[int]) -> Excluded:
        """Which rows of a bank do not count for a reference: its own, or those near each patch where it is alone."""
        if bool((bank.references == reference).all()):
            near = near_own_position((grid[0], grid[1]), self.own_window, bank.rows.device)
            return lambda rows, columns: near(rows, slice(None))[:, bank.patches[columns]]
        own = bank.references == reference
        return lambda rows, columns: own[None, columns]

    def _assessed(
        self, maps: Sequence[Tensor], size: Sequence[int], banks: Sequence[Tensor],
        excluded: Sequence[Excluded | None] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The map (S, S) and the score () of an image of `size` (H, W) from its stages and their banks (M, C_n)."""
        target = [max(1, side // SHRINK) for side in size]
        layers = []
        for each, bank, own in zip(maps, banks, excluded or [None] * len(maps), strict=True):
            distances, _ = nearest_rows(each.flatten(1).T, bank, excluded=own)
            on_grid = distances.view(1, 1, *each.shape[1:]) / len(each)
            layers.append(F.interpolate(on_grid, target, mode="bilinear", align_corners=False)[0])
        whole = torch.cat(layers).mean(dim=0)
        return square(whole, self.map_size), top_mean(whole[None], self.top_share)[0]
