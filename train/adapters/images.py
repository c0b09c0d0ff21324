"""The images that an adapter learns from, in batches, loaded ahead while the model works.

The only augmentation is a mosaic of four images in place of one (APRIL-GAN, section 4.1).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError
from tracks.run.loading import cut, load_ahead
from tracks.run.resize import resize_mask

Pair = tuple[PIL.Image.Image, np.ndarray]
"""An RGB image and its mask, (H, W) bool of the image's own size."""

TILES = 4


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
    mosaic: "Mosaic | None" = None
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


class Mosaic:
    """With probability `rate`, replaces a drawn sample by a 2 x 2 grid of its category.

    Each tile is drawn uniformly over the defect types (good being one), then uniformly over that type's images, so a
    rare defect is seen as often as a common one. Draws come from the generator handed in and nothing else: the same
    generator state gives the same picture in any thread.
    """

    def __init__(self, samples: Iterable[Sample], rate: float):
        if not 0 <= rate <= 1:
            raise TrackInputError(f"expected aug_rate between 0 and 1, got {rate}; the published rate is 0.2")
        self.rate = rate
        self._by_type: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for sample in samples:
            self._by_type[sample.category][sample.defect_type].append(sample)

    def draw(self, sample: Sample, generator: np.random.Generator) -> Pair:
        """The sample itself, or in its place a mosaic of its category."""
        if generator.random() >= self.rate:
            return read_pair(sample)
        return paste([read_pair(tile) for tile in self._tiles(sample.category, generator)])

    def _tiles(self, category: str, generator: np.random.Generator) -> list[Sample]:
        by_type = list(self._by_type[category].values())
        chosen = [by_type[generator.integers(len(by_type))] for _ in range(TILES)]
        return [samples[generator.integers(len(samples))] for samples in chosen]


def paste(tiles: Sequence[Pair]) -> Pair:
    """Four tiles row by row at their own size, (H, W) each to (2H, 2W); masks exactly as the images.

    A tile of another size than the first is first brought to the first's.
    """
    width, height = tiles[0][0].size
    image = PIL.Image.new("RGB", (2 * width, 2 * height))
    mask = np.zeros((2 * height, 2 * width), dtype=bool)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, 2)
        tile_image, tile_mask = _of_size(tile, (width, height))
        image.paste(tile_image, (column * width, row * height))
        mask[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile_mask
    return image, mask


def read_pair(sample: Sample) -> Pair:
    """The image of a sample and its mask.

    Raises:
        TrackInputError: no mask is known, or it is not of the image's size.
    """
    image, mask = sample.load_image(), sample.load_mask()
    where = f"{sample.category}/{sample.name}"
    if mask is None:
        raise TrackInputError(
            f"expected a mask for {where}, got none; the adapters learn from outlined defects, so add the mask, take "
            "the image away, or leave its category out with categories=[...]"
        )
    if mask.shape != (image.height, image.width):
        raise TrackInputError(
            f"expected the mask of {where} to be {image.height} x {image.width} (height x width) like its image, got "
            f"{' x '.join(map(str, mask.shape))}; save it at the image's own size"
        )
    return image, mask


def _of_size(tile: Pair, size: tuple[int, int]) -> Pair:
    image, mask = tile
    if image.size == size:
        return tile
    mask_image = PIL.Image.fromarray(mask.astype(np.uint8)).resize(size, PIL.Image.Resampling.NEAREST)
    return image.resize(size, PIL.Image.Resampling.BICUBIC), np.asarray(mask_image) > 0
