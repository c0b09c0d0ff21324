"""SubspaceAD: the subspace of the references' patch tokens, and how far outside it a patch lies.

C. Lendering et al.: SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling (arXiv 2602.23013;
CLendering/SubspaceAD at 2ca687e). Departs from the paper:

* Mean and covariance follow from sums over the tokens (`Moments`), in one pass over the references instead of two. So
  references can be added later and shards be merged; and both are of the same rotations, where the authors' code draws
  other ones for each of its passes.
* References are rotated at the size at which the net sees them, bilinear, not at their own, by the nearest pixel.
* A reference's angles follow from the seed and its pixels, so that they do not depend on what else is learnt.
* A net whose stages have unlike widths, as the weights that ship, has them joined instead of averaged.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import ClassVar, Self

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from models.base import FEW_SHOT, ZERO_SHOT, AnomalyModel, Images, Prediction, State, groups, moved, stacked
from models.baselines.patches import IMAGES_AT_ONCE, check_backbone, check_stages, encode_in_parts, stage_maps
from models.errors import ModelInputError, checked
from models.features import PatchBackbone
from models.frozen import seeded_by
from models.maps import top_mean, upsampled
from models.references import Prepared, joined, progress
from models.subspace import Moments, Subspace
from models.transductive import TransductiveModel, batches

STAGES = (2, 3)
MOST_DEGREES = 345.0
BLUR_RADIUS = 1
"""The published Gaussian has a width of 3 pixels, whatever its sigma."""
MEAN, CONCAT = "mean", "concat"


class SubspaceAD(AnomalyModel):
    """Few-shot only.

    What it knows of a category has one size however many references there were: all of them are learnt.

    Args:
        backbone: gives patch tokens by stage; a DINOv2 with registers, giant, as published, or another.
        stages: which of its stages; None for all that a ViT gives, and 2 and 3 of a convolutional net.
        aggregation: "mean" of the stages as published, "concat" on the grid of the first; None for "mean" where they
            have one width, else "concat".
        variance: share of the variance that the subspace explains.
        rotations: how many rotated copies of each reference are learnt with it, by 0 to 345 degrees, black outside.
        unrotated: categories of which none are; published is transistor, whose parts must not lie turned.
        seed: of the angles.
        sigma: of the map's Gaussian of 3 x 3 pixels.
        top_share: of the map's pixels, the highest, whose mean is the image score.
    """

    serves: ClassVar[Sequence[str]] = (FEW_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, aggregation: str | None = None,
        variance: float = 0.99, rotations: int = 30, unrotated: Sequence[str] = ("transistor",), seed: int = 42,
        sigma: float = 4.0, top_share: float = 0.01,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "subspace_ad")
        self.stages = check_stages(backbone, stages, STAGES)
        self.preprocess = backbone.preprocess
        widths = {backbone.stage_widths[list(backbone.stages).index(stage)] for stage in self.stages}
        self.aggregation = aggregation or (MEAN if len(widths) == 1 else CONCAT)
        good = self.aggregation == CONCAT or (self.aggregation == MEAN and len(widths) == 1)
        checked("aggregation", aggregation, good, f"{CONCAT}, null, or, of stages of one width, {MEAN}")
        self.variance = checked("variance", variance, 0 < variance < 1, "above 0 and below 1")
        self.rotations = checked("rotations", rotations, rotations >= 0, "at least 0")
        self.unrotated = tuple(unrotated)
        self.seed = int(seed)
        self.sigma = checked("sigma", sigma, sigma >= 0, "at least 0")
        self.top_share = checked("top_share", top_share, 0 < top_share <= 1, "above 0 and up to 1")
        black = self.preprocess(PIL.Image.new("RGB", (8, 8))).mean(dim=(1, 2)).tolist()
        self._turn = partial(rotate, interpolation=InterpolationMode.BILINEAR, fill=black)
        self._references: dict[str, Images] = {}

    def fit(self, references: Images, category: str) -> None:
        """Learn the subspace of K >= 1 preprocessed normal images (K, 3, h, w) and their rotated copies."""
        if not len(references):
            raise ModelInputError(f"expected at least one reference image of {category!r}, got none")
        self._learn(self._summed(references, category), category)
        self._references[category] = references

    def add(self, references: Images, category: str) -> None:
        """Learn further references of a fitted category: to the bit what `fit` makes of those before and these."""
        known, before = self._known(category), self._references[category]
        self._learn(self._summed(references, category, known), category)
        both = [(images, i) for images in (before, references) for i in range(len(images))]
        self._references[category] = Prepared(both, lambda place: place[0][place[1]])

    def merged(self, states: Sequence[State]) -> State:
        """The `state` of a category from those of its shards, each fitted elsewhere with other references."""
        moments = [_moments(state) for state in states]
        return self._state(sum(moments[1:], moments[0]))

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, h, w) preprocessed images of B named categories."""
        batch = stacked(images, self.device)
        tokens, grid = self._tokens(batch)
        residuals = tokens.new_empty(tokens.shape[:2])
        for category, members in groups(categories):
            known = self._states[category]
            residuals[members] = Subspace(known["mean"], known["outside"]).residuals(tokens[members])
        return self._prediction(residuals, grid, batch.shape[2:])

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference under the subspace of the others; a single one under that of its mirror image.

        The others' moments are all less its own, which is exact up to the rounding of float64.
        """
        known, references = self._known(category), self._references[category]
        left_out = []
        for i in progress(range(len(references)), f"{category}: references left out"):
            image = references[i].to(self.device)
            if len(references) == 1:
                others = self._view_moments(image.flip(-1), category)
            else:
                others = known - self._view_moments(image, category)
            tokens, grid = self._tokens(image[None])
            residuals = others.subspace(self.variance).residuals(tokens)
            left_out.append(self._prediction(residuals, grid, image.shape[1:]))
        return joined(left_out, range(len(references)))

    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it; the references are looked at when they are to be scored."""
        super().load_state(state, category, references)
        self._references[category] = references

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for category, images in self._references.items():
            if isinstance(images, Tensor):
                self._references[category] = moved(images, fn)
        return super()._apply(fn, recurse)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        width = 2 * BLUR_RADIUS + 1
        turned = f"{self.rotations} rotations of each by 0 to {MOST_DEGREES:g} degrees, seed {self.seed}"
        turned += f", none of {', '.join(self.unrotated)}" if self.unrotated else ""
        return {
            "method": "SubspaceAD",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "model_image_size": self.backbone.image_size,
            "stages": f"{self.aggregation} of {' '.join(map(str, self.stages))}",
            "subspace": f"{self.variance:g} of the variance, no whitening",
            "reference_views": turned if self.rotations else "as they are",
            "map": f"squared residual, Gaussian of {self.sigma:g} px within {width} x {width}",
            "image_score": f"mean of the highest {self.top_share:g} of the map's pixels",
            "few_shot_calibration": "each reference under the subspace of the others; a single one under that of its "
            "mirror image",
        }

    def _known(self, category: str) -> Moments:
        return _moments(self._states[category])

    def _learn(self, moments: Moments, category: str) -> None:
        self._states[category] = self._state(moments)

    def _state(self, moments: Moments) -> State:
        subspace = moments.subspace(self.variance)
        return {**vars(moments), **vars(subspace)}

    def _summed(self, references: Images, category: str, known: Moments | None = None) -> Moments:
        """The moments of references, image by image, on top of those known."""
        for i in progress(range(len(references)), f"{category}: references"):
            own = self._view_moments(references[i].to(self.device), category)
            known = own if known is None else known + own
        assert known is not None
        return known

    def _view_moments(self, image: Tensor, category: str) -> Moments:
        """Of one reference (3, h, w) and its rotated copies."""
        views = [image, *(self._turn(image, angle) for angle in self._angles(image, category))]
        parts = [torch.stack(views[i : i + IMAGES_AT_ONCE]) for i in range(0, len(views), IMAGES_AT_ONCE)]
        first, *others = (Moments.of(self._tokens(part)[0].flatten(0, 1)) for part in parts)
        return sum(others, first)

    def _angles(self, image: Tensor, category: str) -> list[float]:
        """Degrees, drawn by the seed and the image's pixels."""
        if category in self.unrotated:
            return []
        return (MOST_DEGREES * torch.rand(self.rotations, generator=seeded_by(image, self.seed))).tolist()

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The stages of (B, 3, h, w) images as one: tokens (B, P, C) on a grid."""
        maps = stage_maps(encode_in_parts(self.backbone, images, self.stages), self.backbone.stages, self.stages)
        grid = (maps[0].shape[2], maps[0].shape[3])
        maps = [F.interpolate(each, grid, mode="bilinear", align_corners=False) for each in maps]
        together = torch.stack(maps).mean(dim=0) if self.aggregation == MEAN else torch.cat(maps, dim=1)
        return together.flatten(2).transpose(1, 2), grid

    def _prediction(self, residuals: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Prediction:
        maps = upsampled(residuals, grid, (size[0], size[1]), self.sigma, BLUR_RADIUS)
        return Prediction(maps, top_mean(maps, self.top_share))


class SubspaceADBatch(TransductiveModel):
    """SubspaceAD without references: all test images of a category, as they are, take their place (transductive).

    Two passes: the moments of all images, then the distance of each to the subspace. What it holds has one size however
    many images there are. For the arguments see `SubspaceAD`.
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, aggregation: str | None = None,
        variance: float = 0.99, sigma: float = 4.0, top_share: float = 0.01,
    ):  # fmt: skip
        super().__init__()
        self.one = SubspaceAD(
            backbone, stages=stages, aggregation=aggregation, variance=variance, rotations=0, sigma=sigma,
            top_share=top_share,
        )  # fmt: skip
        self.preprocess = backbone.preprocess

    def _together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int
    ) -> Generator[Prediction, None, None]:
        known: Moments | None = None
        for part in batches(images, at_once):
            own = Moments.of(self.one._tokens(stacked(part, self.device))[0].flatten(0, 1))
            known = own if known is None else known + own
        assert known is not None
        subspace = known.subspace(self.one.variance)
        for part in batches(images, at_once):
            batch = stacked(part, self.device)
            tokens, grid = self.one._tokens(batch)
            yield self.one._prediction(subspace.residuals(tokens), grid, batch.shape[2:])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        known = {
            key: value for key, value in self.one.protocol.items() if not key.startswith(("reference_", "few_shot"))
        }
        return {**known, "method": "SubspaceAD, batched", "subspace_of": "all test images of the category"}


def _moments(state: State) -> Moments:
    return Moments(state["count"], state["total"], state["second"])
