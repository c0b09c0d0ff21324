"""An image as GroundingDINO takes it: resized as a photograph is, then normalised."""

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from models.errors import ModelInputError
from models.images import IMAGENET_MEAN, IMAGENET_STD


def resized_shape(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) with the short side as asked, or smaller where the long one would exceed `long_side`.

    The longer side is rounded down, the shorter to nearest, as the package groundingdino-py does; never below 1.
    """
    short, long = sorted((height, width))
    side = short_side
    if long / short * side > long_side:
        side = max(1, round(long_side * short / long))
    if side == short:
        return height, width
    longer = int(side * long / short)
    return (longer, side) if height > width else (side, longer)


def to_pixels(image: Tensor, short_side: int, long_side: int) -> Tensor:
    """A uint8 RGB image (3, H, W) to (3, h, w) float32 on the CPU, by PIL's bilinear resize and ImageNet's statistics.

    Raises:
        ModelInputError: another shape or type.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ModelInputError(
            f"expected an RGB image as a uint8 tensor (3, H, W), got {tuple(image.shape)} of {image.dtype}; repeat a "
            "grey image three times, and give values from 0 to 255"
        )
    height, width = resized_shape(image.shape[1], image.shape[2], short_side, long_side)
    picture = PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    array = np.array(picture.resize((width, height), PIL.Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(array).permute(2, 0, 1).to(torch.float32).div_(255)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.sub_(mean).div_(deviation).contiguous()
