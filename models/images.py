"""Images as they are: SAA's parts each bring them to their own size."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from torch import Tensor


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
            image = image.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)
        pixels = np.array(image.convert("RGB"))  # (H, W, 3), a copy
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
