"""MuSc: unlabelled test images score each other, for normal patches have their like in most of them and defects do not.

X. Li, Z. Huang, F. Xue, Y. Zhou: MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring
of the Unlabeled Images (ICLR 2024, arXiv 2401.16753). Transductive. Departs from the paper:

* the lowest 30 % of the distances are one distance at least, so that 2 to 4 images can be scored;
* subsets are drawn without a look at the kinds of defect, by which the authors' code spreads them evenly;
* stages whose grids or widths differ are scored each on its own and averaged at map size, not resized to the first's.
"""

from collections.abc import Generator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import ZERO_SHOT, Prediction, stacked
from models.baselines.patches import check_backbone, check_stages
from models.errors import checked
from models.features import PatchBackbone
from models.frozen import PRECISIONS, check_precision
from models.mutual import Scratch, aggregated, mutual_scores, shared_scores
from models.nearest import MAX_ELEMENTS
from models.references import progress
from models.transductive import TransductiveModel


class MuSc(TransductiveModel):
    """Zero-shot only.

    Args:
        backbone: gives patch tokens by stage; a CLIP ViT-L/14-336 at 518 px as published.
        stages: which of its stages; None for 2 and 3 of a ResNet and all that a ViT gives.
        degrees: r, odd sides in patches of the neighbourhoods that patches are averaged over (LNAMD).
        share: of the other images, the nearest ones whose mean distance is a patch's score.
        neighbours: k of RsCIN, the image itself counted; published are 1, 2, 3 for MVTec AD and BTAD and 1, 8, 9 for
            VisA. None at all: an image's score is the highest of its map.
        normalise: whether embeddings are brought to length 1 for RsCIN: as published with CLIP, not with DINOv2.
        subsets: random parts of the test set of which each is scored by itself; RsCIN is over all of them.
        seed: what they are drawn by.
        match_precision: in which patches are kept and multiplied: float32, or bfloat16 or float16, in half the room.
        memory_mb: what is kept of the images beyond so much memory lies in temporary files; distances between images
            are computed for as many of them at a time as fit beside it, or into a quarter of it.
        max_elements: largest matrix of cosines held at a time.
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(
        self, backbone: PatchBackbone, *, stages: Sequence[int] | None = None, degrees: Sequence[int] = (1, 3, 5),
        share: float = 0.3, neighbours: Sequence[int] = (1, 2, 3), normalise: bool = True, subsets: int = 1,
        seed: int = 0, match_precision: str = "float32", memory_mb: int = 2048, max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "musc")
        self.stages = check_stages(backbone, stages, (2, 3))
        self.preprocess = backbone.preprocess
        good = len(degrees) > 0 and all(degree >= 1 and degree % 2 == 1 for degree in degrees)
        self.degrees = tuple(checked("degrees", list(degrees), good, "odd numbers, 1 or more"))
        self.share = checked("share", share, 0 < share <= 1, "above 0 and up to 1")
        good = all(number >= 0 for number in neighbours)
        self.neighbours = tuple(checked("neighbours", list(neighbours), good, "whole numbers of images, or none"))
        self.normalise = normalise
        self.subsets = checked("subsets", subsets, subsets >= 1, "at least 1")
        self.seed = seed
        self.match_precision = check_precision(match_precision)
        self.memory_mb = checked("memory_mb", memory_mb, memory_mb >= 0, "at least 0")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        k = " ".join(map(str, self.neighbours))
        image_score = "maximum of the map"
        if self.neighbours and 0 not in self.neighbours:
            of = "normalised" if self.normalise else "raw"
            image_score += f", scaled over the test set and shared by like images (RsCIN, k = {k}, {of} embeddings)"
        subsets = "the whole test set"
        if self.subsets > 1:
            subsets = f"each of {self.subsets} random subsets of the test set, seed {self.seed}"
        return {
            "method": "MuSc",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "model_image_size": self.backbone.image_size,
            "stages": " ".join(map(str, self.stages)),
            "precision": getattr(self.backbone, "precision", "float32"),
            "map": f"mutual scoring of {subsets}: mean of the lowest {self.share:g} of the distances to other images, "
            f"mean over stages and degrees {' '.join(map(str, self.degrees))}",
            "match_precision": self.match_precision,
            "map_size": self.backbone.image_size,
            "image_score": image_score,
        }

    def _together(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int
    ) -> Generator[Prediction, None, None]:
        with Scratch(self.memory_mb) as scratch:
            embeddings, kept, grids = self._encoded(images, category, at_once, scratch)
            grades = self._graded(kept, grids, category, scratch)
            highest = torch.cat([self._maps(part, grids).amax(dim=(1, 2)).cpu() for part in _parts(grades, at_once)])
            scores = shared_scores(highest, embeddings, self.neighbours).float().to(self.device)
            for start, part in enumerate(_parts(grades, at_once)):
                rows = slice(start * at_once, start * at_once + at_once)
                maps = self._maps(part, grids)
                yield Prediction(maps.float(), scores[rows], {"map_max": highest[rows].float().to(self.device)})

    def _encoded(
        self, images: Sequence[Tensor] | Tensor, category: str, at_once: int, scratch: Scratch
    ) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        """Embeddings (N, D) and, by stage, patches (N, L, C) under a layer norm over all of an image, with grids."""
        positions = [list(self.backbone.stages).index(stage) for stage in self.stages]
        embeddings: list[Tensor] = []
        kept: list[Tensor] = []
        grids: list[tuple[int, int]] = []
        done = 0
        for start in progress(range(0, len(images), at_once), f"{category}: features"):
            part = stacked(images[start : start + at_once], self.device)
            features = self.backbone.encode_image(part)
            embeddings.append(features.embedding.float().cpu())
            tokens = [features.stages[position].float() for position in positions]
            if not kept:
                grids = [features.grids[position] for position in positions]
                kept = [scratch.empty(len(images), *each.shape[1:], dtype=self._type) for each in tokens]
            for room, each in zip(kept, tokens, strict=True):
                room[done : done + len(part)] = F.layer_norm(each, each.shape[1:]).cpu()
            done += len(part)
        joined = torch.cat(embeddings)
        return F.normalize(joined, dim=1) if self.normalise else joined, kept, grids

    def _graded(
        self, kept: Sequence[Tensor], grids: Sequence[tuple[int, int]], category: str, scratch: Scratch
    ) -> list[Tensor]:
        """By stage the scores (N, L) float64 of all patches, mean over the degrees."""
        count, longest = len(kept[0]), max(each.shape[1] for each in kept)
        parts = self._subsets(count)
        largest = max(map(len, parts))
        matched = scratch.empty(largest * max(each[0].numel() for each in kept), dtype=self._type)
        minima = scratch.rows(largest, largest * longest)
        grades = [torch.zeros(each.shape[:2], dtype=torch.float64) for each in kept]
        steps = [(rows, stage, degree) for rows in parts for stage in range(len(kept)) for degree in self.degrees]
        for rows, stage, degree in progress(steps, f"{category}: mutual scoring"):
            size, (length, width) = len(rows), kept[stage].shape[1:]
            patches = matched[: size * length * width].view(size, length, width)
            for few in torch.arange(size).split(8):
                tokens = kept[stage][rows[few]].to(self.device).float()
                patches[few] = aggregated(tokens, grids[stage], degree).to(self._type).cpu()
            at_once = min(size, minima.numel() // (size * length))
            room = minima.view(-1)[: at_once * size * length].view(at_once, size, length)
            scores = mutual_scores(
                patches, self.share, scratch=room, device=self.device, max_elements=self.max_elements
            )
            grades[stage][rows] += scores / len(self.degrees)
        return grades

    def _subsets(self, count: int) -> list[Tensor]:
        """The numbers of the images of each subset; one of a single image would have nobody to be scored by."""
        subsets = min(self.subsets, max(1, count // self.least_images))
        if subsets == 1:
            return [torch.arange(count)]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return [order[start::subsets] for start in range(subsets)]

    def _maps(self, grades: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> Tensor:
        """(B, S, S) float64 maps of scores (B, L) by stage: bilinear, corners aligned, mean over the stages."""
        size = (self.backbone.image_size, self.backbone.image_size)
        maps = [
            F.interpolate(each.to(self.device).unflatten(1, grid)[:, None], size, mode="bilinear", align_corners=True)
            for each, grid in zip(grades, grids, strict=True)
        ]
        return torch.stack(maps).mean(dim=0)[:, 0]

    @property
    def _type(self) -> torch.dtype:
        return PRECISIONS[self.match_precision]


def _parts(grades: Sequence[Tensor], at_once: int) -> list[list[Tensor]]:
    """The scores of some images at a time, by stage."""
    return [[each[start : start + at_once] for each in grades] for start in range(0, len(grades[0]), at_once)]
