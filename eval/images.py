"""What the scorer accepts as one image, and the errors, naming the image, for everything else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.errors import ScoringInputError


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """One image that can be scored: `label` 1, 0 or None if unknown; `mask` (H, W) bool or None if unknown.

    Label and mask have been inferred from each other: an unlabelled image with a mask is what its mask says, a
    normal image without a mask has no defect pixel. Both are None only if neither was known.
    """

    anomaly_map: np.ndarray
    mask: np.ndarray | None
    image_score: float
    label: int | None
    defect_type: str = ""


class ImageFacts:
    """The image scores, labels and defect types of a category, and which of its images cannot be counted."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.defect_types: list[str] = []
        self.num_unlabelled = 0
        self.num_without_mask = 0

    def __len__(self) -> int:
        return len(self.labels) + self.num_unlabelled

    def add(self, image: CheckedImage) -> None:
        """Take note of one image."""
        if image.label is None:
            self.num_unlabelled += 1
            return
        self.scores.append(image.image_score)
        self.labels.append(image.label)
        self.defect_types.append(image.defect_type if image.label else "")
        self.num_without_mask += image.mask is None

    def merge(self, other: "ImageFacts") -> None:
        """Add the images of `other` behind these."""
        self.scores += other.scores
        self.labels += other.labels
        self.defect_types += other.defect_types
        self.num_unlabelled += other.num_unlabelled
        self.num_without_mask += other.num_without_mask


class CheckedImages:
    """N images of one category, each checked whenever it is asked for; `maps` are as they were given.

    Args:
        maps, masks, image_scores, labels, names, defect_types: one of each for each image, as `check_image` takes them;
            the last three may be None.
        first: the number of the first image, for errors about images without a name.

    Raises:
        ScoringInputError: for sequences of unlike lengths.
    """

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None],
        image_scores: Sequence[float],
        labels: Sequence[int | None] | None = None,
        names: Sequence[str] | None = None,
        defect_types: Sequence[str] | None = None,
        first: int = 1,
    ) -> None:
        number = len(maps)
        labels = [None] * number if labels is None else labels
        names = [""] * number if names is None else names
        types = [""] * number if defect_types is None else defect_types
        columns = {"masks": masks, "image scores": image_scores, "labels": labels, "names": names, "types": types}
        lengths = {what: _length(column) for what, column in columns.items()}
        if set(lengths.values()) - {number}:
            counted = ", ".join(f"{'no' if length < 0 else length} {what}" for what, length in lengths.items())
            raise ScoringInputError(
                f"Expected one of each for each of {number} maps, got {counted}. Use None for what is unknown."
            )
        self.maps, self._first = maps, first
        self._masks, self._scores, self._labels, self._names, self._types = masks, image_scores, labels, names, types

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int) -> tuple[CheckedImage, str]:
        """The i-th image and its name; raises as `check_image`."""
        name = self._names[i] or f"number {self._first + i}"
        image = check_image(self.maps[i], self._masks[i], self._scores[i], self._labels[i], name, self._types[i])
        return image, name


def _length(column: Sequence[object] | None) -> int:
    """How many entries a sequence has; -1 if it is none, or a single text."""
    try:
        return -1 if isinstance(column, str) else len(column)  # type: ignore[arg-type]
    except TypeError:
        return -1


def check_image(
    anomaly_map: np.ndarray, mask: np.ndarray | None, image_score: float, label: int | None, name: str,
    defect_type: str = "",
) -> CheckedImage:  # fmt: skip
    """Check one image and complete its label and mask from each other; `name` is for the errors.

    The values of the map are not looked at: they are checked while they are counted, see `not_finite`.

    Raises:
        ScoringInputError: for a map that is not (H, W) float, a score that is not finite, a label other than 1, 0 and
            None, a mask that is not bool, or 0 and 1, of the map's shape, or that contradicts the label.
    """
    _check_map(anomaly_map, name)
    if not _is_finite(image_score):
        raise ScoringInputError(
            f"Image {name}: expected a finite image score, got {image_score}. Mend what made it: it has no rank."
        )
    if np.ndim(label) or label not in (None, 0, 1):  # type: ignore[arg-type]
        raise ScoringInputError(
            f"Image {name}: expected label 1 (anomalous), 0 (normal) or None (unknown), got {label!r}. "
            "Turn the data set's own labels into these first."
        )
    if mask is not None:
        mask = _checked_mask(mask, anomaly_map.shape, name)
        _check_agreement(mask, label, name)
    if label is None and mask is not None:
        label = int(mask.any())
    elif label == 0 and mask is None:
        mask = np.zeros(anomaly_map.shape, dtype=bool)
    return CheckedImage(anomaly_map, mask, float(image_score), None if label is None else int(label), defect_type)


def not_finite(anomaly_map: np.ndarray, name: str) -> ScoringInputError | None:
    """The error for a map with NaN or inf; None if there is none."""
    bad = int(np.count_nonzero(~np.isfinite(anomaly_map)))
    if not bad:
        return None
    return ScoringInputError(
        f"Image {name}: expected a finite anomaly map, got {bad} of {anomaly_map.size} values NaN or infinite. "
        "Mend what made the map: such pixels have no rank, and a metric computed around them would mislead."
    )


def _is_finite(image_score: float) -> bool:
    try:
        return math.isfinite(image_score)
    except TypeError:  # no number at all
        return False


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


def _checked_mask(mask: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    is_array = isinstance(mask, np.ndarray)
    if not is_array or (mask.dtype != np.bool_ and (mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all())):
        raise ScoringInputError(
            f"Image {name}: expected a mask of bool, or of 0 and 1, True where there is a defect, got {_kind_of(mask)}"
            f"{_other_values(mask)}. Compare it with the threshold its data set states: mask > 0, or mask > 127 for "
            "soft masks."
        )
    if mask.shape != shape:
        raise ScoringInputError(
            f"Image {name}: expected a mask of the map's shape {shape}, got {mask.shape}. "
            "Resize the map to the mask, or both to the resolution the protocol states, before scoring."
        )
    return mask.astype(bool, copy=False)


def _other_values(mask: object) -> str:
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iuf":
        return ""
    return f" with values such as {mask[~np.isin(mask, (0, 1))].ravel()[0]}"


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
