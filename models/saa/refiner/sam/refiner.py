"""Segment Anything as the region refiner (SAA+ Eq. 2).

A. Kirillov et al.: Segment Anything (arXiv 2304.02643), with the published `segment-anything` library: its own
preprocessing and weights, from a file only; its encoder and decoder in fewer operations (network.py).
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from models.errors import ModelInputError, checked
from models.frozen import Frozen, autocast, check_precision, random_seed, seeded
from models.images import check_image
from models.saa.refiner.base import check_boxes
from models.saa.refiner.sam.network import BoxDecoder, SharedTokens, encode_image
from models.weights.catalogue import find_weights
from models.weights.state import read_state

NAMES = ("vit_b", "vit_l", "vit_h")
MAX_ELEMENTS = 2**24
"""Largest stack of full-size logits held at a time, one mask at the least: 64 MiB of float32."""


class SamRefiner(Frozen):
    """Segment Anything: one mask per box, where its logit is above 0; the predicted quality is not used.

    Args:
        sam: of the `segment-anything` library.
        name: of the architecture.
        weights: the label of the weights.
        precision: "float32", or "bfloat16" or "float16" for autocast in encoder and decoder.
        boxes_at_once: decoded in one step; by default 2 on a CPU, where a small step stays in its cache, else 64.
    """

    def __init__(
        self, sam: Sam, *, name: str = "custom", weights: str = "unnamed", precision: str = "float32",
        boxes_at_once: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.sam = sam.requires_grad_(False)
        self.name = name
        self.weights = weights
        self.precision = check_precision(precision)
        some = boxes_at_once is None or boxes_at_once >= 1
        self.boxes_at_once = checked("boxes_at_once", boxes_at_once, some, "at least 1, or null")
        self._decoder = BoxDecoder(sam)
        self.eval()

    @property
    def image_size(self) -> int:
        """Side of the square model input in pixels."""
        return int(self.sam.image_encoder.img_size)

    @property
    def mask_threshold(self) -> float:
        """Logits above it are the mask."""
        return float(self.sam.mask_threshold)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sam.device

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
    def encode(self, image: Tensor) -> SharedTokens:
        """The encoder's one pass over an image: long side resized to the model's, bilinear by PIL, then padded."""
        pixels = resized(image, self.input_size(image))[None].to(self.sam.device)
        with autocast(self.sam.device, self.precision):
            embedding = encode_image(self.sam.image_encoder, self.sam.preprocess(pixels))
            return self._decoder.image_tokens(embedding)

    @torch.no_grad()
    def decode(self, tokens: SharedTokens, boxes: Tensor) -> Tensor:
        """Low-resolution logits (n, h, w) float32 of n boxes in pixels of the model input, a step at a time."""
        at_once = self.boxes_at_once or (2 if self.sam.device.type == "cpu" else 64)
        with autocast(self.sam.device, self.precision):
            return torch.cat([self._decoder.logits(tokens, part).float() for part in boxes.split(at_once)])

    def input_size(self, image: Tensor) -> tuple[int, int]:
        """(height, width) of an image with its long side resized to the model's, one pixel at the least."""
        return long_side_resized(image, self.image_size)

    def at_full_size(self, logits: Tensor, image: Tensor) -> Tensor:
        """Upsampled to the model input, its padding cut off, then to the image, both bilinear."""
        return cut_and_resized(logits, self.image_size, self.input_size(image), image)


def long_side_resized(image: Tensor, side: int) -> tuple[int, int]:
    """(height, width) of an image with its long side resized, one pixel at the least."""
    scale = side / max(image.shape[1:])
    return max(1, int(image.shape[1] * scale + 0.5)), max(1, int(image.shape[2] * scale + 0.5))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A (3, H, W) uint8 image at another (height, width), bilinear by PIL, on the CPU."""
    picture = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    pixels = np.asarray(picture.resize(size[::-1], PIL.Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def cut_and_resized(logits: Tensor, side: int, size: tuple[int, int], image: Tensor) -> Tensor:
    """Logits (n, h, w) of a padded square to those of the image (n, H, W) in its `size` at the top left of it."""
    padded = F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
    cut = padded[..., : size[0], : size[1]]
    return F.interpolate(cut, tuple(image.shape[1:]), mode="bilinear", align_corners=False)[:, 0]


class SamOutliner:
    """One image in front of a `SamRefiner` or a `SuccessorRefiner`.

    Its encoding lives here, so no image can meet another's.
    """

    def __init__(self, refiner: Any, image: Tensor):
        self._refiner = refiner
        self._image = image
        self._tokens: Any = None

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
            yield (logits > self._refiner.mask_threshold).to(boxes.device)

    def logits(self, boxes: Tensor) -> Iterator[Tensor]:
        """The masks' logits at the size of the image, (n, H, W) float32, a few at a time and in order."""
        check_boxes(boxes)
        largest = max(self._refiner.image_size**2, self._image[0].numel())
        for part in boxes.split(max(1, min(64, MAX_ELEMENTS // largest))):
            if len(part):
                low = self._refiner.decode(self._encoded(), self._in_input(part))
                yield self._refiner.at_full_size(low, self._image)

    def _encoded(self) -> Any:
        if self._tokens is None:
            self._tokens = self._refiner.encode(self._image)
        return self._tokens

    def _in_input(self, boxes: Tensor) -> Tensor:
        """Boxes in pixels of the image to pixels of the model input."""
        (height, width), size = self._image.shape[1:], self._refiner.input_size(self._image)
        across, down = size[1] / width, size[0] / height
        scale = torch.tensor([across, down, across, down], dtype=torch.float32, device=self._refiner.device)
        return boxes.to(scale) * scale


def load_sam(
    name: Literal["vit_b", "vit_l", "vit_h"], *, weights: str, precision: str = "float32",
    boxes_at_once: int | None = None,
) -> SamRefiner:  # fmt: skip
    """The refiner with Segment Anything ViT-B, L or H, on the CPU.

    Args:
        name: of the architecture.
        weights: a path, a name of the weights catalogue (sam_vit_b, sam_vit_l, sam_vit_h), or "random:SEED".
        precision: "float32", or "bfloat16" or "float16" for autocast.
        boxes_at_once: as for `SamRefiner`.

    Raises:
        ModelInputError: an unknown architecture; a missing, damaged or foreign file.
    """
    checked("the architecture of SAM", name, name in NAMES, f"one of {', '.join(NAMES)}")
    if (seed := random_seed(weights)) is None:
        sam = _loaded(name, weights)
    else:
        with seeded(seed):
            sam = sam_model_registry[name]()
    return SamRefiner(sam, name=name, weights=weights, precision=precision, boxes_at_once=boxes_at_once)


def _loaded(name: str, weights: str) -> Sam:
    """Built without storage, then given the file's tensors: nothing is initialised in vain."""
    path = find_weights(weights)
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    state = read_state(path, f"the weights of SAM {name}")
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInputError(
            f"expected {path} to hold the weights of SAM {name}, got a file that does not fit ({reason}); name the "
            "architecture that belongs to the file, or fetch it again"
        ) from error
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)  # not in the file
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam.eval()
