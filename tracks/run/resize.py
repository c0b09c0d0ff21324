"""The one place where maps and masks are brought to the resolution at which they are scored."""

import numpy as np
import PIL.Image
from torch import Tensor
from torch.nn import functional

from models.images import nearest_rows

MASK_RULES = {
    "bilinear": "bilinear with antialias, >= half covered; never emptied",
    "nearest": "nearest, as OpenCV's INTER_NEAREST; never emptied",
    "full": "bilinear with antialias, wholly covered; never emptied",
    "any": "bilinear with antialias, covered at all",
}
"""What `mask_resize` may be, and the label of each."""
MAP_RULE = "bilinear"


def resize_map(anomaly_map: Tensor, size: tuple[int, int], dtype: type[np.floating] = np.float16) -> np.ndarray:
    """(h, w) to `size` (height, width), bilinear, as `dtype` on the CPU."""
    if tuple(anomaly_map.shape) != size:
        anomaly_map = functional.interpolate(anomaly_map[None, None], size=size, mode="bilinear")[0, 0]
    return anomaly_map.cpu().numpy().astype(dtype)


def resize_mask(mask: np.ndarray, size: tuple[int, int], rule: str = "bilinear") -> np.ndarray:
    """(H, W) bool to `size` (height, width): "bilinear", where a pixel at least half covered is defect, or "nearest".

    Of MuSc's code "full", where it must be wholly covered (MVTec AD), and "any", where a little is enough (VisA).
    A mask whose defects are all too thin for that keeps the pixels that they cover most, so that
    an anomalous image never loses its defect.
    """
    if mask.shape == size or not mask.any():
        return mask if mask.shape == size else np.zeros(size, dtype=bool)
    if rule == "nearest":
        rows, columns = (nearest_rows(new, old) for new, old in zip(size, mask.shape, strict=True))
        if (picked := mask[np.ix_(rows, columns)]).any():
            return picked
    image = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    share = np.asarray(image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR))
    resized = share >= {"full": 255, "any": 1}.get(rule, 128)
    return resized if resized.any() else share == share.max()
