"""`Sample`, one image of a data set, and `Dataset`, what every reader offers."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import PIL.Image

Split = Literal["train", "test"]


class Sample(Protocol):
    """One image with what is known of it. Picklable; nothing is decoded before it is asked for."""

    @property
    def name(self) -> str:
        """Unique within the category, relative, with forward slashes and the suffix: "test/crack/003.png"."""

    @property
    def category(self) -> str:
        """The category, as shown in tables and handed to the model."""

    @property
    def label(self) -> int | None:
        """1 anomalous, 0 normal, None unknown."""

    @property
    def defect_type(self) -> str:
        """The folder or kind of the defect, "good" for a normal image, "" if unknown."""

    @property
    def fingerprint(self) -> str:
        """Changes when the image's content may have changed (a file's size and time, a rendering's seed)."""

    def load_image(self) -> PIL.Image.Image:
        """The image in RGB, as a person would see it (rotation, palette, transparency, 16 bit resolved)."""

    def load_mask(self) -> np.ndarray | None:
        """(H, W) bool of the image's own size: all False for a normal image, None where no mask is known."""


class Dataset(Protocol):
    """A data set with categories. Cheap to construct: lists files, decodes none.

    So that the doctor can list all that is wrong, a reader ends a run by `notices.refuse` where it could go on without
    the file, and may offer `unread(category)`: samples that it knows and that no run with its settings reads.
    """

    @property
    def name(self) -> str:
        """The name in tables and result files, for example "mvtec"."""

    @property
    def categories(self) -> Sequence[str]:
        """All categories, in the order of the tables."""

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made on this data set must carry: the mask rule, the split, the seed."""

    def train(self, category: str) -> Sequence[Sample]:
        """The normal images from which references are drawn. The zero-shot track never calls it."""

    def test(self, category: str) -> Sequence[Sample]:
        """The images to score."""
