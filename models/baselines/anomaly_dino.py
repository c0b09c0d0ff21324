"""AnomalyDINO: how far each patch of DINOv2 is from the nearest of a few references, rotated copies among them.

S. Damm et al.: AnomalyDINO, Boosting Patch-based Few-shot Anomaly Detection with DINOv2 (arXiv 2405.14529). Departs
from the paper:

* Maps are smoothed at the image's own size, as published, then handed on as squares of `map_size`.
* The principal component of the mask is exact, where the published one is a randomised estimate.
* Of fewer than 100 patches the score is the largest distance; the published one is not defined there.
* `pos_radius` is RAD's (longkukuhi/RAD): patches are compared with those at about their own position alone.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from models.base import FEW_SHOT, AnomalyModel, Images, Prediction, State
from models.baselines.patches import check_backbone, together, within
from models.errors import ModelInputError, checked
from models.features import PatchBackbone
from models.images import AspectPreprocess, KeepSize, check_image
from models.maps import square, top_mean
from models.nearest import Excluded, beyond_positions, near_own_position, nearest_distance
from models.references import MAX_REFERENCES, ManyReferences, progress

ANGLES = (0, 45, 90, 135, 180, 225, 270, 315)
INFORMED = ("hazelnut", "screw")
"""Whose parts lie turned in MVTec AD, after the authors."""
MASKED = ("capsule", "hazelnut", "pill", "screw", "toothbrush")
"""Of MVTec AD, whose background the authors mask; they mask all of VisA."""
TOP_SHARE, SIGMA = 0.01, 4.0
THRESHOLD, CENTRE, KEPT = 10, 0.2, 0.35
"""Of the mask: the component above which a patch is foreground; the border around the centre; how much of it stays."""


class AnomalyDINO(AnomalyModel):
    """Few-shot only.

    Args:
        backbone: gives patch tokens at any resolution; DINOv2 ViT-S/14 with its final norm as published.
        side: pixels of the shorter side, the aspect ratio kept (448 and 672 as published); None for the backbone's.
        stage: whose tokens are compared; None for the backbone's last.
        rotations: "agnostic" remembers eight rotations of each reference, "informed" those of hazelnut and screw alone,
            "none" none; or the names of categories.
        masking: whose background is left out: "published_mvtec", "always" (as published on VisA), "never", or the names
            of categories. It reads a property of DINOv2's tokens, and means nothing with others.
        pos_radius: compare with patches no farther than this many cells of the grid (RAD); None for all.
        map_size: side of the maps in pixels.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is scored
            against itself.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, side: int | None = None, stage: int | None = None,
        rotations: str | Sequence[str] = "agnostic", masking: str | Sequence[str] = "published_mvtec",
        pos_radius: int | None = None, map_size: int = 256, own_window: float = 0.15,
        max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "anomaly_dino")
        own = list(backbone.stages)
        self.stage = checked("stage", stage or own[-1], (stage or own[-1]) in own, f"one of the backbone's {own}")
        self.side = side or backbone.image_size
        checked("side", self.side, self.side >= backbone.stride, f"at least the backbone's stride, {backbone.stride}")
        self.rotations = _named("rotations", rotations, {"agnostic": None, "informed": INFORMED, "none": ()})
        self.masking = _named("masking", masking, {"always": None, "published_mvtec": MASKED, "never": ()})
        self.pos_radius = checked("pos_radius", pos_radius, pos_radius is None or pos_radius >= 0, "at least 0 or null")
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.preprocess = KeepSize()
        own_pixels = backbone.preprocess
        self._prepare = AspectPreprocess(self.side, backbone.stride, own_pixels.mean, own_pixels.std)
        self._labels = {"rotations": rotations, "masking": masking}
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Remember the patches of K uint8 images (3, H, W) of a category, each in all its rotations.

        The state: `bank` (M, C), rows of length 1, reference by reference and view by view, the image as it is first;
        `grids` and `sizes` (K, 2) of each reference, and the `masks` of their first views, one after the other.
        """
        kept: dict[str, list[Any]] = {"bank": [], "masks": [], "grids": [], "sizes": []}
        angles = ANGLES if _holds(self.rotations, category) else ANGLES[:1]
        for image in self._many.remembered(references, category):
            check_image(image)
            for angle in angles:
                tokens, grid = self._tokens(_rotated(image, angle))
                kept["bank"].append(F.normalize(tokens, dim=1))
                if angle == 0:
                    kept["masks"].append(self._mask(tokens, grid, category))
            kept["grids"].append(grid)
            kept["sizes"].append(tuple(image.shape[1:]))
        self._states[category] = {
            "bank": torch.cat(kept["bank"]),
            "masks": torch.cat(kept["masks"]),
            "grids": torch.tensor(kept["grids"], device=self.device),
            "sizes": torch.tensor(kept["sizes"], device=self.device),
        }

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W), each of its own size, of B named categories."""
        found = []
        for image, category in zip(images, categories, strict=True):
            check_image(image)
            state = self._states[category]
            tokens, grid = self._tokens(image)
            distances = self._distances(F.normalize(tokens, dim=1), grid, state["bank"], _bank_grids(state))
            distances = distances.masked_fill(~self._mask(tokens, grid, category), 0)
            found.append(self._assessed(distances, grid, (image.shape[1], image.shape[2])))
        return together(found)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against itself elsewhere, not rotated."""
        state = self._states[category]
        grids = _pairs(state["grids"])
        parts, masks = _parts(state), state["masks"].split([high * wide for high, wide in grids])
        found = []
        for i in progress(range(len(grids)), f"{category}: references left out"):
            grid = grids[i]
            queries = parts[i][: grid[0] * grid[1]]
            if len(grids) == 1:
                near = near_own_position(grid, self.own_window, queries.device)
                distances = nearest_distance(queries, queries, excluded=near)
            else:
                views = [(own, len(part) // (own[0] * own[1])) for own, part in zip(grids, parts, strict=True)]
                others = torch.cat([*parts[:i], *parts[i + 1 :]])
                distances = self._distances(queries, grid, others, [*views[:i], *views[i + 1 :]])
            size = _pairs(state["sizes"])[i]
            found.append(self._assessed(distances.masked_fill(~masks[i], 0), grid, size))
        return self._many.with_others(self, category, together(found))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "AnomalyDINO",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "precision": str(getattr(self.backbone, "precision", "float32")),
            "model_image_size": f"shorter side {self.side} px, aspect kept",
            "stages": str(self.stage),
            "rotations": _label(self._labels["rotations"]),
            "masking": _label(self._labels["masking"]),
            "map": f"1 - cosine to the nearest patch{within(self.pos_radius)}, {self.smoothing}",
            "image_score": "mean of the top 1 % patch distances",
            "few_shot_calibration": "each reference against the others; a single one against itself, without a window "
            f"of {self.own_window:g} of the side around each patch; {self._many.label}",
        }

    @property
    def smoothing(self) -> str:
        """What becomes of the distances of patches, for the protocol."""
        return f"Gaussian of {SIGMA:g} px at the image's own size, then {self.map_size} x {self.map_size}"

    def _tokens(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(3, H, W) uint8 to patch tokens (h * w, C) and (h, w)."""
        prepared = self._prepare(PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy()))
        features = self.backbone.encode_image(prepared[None].to(self.device))
        position = list(self.backbone.stages).index(self.stage)
        return features.stages[position][0], features.grids[position]

    def _mask(self, tokens: Tensor, grid: tuple[int, int], category: str) -> Tensor:
        """Which of the patches (h * w, C) are scored, (h * w,) bool."""
        if _holds(self.masking, category):
            return foreground(tokens, grid)
        return torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)

    def _distances(
        self, queries: Tensor, grid: tuple[int, int], bank: Tensor, views: Sequence[tuple[tuple[int, int], int]]
    ) -> Tensor:
        """Of queries (Q, C) on their grid to the nearest of a bank (M, C) of so many views on each grid, (Q,)."""
        excluded: Excluded | None = None
        if self.pos_radius is not None:
            excluded = beyond_positions(grid, views, self.pos_radius, queries.device)
        return nearest_distance(queries, bank, excluded=excluded)

    def _assessed(self, distances: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The map (S, S) and the score () of an image of `size` (H, W) from its distances (h * w,)."""
        whole = F.interpolate(distances.view(1, 1, *grid), size, mode="bilinear", align_corners=False)[0, 0]
        smooth = torch.from_numpy(gaussian_filter(whole.cpu().numpy(), SIGMA)).to(distances.device)
        return square(smooth, self.map_size), top_mean(distances[None], TOP_SHARE)[0]


def foreground(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (h * w, C) that belong to the object, (h * w,) bool: where their first principal component is above 10.

    Its sign is scikit-learn's (the largest weight is positive) unless that keeps 35 % or less of the image's central
    part. Dilated by three patches, then closed by as many: along the rows alone, one following the other, as by the
    authors' code, which hands OpenCV a column of all patches.
    """
    centred = tokens.double() - tokens.double().mean(dim=0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    direction = direction * direction[direction.abs().argmax()].sign()
    component = (centred @ direction).view(grid)
    mask = component > THRESHOLD
    rows, columns = (slice(int(n * CENTRE), int(n * (1 - CENTRE))) for n in grid)
    middle = mask[rows, columns]
    if middle.sum() <= middle.numel() * KEPT:
        mask = -component > THRESHOLD
    grown = mask.float().view(1, -1)
    for _ in range(2):
        grown = F.max_pool1d(grown, 3, stride=1, padding=1)
    return -F.max_pool1d(-grown, 3, stride=1, padding=1)[0] > 0.5


def _rotated(image: Tensor, angle: int) -> Tensor:
    """(3, H, W) uint8 turned about its centre within its frame, as OpenCV does it (linear, edges mirrored)."""
    if angle == 0:
        return image
    pixels = image.permute(1, 2, 0).cpu().numpy()
    size = (pixels.shape[1], pixels.shape[0])
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1.0)
    turned = cv2.warpAffine(
        np.ascontiguousarray(pixels), turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_DEFAULT
    )
    return torch.from_numpy(turned).permute(2, 0, 1)


def _named(
    what: str, given: str | Sequence[str], sets: dict[str, tuple[str, ...] | None]
) -> frozenset[str] | None:  # fmt: skip
    """The categories that a word or a list names; None for all."""
    if not isinstance(given, str):
        return frozenset(given)
    if given not in sets:
        raise ModelInputError(f"expected {what} to be one of {', '.join(sets)} or a list of categories, got {given!r}")
    names = sets[given]
    return None if names is None else frozenset(names)


def _holds(names: frozenset[str] | None, category: str) -> bool:
    return names is None or category in names


def _label(given: str | Sequence[str]) -> str:
    return given if isinstance(given, str) else " ".join(sorted(given)) or "none"


def _pairs(numbers: Tensor) -> list[tuple[int, int]]:
    return [(int(high), int(wide)) for high, wide in numbers.tolist()]


def _parts(state: State) -> Sequence[Tensor]:
    """The bank reference by reference; all have as many views."""
    patches = state["grids"].prod(dim=1)
    views = len(state["bank"]) // int(patches.sum())
    return state["bank"].split((patches * views).tolist())


def _bank_grids(state: State) -> list[tuple[tuple[int, int], int]]:
    """Of each reference its grid and how many views of it there are."""
    grids = _pairs(state["grids"])
    views = len(state["bank"]) // sum(high * wide for high, wide in grids)
    return [(grid, views) for grid in grids]
