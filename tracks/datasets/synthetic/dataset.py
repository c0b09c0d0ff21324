"""`Synthetic`: the rendered products as a data set like any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL.Image

from tracks.datasets.synthetic.products import (
    DEFECTS,
    HELD_OUT_KINDS,
    INVENTED,
    PRODUCTS,
    SOURCE,
    TARGET,
    VALIDATION,
    Split,
    kinds_of,
)
from tracks.datasets.synthetic.rendering import Rendering, render
from tracks.errors import TrackInputError

RENDERER_VERSION = 1
"""Raise it with every change that alters images: predictions stored for older ones must not be taken up again."""

_SPLITS: dict[str, tuple[str, ...]] = {"source": SOURCE, "validation": VALIDATION, "target": TARGET}


@lru_cache(maxsize=4)
def _rendered(category: str, seed: int, variant: int, index: int, defect: str | None, size: int) -> Rendering:
    """`render`, remembering the last few so that an image and its mask are drawn once."""
    return render(category, seed=seed, variant=variant, index=index, defect=defect, size=size)


@dataclass(frozen=True)
class SyntheticSample:
    """One image of the synthetic data set: the numbers it is drawn from, nothing drawn yet."""

    name: str
    category: str
    seed: int
    index: int
    defect: str | None
    size: int
    variant: int = 0

    @property
    def label(self) -> int:
        """1 anomalous, 0 normal."""
        return int(self.defect is not None)

    @property
    def defect_type(self) -> str:
        """The kind of the defect, "good" for a normal image."""
        return self.defect or "good"

    @property
    def fingerprint(self) -> str:
        """The renderer's version and every number that the image depends on."""
        parts = (RENDERER_VERSION, self.category, self.seed, self.variant, self.index, self.defect_type, self.size)
        return "synthetic:" + ":".join(str(part) for part in parts)

    def _render(self) -> Rendering:
        return _rendered(self.category, self.seed, self.variant, self.index, self.defect, self.size)

    def load_image(self) -> PIL.Image.Image:
        """The image in RGB."""
        return PIL.Image.fromarray(self._render().image)

    def load_mask(self) -> np.ndarray:
        """(H, W) bool: what the defect changed visibly, all False for a normal image."""
        return self._render().mask.copy()


class Synthetic:
    """Rendered products with planted defects; satisfies `tracks.datasets.sample.Dataset`.

    `split` chooses the categories: "source" to train on, "validation" to choose by, "target" to report on.
    They share no product, and the kinds in `HELD_OUT_KINDS` never occur in "source".
    """

    name = "synthetic"

    def __init__(
        self,
        split: Split = "target",
        seed: int = 0,
        image_size: int = 256,
        *,
        train_per_category: int = 16,
        test_normal: int = 20,
        test_per_kind: int = 4,
        kinds_per_category: int = 6,
    ) -> None:
        """Choose a split; the counts are images per category (and, for `test_per_kind`, per defect kind)."""
        if split not in _SPLITS:
            raise TrackInputError(
                f"The synthetic data set's split must be one of {', '.join(_SPLITS)}; got {split!r}. "
                "The scored one is split=target."
            )
        counts = {"train_per_category": train_per_category, "test_normal": test_normal, "test_per_kind": test_per_kind}
        for word, count in counts.items():
            if count < 0:
                raise TrackInputError(f"The synthetic data set's {word} must be 0 or more; got {count}.")
        self.split, self.seed, self.image_size = split, seed, image_size
        self.train_per_category, self.test_normal, self.test_per_kind = train_per_category, test_normal, test_per_kind
        self.kinds_per_category = kinds_per_category

    @property
    def categories(self) -> Sequence[str]:
        """All categories of the split, in the order of the tables."""
        return _SPLITS[self.split]

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a number on this data set depends on."""
        return {
            "data": "synthetic",
            "data_version": RENDERER_VERSION,
            "split": self.split,
            "data_seed": self.seed,
            "image_size": self.image_size,
            "mask_rule": "visible change",
        }

    def kinds(self, category: str) -> tuple[str, ...]:
        """The defect kinds in a category's test images: up to half held-out ones, then a fixed choice of others.

        Among the others is one that only such a product can have, where there is one (a missing instance).
        """
        possible, count = kinds_of(category), self.kinds_per_category
        turn = [*sorted(set(PRODUCTS) - set(INVENTED)), *sorted(INVENTED)].index(category)
        unseen = [kind for kind in possible if kind in HELD_OUT_KINDS]
        known = [kind for kind in possible if kind not in HELD_OUT_KINDS]
        own = [kind for kind in known if DEFECTS[kind].needs != "any"][-1:]
        general = [kind for kind in known if DEFECTS[kind].needs == "any"]
        chosen = _every_so_often(unseen, turn, count // 2) + own
        chosen += _every_so_often(general, turn, count - len(chosen))
        return tuple(kind for kind in possible if kind in chosen)

    def train(self, category: str) -> Sequence[SyntheticSample]:
        """The normal images from which references are drawn."""
        self._check(category)
        return [self._sample("train", category, index, None, index) for index in range(self.train_per_category)]

    def test(self, category: str) -> Sequence[SyntheticSample]:
        """Normal images, then those of each defect kind."""
        self._check(category)
        first = 10_000
        samples = [self._sample("test", category, n, None, first + n) for n in range(self.test_normal)]
        for block, kind in enumerate(self.kinds(category), start=2):
            at = block * first
            samples += [self._sample("test", category, n, kind, at + n) for n in range(self.test_per_kind)]
        return samples

    def _sample(self, part: str, category: str, number: int, defect: str | None, index: int) -> SyntheticSample:
        name = f"{part}/{defect or 'good'}/{number:03d}.png"
        return SyntheticSample(name, category, self.seed, index, defect, self.image_size)

    def _check(self, category: str) -> None:
        if category not in self.categories:
            raise TrackInputError(
                f"The synthetic data set's {self.split} split has no category {category!r}. "
                f"Choose one of: {', '.join(self.categories)}."
            )


def _every_so_often(names: Sequence[str], turn: int, count: int) -> list[str]:
    """`count` of the names, spread over the list, starting at another one for each `turn`."""
    count = min(count, len(names))
    return [names[(turn * 3 + k * len(names) // max(count, 1)) % len(names)] for k in range(count)]
