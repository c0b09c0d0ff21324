"""Preprocessing that model families share: fixed or own size, statistics, OpenCV's rounding, the check of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelInputError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, of each channel in [0, 1]."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHT_BITS = 11
"""Weights of OpenCV's INTER_LINEAR on bytes are whole 1/2048."""

Size = int | tuple[int, int]
"""Side of a square, or (height, width), in pixels."""


@dataclass(frozen=True)
class Preprocess:
    """RGB image to (3, S, S) float32: bicubic resize straight to the square (aspect ratio lost), then mean and std."""

    image_size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        return self.finished(self.pixels(image))

    def pixels(self, image: PIL.Image.Image) -> Tensor:
        """The first half: resized, (3, S, S) uint8."""
        return _pixels(image, (self.image_size, self.image_size))

    def finished(self, pixels: Tensor) -> Tensor:
        """The second half, on any device: (..., 3, S, S) uint8 to float32."""
        return normalised(pixels, self.mean, self.std)


@dataclass(frozen=True)
class AspectPreprocess:
    """RGB image to (3, H, W) float32, its aspect ratio kept.

    Bicubic with antialiasing until the shorter side is `side` pixels (the other one rounded down), then cropped at the
    bottom and on the right to multiples of `stride`, then mean and std.
    """

    side: int
    stride: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        shorter = min(image.size)
        width, height = (max(self.side, int(self.side * each / shorter)) for each in image.size)
        whole = _prepared(image, (width, height), self.mean, self.std)
        return whole[:, : height // self.stride * self.stride, : width // self.stride * self.stride].contiguous()


@dataclass(frozen=True)
class ScaledPreprocess:
    """RGB image to (3, H, W) float32: its sides times `scale`, bicubic with antialiasing, then mean and std.

    Each side becomes the nearest multiple of `stride`, one at the least; nothing is cropped or padded.
    """

    scale: float
    stride: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        width, height = (max(1, round(self.scale * side / self.stride)) * self.stride for side in image.size)
        return _prepared(image, (width, height), self.mean, self.std)


def in_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture itself where it is in RGB: of a large one a copy takes as long as resizing it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _prepared(
    image: PIL.Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Tensor:  # fmt: skip
    """Resized (bicubic) to (width, height), less the mean and over the deviation of each channel: (3, H, W)."""
    return normalised(_pixels(image, size), mean, std)


def _pixels(image: PIL.Image.Image, size: tuple[int, int]) -> Tensor:
    """Resized (bicubic) to (width, height): (3, H, W) uint8."""
    return _planes(in_rgb(image).resize(size, PIL.Image.Resampling.BICUBIC))


def _planes(image: PIL.Image.Image) -> Tensor:
    """An RGB picture as it is: (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class KeepSize:
    """One image to (3, H, W) uint8 RGB at its own size, a long side above `max_side` pixels shrunk to it (0: never)."""

    max_side: int = 0

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        longest = max(image.size)
        if 0 < self.max_side < longest:
            scale = self.max_side / longest
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return _pixels(image, size)
        return _planes(in_rgb(image))


def check_batch(images: Tensor, image_size: int) -> None:
    """Refuse anything but a float batch (B, 3, S, S) of the size S.

    Raises:
        ModelInputError: another shape or type.
    """
    expected = (3, image_size, image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected or not images.is_floating_point():
        raise ModelInputError(
            f"expected a float batch of images of shape (B, {', '.join(map(str, expected))}), got "
            f"{tuple(images.shape)} of {images.dtype}; make each with the model's own `preprocess` and stack them"
        )


def check_sides(images: Tensor, stride: int) -> None:
    """Refuse anything but a float batch (B, 3, H, W) whose sides are multiples of the stride.

    Raises:
        ModelInputError: another shape or type.
    """
    sides = images.shape[2:]
    fits = images.ndim == 4 and images.shape[1] == 3 and all(side and side % stride == 0 for side in sides)
    if not fits or not images.is_floating_point():
        raise ModelInputError(
            f"expected a float batch of images of shape (B, 3, H, W), H and W multiples of {stride}, got "
            f"{tuple(images.shape)} of {images.dtype}; make each with the `preprocess` of the backbone, or with "
            "`AspectPreprocess`, and stack them"
        )


def check_image(image: Tensor) -> None:
    """Refuse anything but one (3, H, W) uint8 image of some area.

    Raises:
        ModelInputError: another shape or type.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise ModelInputError(
            f"expected one uint8 RGB image of shape (3, H, W), got {tuple(image.shape)} of {image.dtype}; make it with "
            "the model's own `preprocess`"
        )


def resized(images: Tensor, size: Size, *, antialias: bool) -> Tensor:
    """(B, 3, h, w) uint8 to the size, bilinear: float32 of whole numbers 0 to 255, as an 8 bit resize gives them."""
    target = (size, size) if isinstance(size, int) else size
    pixels = images.float()
    if pixels.shape[2:] != target:
        pixels = F.interpolate(pixels, target, mode="bilinear", align_corners=False, antialias=antialias)
    return pixels.round().clamp(0, 255)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, h, w) of 0 to 255, to 0 to 1, less the mean and over the deviation of each channel; float32."""
    pixels = pixels.float()
    middle, deviation = pixels.new_tensor(mean).view(3, 1, 1), pixels.new_tensor(std).view(3, 1, 1)
    return (pixels / 255 - middle) / deviation


def nearest_rows(new: int, old: int) -> np.ndarray:
    """Which of `old` rows or columns each of `new` ones shows under OpenCV's INTER_NEAREST, (new,) int64."""
    return np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64).clip(max=old - 1)


def resize_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) uint8 to `size` (height, width) as OpenCV's INTER_LINEAR does it (imgproc, resize.cpp), bit for bit.

    Nothing is averaged over what is left out. Published figures rest on this rounding.
    """
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    values = images.to(torch.int32)
    if (height, width) == (2 * size[0], 2 * size[1]):  # OpenCV takes the mean of four
        return ((values[:, :, ::2] + values[:, :, 1::2]).unflatten(3, (-1, 2)).sum(dim=4) + 2 >> 2).to(torch.uint8)
    left, right, of_left, of_right = _neighbours(size[1], width, images.device, rows=False)
    across = values[..., left] * of_left + values[..., right] * of_right
    upper, lower, of_upper, of_lower = _neighbours(size[0], height, images.device, rows=True)
    parts = ((across[:, :, rows] >> 4) * of[:, None] >> 16 for rows, of in ((upper, of_upper), (lower, of_lower)))
    return (sum(parts, torch.tensor(2, device=images.device)) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbours(new: int, old: int, device: torch.device, rows: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each of `new` rows or columns the two old ones that it lies between, and their weights in 1/2048; (new,) each.

    Beyond the border the outermost column has all the weight; a row shares it with itself, which rounds otherwise.
    """
    positions = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    before = np.floor(positions).astype(np.int64)
    share = positions - before.astype(np.float32)
    if not rows:
        share[(before < 0) | (before >= old - 1)] = 0
    weights = [np.rint(each * np.float32(1 << WEIGHT_BITS)).astype(np.int32) for each in (1 - share, share)]
    indices = [each.clip(0, old - 1) for each in (before, before + 1)]
    found = [torch.from_numpy(each).to(device) for each in (*indices, *weights)]
    return found[0], found[1], found[2], found[3]
