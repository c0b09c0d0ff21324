"""Boxes to outlines, SAA+ Eq. 2: what an anomaly region refiner is."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from models.errors import ModelInputError


class Outliner(Protocol):
    """Outlines boxes of one image, whose encoding it holds."""

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes (x0, y0, x1, y1) in pixels of the image to (N, H, W) bool on the boxes' device."""
        ...


@runtime_checkable
class ObjectOutliner(Outliner, Protocol):
    """An outliner that outlines whole objects in another way than it outlines defects."""

    def object_masks(self, boxes: Tensor) -> Tensor:
        """As `masks`, for the boxes of objects."""
        ...


@runtime_checkable
class RegionRefiner(Protocol):
    """Makes an `Outliner` for an image."""

    def outline(self, image: Tensor) -> Outliner:
        """An outliner of a (3, H, W) uint8 image. Nothing is encoded before the first box is asked for."""
        ...

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this refiner must carry."""
        ...


def check_boxes(boxes: Tensor) -> None:
    """Refuse anything but finite (N, 4) boxes."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
        raise ModelInputError(
            f"expected finite boxes (x0, y0, x1, y1) of shape (N, 4), got {tuple(boxes.shape)}"
            f"{'' if boxes.isfinite().all() else ' with NaN or infinity among them; the weights may be damaged'}"
        )
