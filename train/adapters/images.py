"""The images that an adapter learns from, in batches, loaded ahead while the model works."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from tracks.datasets.sample import Sample
from tracks.run.loading import cut, load_ahead
from tracks.run.resize import resize_mask
from train.adapters.augment import Mosaic, read_pair


@dataclass(frozen=True)
class ImageBatch:
    """B preprocessed images (B, 3, h, w), their masks (B, h, w) bool and their categories."""

    images: Tensor
    masks: Tensor
    categories: tuple[str, ...]


@dataclass(frozen=True)
class TrainingImages:
    """Samples with masks, as tensors of the backbone's size; `mosaic` may replace one by a grid of four.

    What is drawn for an image depends on (seed, epoch, index) alone, so a run that was resumed, or one with another
    number of workers, sees the same pictures.
    """

    samples: Sequence[Sample]
    preprocess: Callable[[PIL.Image.Image], Tensor] = field(repr=False)
    mosaic: Mosaic | None = None
    seed: int = 0

    def replaced(self, index: int, epoch: int) -> bool:
        """Whether a mosaic takes the place of a sample in this epoch."""
        return self.mosaic is not None and self._random(index, epoch).random() < self.mosaic.rate

    def load(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Image (3, h, w) and mask (h, w) bool of one sample, or of the mosaic in its place."""
        sample = self.samples[index]
        if self.mosaic is None:
            image, mask = read_pair(sample)
        else:
            image, mask = self.mosaic.draw(sample, self._random(index, epoch))
        tensor = self.preprocess(image)
        size = (int(tensor.shape[-2]), int(tensor.shape[-1]))
        return tensor, torch.from_numpy(np.ascontiguousarray(resize_mask(mask, size)))

    def batches(
        self, order: Sequence[int], batch_size: int, *, epoch: int = 0, workers: int = 2
    ) -> Iterator[ImageBatch]:
        """The samples of `order` in batches, the last one kept though it may be small."""
        return self.groups(cut(order, batch_size), epoch=epoch, workers=workers)

    def groups(self, groups: Sequence[Sequence[int]], *, epoch: int = 0, workers: int = 2) -> Iterator[ImageBatch]:
        """A batch of each group of samples."""
        for indices, pairs in load_ahead(groups, lambda index: self.load(index, epoch), workers):
            yield ImageBatch(
                images=torch.stack([image for image, _ in pairs]),
                masks=torch.stack([mask for _, mask in pairs]),
                categories=tuple(self.samples[index].category for index in indices),
            )

    def _random(self, index: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, index))


def epoch_order(num_images: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch goes through the images: a permutation fixed by (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(num_images).tolist()
