"""Regions for small weights: boxes where a CLIP's patches are nearer to a defect's words than to "flawless", outlined.

Not the paper's: it replaces GroundingDINO (SAA+ Eq. 1), and SAM (Eq. 2) too where there is no other refiner, when only
the small weights that ship are at hand. It reads patches through the trained adapters of the other model family, and
says so in the protocol label. Its boxes carry no words, so the filter by name has nothing to read; and the small text
tower tells good from bad and little else, so the boxes of one caption resemble those of the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, nms

from models.clip.backbone import ClipBackbone
from models.clip_adapter.adapter import Adapter, stage_probabilities
from models.clip_adapter.checkpoint import check_adapter_fits
from models.errors import checked
from models.frozen import Frozen
from models.images import check_image
from models.saa.generator.base import Proposals
from models.saa.generator.blobs import blob_boxes, foreground, foreground_boxes
from models.saa.refiner.by_map import LABEL, MapOutliner

NORMAL = ("flawless object", "perfect object", "object without defect")
TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "there is a {} in the scene.",
)
OUTLINED = "damage. defect. anomaly"
"""The caption of the map that outlines boxes."""


@dataclass(frozen=True)
class _Windows:
    """The windows of one scale: per stage their adapted tokens (B, h*w, D) and grid (h, w)."""

    scale: int
    stages: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]


class ClipBoxGenerator(Frozen):
    """Boxes around the blobs of a text-to-patch similarity map, at several scales; a refiner by the same map as well.

    Args:
        backbone: the frozen CLIP.
        adapter: its trained adapters; patches are compared with words after them.
        scales: 1 looks at the whole image, s at overlapping windows of 1/s of its sides.
        levels: a blob is where a map is above this share of the way from its median to its maximum.
        box_overlap: of two boxes of one caption with a larger intersection over union, the better one stays.
        min_score: boxes below it are not proposed.
        grid: side of a window's map in pixels, even.
        outline_level: the first guess at a box's region is where the map is above its median by this share of what its
            maximum in the box is above it.
    """

    def __init__(
        self, backbone: ClipBackbone, adapter: Adapter, *, scales: Sequence[int] = (1, 2),
        levels: Sequence[float] = (0.5,), box_overlap: float = 0.7, min_score: float = 0.1, grid: int = 128,
        outline_level: float = 0.5,
    ):  # fmt: skip
        super().__init__()
        check_adapter_fits(adapter, backbone)
        self.backbone = backbone
        self.adapter = adapter
        whole = all(isinstance(scale, int) and scale >= 1 for scale in scales)
        self.scales = checked("scales", tuple(scales), bool(scales) and whole, "whole numbers from 1")
        shares = all(0 < level < 1 for level in levels)
        self.levels = checked("levels", tuple(levels), bool(levels) and shares, "between 0 and 1")
        self.box_overlap = checked("box_overlap", box_overlap, 0 < box_overlap <= 1, "above 0 and up to 1")
        self.min_score = checked("min_score", min_score, 0 <= min_score < 1, "from 0 and below 1")
        self.grid = checked("grid", grid, grid >= 2 and grid % 2 == 0, "an even number from 2")
        share = 0 < outline_level < 1
        self.outline_level = checked("outline_level", outline_level, share, "between 0 and 1")
        self._texts: dict[tuple[str, torch.device], Tensor] = {}
        self._last: tuple[Tensor, list[_Windows]] | None = None
        self.eval()

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes of each caption on a (3, H, W) uint8 RGB image; the image is encoded once for all captions.

        A box's score is the mean defect probability of its blob, in [0, 1].
        """
        seen = self._seen(image)
        return [self._proposals([self._map(windows, caption) for windows in seen], image) for caption in captions]

    def propose_objects(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes of whole objects, found without words: what differs from the border of the image.

        A picture whose border looks like the rest of it shows a surface and has no object box.
        """
        boxes, scores = foreground_boxes(image)
        return [Proposals(boxes, scores, ("",) * len(boxes)) for _ in captions]

    def outline(self, image: Tensor) -> MapOutliner:
        """An outliner of a (3, H, W) uint8 RGB image: defects by the map of their boxes, objects by their background.

        The image is encoded once for boxes and outlines.

        Raises:
            ModelInputError: anything but such an image.
        """
        check_image(image)
        return MapOutliner(image, self.outline_level, lambda: self._outlined(image), lambda: foreground(image)[0])

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this generator, and with its outlines where no other refiner's take over."""
        return {
            "generator": f"CLIP box generator ({self.backbone.name}), scales {' '.join(map(str, self.scales))}, levels "
            f"{' '.join(map(str, self.levels))}; objects by their difference from the image's border",
            "generator_boxes": f"from a score of {self.min_score:g}, of two with an IoU above {self.box_overlap:g} the "
            f"better, windows of {self.grid} px",
            "generator_image_size": self.backbone.image_size,
            "generator_adapter_reads": self.adapter.reads,
            "generator_weights": self.backbone.weights,
            "generator_trained_on": ", ".join(self.adapter.trained_on) or "not stated in the file",
            "generator_precision": self.backbone.precision,
            "refiner": f"what the generator's map has above {self.outline_level:g} of the way from its median to its "
            f"maximum in the box, then {LABEL}; objects by their difference from the image's border",
            "refiner_weights": "the generator's",
        }

    def _seen(self, image: Tensor) -> list[_Windows]:
        """The windows of all scales; those of the last image are kept, which is outlined after it was searched."""
        last = self._last
        if last is None or last[0] is not image:
            last = self._last = image, [self._look(image, scale) for scale in self.scales]
        return last[1]

    def _outlined(self, image: Tensor) -> Tensor:
        """The mean of all scales' maps, at the size of the largest."""
        maps = [self._map(windows, OUTLINED) for windows in self._seen(image)]
        size = max(maps, key=len).shape
        return torch.stack([F.interpolate(each[None, None], size, mode="bilinear")[0, 0] for each in maps]).mean(dim=0)

    @torch.no_grad()
    def _look(self, image: Tensor, scale: int) -> _Windows:
        """Encode the windows of a scale, half a window apart, each at the encoder's full input size."""
        picture = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        starts = np.linspace(0, 1 - 1 / scale, 2 * scale - 1)
        crops = [_crop(picture, x, y, 1 / scale) for y, x in product(starts, starts)]
        images = torch.stack([self.backbone.preprocess(crop) for crop in crops])
        features = self.backbone.encode_image(images.to(next(self.adapter.parameters()).device))
        tokens, grids = self.adapter.adapt(features)
        return _Windows(scale, tuple(tokens), tuple(grids))

    def _map(self, windows: _Windows, caption: str) -> Tensor:
        """Defect probability, (grid * scale)^2: mean over stages, and over the windows that see a pixel."""
        stages = [
            stage_probabilities(tokens, self._text(caption, tokens.device), grid, self.grid)[:, 1]
            for tokens, grid in zip(windows.stages, windows.grids, strict=True)
        ]
        probabilities = torch.stack(stages).mean(dim=0)  # (B, grid, grid)
        total = probabilities.new_zeros(2, self.grid * windows.scale, self.grid * windows.scale)
        starts = range(0, total.shape[1] - self.grid + 1, self.grid // 2)
        for probability, (y, x) in zip(probabilities, product(starts, starts), strict=True):
            window = total[:, y : y + self.grid, x : x + self.grid]
            window += torch.stack([probability, torch.ones_like(probability)])
        return total[0] / total[1]

    def _text(self, caption: str, device: torch.device) -> Tensor:
        """(D, 2) columns of length 1, normal and anomalous, computed once per caption."""
        if (caption, device) not in self._texts:
            phrases = [phrase.strip() for phrase in caption.split(".") if phrase.strip()]
            columns = []
            for states in (NORMAL, [f"object with {phrase}" for phrase in phrases] or ["damaged object"]):
                sentences = [template.format(state) for state in states for template in TEMPLATES]
                mean = F.normalize(self.backbone.encode_text(sentences), dim=-1).mean(dim=0)
                columns.append(F.normalize(mean, dim=0))
            self._texts[caption, device] = torch.stack(columns, dim=1).to(device)
        return self._texts[caption, device]

    def _proposals(self, maps: Sequence[Tensor], image: Tensor) -> Proposals:
        """The blobs of all scales, best first, of near-equal boxes the best."""
        found = [blob_boxes(each.cpu().numpy(), level) for each in maps for level in self.levels]
        boxes = torch.from_numpy(np.concatenate([boxes for boxes, _ in found]))
        scores = torch.from_numpy(np.concatenate([scores for _, scores in found]))
        boxes, scores = boxes[scores > self.min_score], scores[scores > self.min_score]
        kept = nms(box_convert(boxes, "cxcywh", "xyxy"), scores, self.box_overlap)
        return Proposals(boxes[kept].to(image.device), scores[kept].to(image.device), ("",) * len(kept))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget what lies on another device."""
        super()._apply(fn, recurse)
        self._texts.clear()
        self._last = None
        return self


def _crop(picture: PIL.Image.Image, x: float, y: float, share: float) -> PIL.Image.Image:
    """The window at (x, y) with `share` of each side, all in fractions; at least a pixel."""
    left, top = round(x * picture.width), round(y * picture.height)
    right, bottom = round((x + share) * picture.width), round((y + share) * picture.height)
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
