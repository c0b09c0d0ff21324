"""The only augmentation: a mosaic of four images in place of one (APRIL-GAN, section 4.1)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image

from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError

Pair = tuple[PIL.Image.Image, np.ndarray]
"""An RGB image and its mask, (H, W) bool of the image's own size."""

TILES = 4


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
