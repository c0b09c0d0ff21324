"""The anomaly region refiner, SAA+ Eq. 2: boxes to outlines, by Segment Anything.

A. Kirillov et al.: Segment Anything (arXiv 2304.02643), with the published `segment-anything` library: its own
preprocessing and weights; its encoder and decoder in fewer operations (`refiner/sam/`).
"""

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from models.errors import ModelInputError
from models.precision import autocast, check_precision
from models.saa.refiner.sam.decoder import BoxDecoder, ImageTokens
from models.saa.refiner.sam.encoder import encode

MAX_ELEMENTS = 2**24
"""Largest stack of full-size logits held at a time: 64 MiB of float32."""


class Outliner(Protocol):
    """Outlines boxes of one image, whose encoding it holds."""

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes (x0, y0, x1, y1) in pixels of the image to (N, H, W) bool on the boxes' device."""
        ...


class RegionRefiner(Protocol):
    """Makes an `Outliner` for an image."""

    def outline(self, image: Tensor) -> Outliner:
        """An outliner of a (3, H, W) uint8 image. Nothing is encoded before the first box is asked for."""
        ...

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this refiner must carry."""
        ...


class SamRefiner(nn.Module):
    """Segment Anything: one mask per box, where its logit is above 0; the predicted quality is not used.

    Args:
        sam: of the `segment-anything` library.
        name: of the architecture.
        weights: the label of the weights.
        precision: "float32", or "bfloat16" or "float16" for autocast in encoder and decoder.
        boxes_at_once: decoded in one step; by default 2 on a CPU, where a small step stays in its cache, else 64.
        max_elements: largest stack of full-size logits held at a time, in elements (a single one at the least).
    """

    def __init__(
        self, sam: Sam, *, name: str = "custom", weights: str = "unnamed", precision: str = "float32",
        boxes_at_once: int | None = None, max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        if boxes_at_once is not None and boxes_at_once < 1:
            raise ModelInputError(f"expected boxes_at_once to be at least 1 or null, got {boxes_at_once}")
        self.sam = sam.requires_grad_(False)
        self.name = name
        self.weights = weights
        self.precision = check_precision(precision)
        self.boxes_at_once = boxes_at_once
        self.max_elements = max_elements
        self._decoder = BoxDecoder(sam)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @property
    def image_size(self) -> int:
        """Side of the square model input in pixels."""
        return int(self.sam.image_encoder.img_size)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this refiner."""
        return {
            "refiner": f"SAM {self.name}, one mask per box, logit > {self.sam.mask_threshold:g}, long side "
            f"{self.image_size} padded",
            "refiner_weights": self.weights,
            "refiner_precision": self.precision,
        }

    def outline(self, image: Tensor) -> "SamOutliner":
        """An outliner of a (3, H, W) uint8 RGB image, which is encoded when the first box is asked for.

        Raises:
            ModelInputError: anything but such an image.
        """
        check_image(image)
        return SamOutliner(self, image)

    @torch.no_grad()
    def encode(self, image: Tensor) -> ImageTokens:
        """The encoder's one pass over an image: long side resized to the model's, bilinear by PIL, then padded."""
        height, width = self.input_size(image)
        picture = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        resized = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].to(self.sam.device)
        with self._autocast():
            embedding = encode(self.sam.image_encoder, self.sam.preprocess(pixels))
            return self._decoder.image_tokens(embedding)

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, boxes: Tensor) -> Tensor:
        """Low-resolution logits (n, h, w) float32 of n boxes in pixels of the model input, a step at a time."""
        at_once = self.boxes_at_once or (2 if self.sam.device.type == "cpu" else 64)
        with self._autocast():
            return torch.cat([self._decoder.logits(tokens, part).float() for part in boxes.split(at_once)])

    def input_size(self, image: Tensor) -> tuple[int, int]:
        """(height, width) of an image with its long side resized to the model's, one pixel at the least."""
        scale = self.image_size / max(image.shape[1:])
        return max(1, int(image.shape[1] * scale + 0.5)), max(1, int(image.shape[2] * scale + 0.5))

    def _autocast(self) -> torch.autocast:
        return autocast(self.sam.device, self.precision)


class SamOutliner:
    """One image in front of a `SamRefiner`. Its encoding lives here, so no image can meet another's."""

    def __init__(self, refiner: SamRefiner, image: Tensor):
        self._refiner = refiner
        self._image = image
        self._tokens: ImageTokens | None = None

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, H, W) bool on the boxes' device: the region in each (x0, y0, x1, y1) box, in pixels, not clipped.

        Raises:
            ModelInputError: anything but finite (N, 4) boxes.
        """
        masks = torch.empty(len(boxes), *self._image.shape[1:], dtype=torch.bool, device=boxes.device)
        done = 0
        for part in self.chunks(boxes):
            masks[done : done + len(part)] = part
            done += len(part)
        return masks

    def chunks(self, boxes: Tensor) -> Iterator[Tensor]:
        """The same masks, a few at a time and in order, each decoded when it is asked for."""
        for logits in self.logits(boxes):
            yield (logits > self._refiner.sam.mask_threshold).to(boxes.device)

    def logits(self, boxes: Tensor) -> Iterator[Tensor]:
        """The masks' logits at the size of the image, (n, H, W) float32, a few at a time and in order."""
        check_boxes(boxes)
        largest = max(self._refiner.image_size**2, self._image[0].numel())
        for part in boxes.split(max(1, min(64, self._refiner.max_elements // largest))):
            if len(part):
                yield self._at_full_size(self._refiner.decode(self._encoded(), self._in_input(part)))

    def _encoded(self) -> ImageTokens:
        if self._tokens is None:
            self._tokens = self._refiner.encode(self._image)
        return self._tokens

    def _in_input(self, boxes: Tensor) -> Tensor:
        """Boxes in pixels of the image to pixels of the model input."""
        (height, width), size = self._image.shape[1:], self._refiner.input_size(self._image)
        across, down = size[1] / width, size[0] / height
        scale = torch.tensor([across, down, across, down], dtype=torch.float32, device=self._refiner.sam.device)
        return boxes.to(scale) * scale

    def _at_full_size(self, logits: Tensor) -> Tensor:
        """Upsampled to the model input, its padding cut off, then to the image, both bilinear."""
        side, (height, width) = self._refiner.image_size, self._refiner.input_size(self._image)
        padded = F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
        cut = padded[..., :height, :width]
        return F.interpolate(cut, tuple(self._image.shape[1:]), mode="bilinear", align_corners=False)[:, 0]


def check_image(image: Tensor) -> None:
    """Refuse anything but one (3, H, W) uint8 image of some area."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise ModelInputError(
            f"expected one uint8 RGB image of shape (3, H, W), got {tuple(image.shape)} of {image.dtype}; make it with "
            "the model's own `preprocess`"
        )


def check_boxes(boxes: Tensor) -> None:
    """Refuse anything but finite (N, 4) boxes."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
        raise ModelInputError(
            f"expected finite boxes (x0, y0, x1, y1) of shape (N, 4), got {tuple(boxes.shape)}"
            f"{'' if boxes.isfinite().all() else ' with NaN or infinity among them; the weights may be damaged'}"
        )
