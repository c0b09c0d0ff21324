"""What goes into the CLIP, `Preprocess`, and what comes out, `ImageFeatures`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import open_clip
import PIL.Image
import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over B images yields, float32.

    `embedding` (B, D) lives in the joint space, not normalised (from the class token of the last block,
    or a ResNet's attention pool). `stages` holds per stage (B, h*w, C_n): raw outputs of the block, before
    any final norm or projection, the class token dropped; `grids` the (h, w) of each.
    """

    embedding: Tensor
    stages: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]

    def __getitem__(self, images: slice | list[int]) -> "ImageFeatures":
        """The features of some of the images."""
        return ImageFeatures(self.embedding[images], tuple(stage[images] for stage in self.stages), self.grids)

    @staticmethod
    def cat(parts: Sequence["ImageFeatures"]) -> "ImageFeatures":
        """The features of several batches as those of one."""
        stages = tuple(torch.cat(stage) for stage in zip(*(part.stages for part in parts), strict=True))
        return ImageFeatures(torch.cat([part.embedding for part in parts]), stages, parts[0].grids)


@dataclass(frozen=True)
class Preprocess:
    """RGB image to (3, S, S) float32: bicubic resize straight to the square (aspect ratio lost), then mean and std."""

    image_size: int
    mean: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, ...] = open_clip.OPENAI_DATASET_STD

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        size = (self.image_size, self.image_size)
        pixels = np.asarray(image.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC), dtype=np.float32) / 255
        normalised = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()
