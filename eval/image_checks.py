"""What the scorer accepts as one image, and the errors, naming the image, for everything else."""

import math
from dataclasses import dataclass

import numpy as np

from eval.errors import ScoringInputError


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """One image that can be scored: `label` 1, 0 or None if unknown; `mask` (H, W) bool or None if unknown.

    Label and mask have been made good from each other: an unlabelled image with a mask is what its mask says, a
    normal image without a mask has no defect pixel. Both are None only if neither was known.
    """

    anomaly_map: np.ndarray
    mask: np.ndarray | None
    image_score: float
    label: int | None


def check_image(
    anomaly_map: np.ndarray, mask: np.ndarray | None, image_score: float, label: int | None, name: str
) -> CheckedImage:
    """Check one image and complete its label and mask from each other; `name` is for the errors.

    Raises:
        ScoringInputError: for a map that is not (H, W) finite float, a score that is not finite, a label other than
            1, 0 and None, a mask that is not bool of the map's shape or that contradicts the label.
    """
    _check_map(anomaly_map, name)
    if not math.isfinite(image_score):
        raise ScoringInputError(
            f"Image {name}: expected a finite image score, got {image_score}. Mend what made it: it has no rank."
        )
    if label not in (None, 0, 1):
        raise ScoringInputError(
            f"Image {name}: expected label 1 (anomalous), 0 (normal) or None (unknown), got {label!r}. "
            "Turn the data set's own labels into these first."
        )
    if mask is not None:
        _check_mask(mask, anomaly_map.shape, name)
        _check_agreement(mask, label, name)
    if label is None and mask is not None:
        label = int(mask.any())
    elif label == 0 and mask is None:
        mask = np.zeros(anomaly_map.shape, dtype=bool)
    return CheckedImage(anomaly_map, mask, float(image_score), None if label is None else int(label))


def _check_map(anomaly_map: np.ndarray, name: str) -> None:
    if not isinstance(anomaly_map, np.ndarray) or anomaly_map.dtype.kind != "f":
        raise ScoringInputError(
            f"Image {name}: expected the anomaly map as a numpy array of floats, got {_kind_of(anomaly_map)}. "
            "Convert it first, for example with tensor.float().numpy() or array.astype(np.float32)."
        )
    if anomaly_map.ndim != 2 or not anomaly_map.size:
        raise ScoringInputError(
            f"Image {name}: expected a 2-D anomaly map (height, width) with pixels, got shape {anomaly_map.shape}. "
            "Hand over one map at a time, without batch or channel axis."
        )
    if not np.isfinite(anomaly_map).all():
        bad = int(np.count_nonzero(~np.isfinite(anomaly_map)))
        raise ScoringInputError(
            f"Image {name}: expected a finite anomaly map, got {bad} of {anomaly_map.size} values NaN or infinite. "
            "Mend what made the map: such pixels have no rank, and a metric computed around them would mislead."
        )


def _check_mask(mask: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise ScoringInputError(
            f"Image {name}: expected a bool mask, True where there is a defect, got {_kind_of(mask)}. "
            "Compare it with the threshold its data set states: mask > 0, or mask > 127 for soft masks."
        )
    if mask.shape != shape:
        raise ScoringInputError(
            f"Image {name}: expected a mask of the map's shape {shape}, got {mask.shape}. "
            "Resize the map to the mask, or both to the resolution the protocol states, before scoring."
        )


def _check_agreement(mask: np.ndarray, label: int | None, name: str) -> None:
    if label == 1 and not mask.any():
        raise ScoringInputError(
            f"Image {name}: expected a defect in an image labelled anomalous, got a mask with no defect pixel. "
            "Correct the label or the mask, or give None as the mask if it is not known."
        )
    if label == 0 and mask.any():
        raise ScoringInputError(
            f"Image {name}: expected no defect in an image labelled normal, got a mask with {int(mask.sum())} defect "
            "pixels. Correct the label or the mask."
        )


def _kind_of(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"{type(value).__module__}.{type(value).__qualname__}"
