"""The mosaic, and the images as batches of tensors."""

from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from tests.support.train_stand_ins import FlatDataset, FlatSample
from tracks.errors import TrackInputError
from train.adapters.images import Mosaic, TrainingImages, epoch_order, paste, read_pair


def to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    pixels = np.array(image.resize((16, 16), PIL.Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def plain(value: int, size: tuple[int, int] = (4, 6)) -> tuple[PIL.Image.Image, np.ndarray]:
    """An image of one grey value, with one defect pixel at (row 1, column 2)."""
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[1, 2] = True
    return PIL.Image.new("RGB", size, (value, value, value)), mask


def test_paste_puts_four_tiles_row_by_row_and_masks_alike():
    image, mask = paste([plain(10), plain(20), plain(30), plain(40)])
    pixels = np.asarray(image)[:, :, 0]
    assert pixels.shape == mask.shape == (12, 8)
    expected = np.block([[np.full((6, 4), 10), np.full((6, 4), 20)], [np.full((6, 4), 30), np.full((6, 4), 40)]])
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(np.argwhere(mask), [[1, 2], [1, 6], [7, 2], [7, 6]])


def test_paste_brings_other_sizes_to_the_first():
    image, mask = paste([plain(10), plain(20, (8, 12)), plain(30), plain(40)])
    pixels = np.asarray(image)[:, :, 0]
    assert pixels.shape == mask.shape == (12, 8)
    assert (pixels[:6, 4:] == 20).all()


def test_rate_is_the_share_of_mosaics():
    samples = FlatDataset().test("plate")
    mosaic = Mosaic(samples, rate=0.2)
    sizes = [mosaic.draw(samples[0], np.random.default_rng((0, 0, i)))[0].size for i in range(500)]
    assert set(sizes) == {(32, 32), (64, 64)}
    assert 70 <= sizes.count((64, 64)) <= 130  # binomial(500, 0.2): mean 100, 3.4 standard deviations


@pytest.mark.parametrize(("rate", "size"), [(0.0, (32, 32)), (1.0, (64, 64))])
def test_rate_0_and_1(rate, size):
    samples = FlatDataset().test("plate")
    draws = [Mosaic(samples, rate).draw(samples[0], np.random.default_rng(i))[0].size for i in range(20)]
    assert set(draws) == {size}


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rate_out_of_range_is_refused(rate):
    with pytest.raises(TrackInputError, match="aug_rate between 0 and 1"):
        Mosaic([], rate)


def test_tiles_are_uniform_over_defect_types_then_over_files_of_the_same_category():
    dataset = FlatDataset(good=10, blots=4, holes=1)
    samples = [sample for category in dataset.categories for sample in dataset.test(category)]
    mosaic = Mosaic(samples, rate=1.0)
    generator = np.random.default_rng(0)
    tiles = [tile for _ in range(600) for tile in mosaic._tiles("tube", generator)]
    assert {tile.category for tile in tiles} == {"tube"}
    types = Counter(tile.defect_type for tile in tiles)
    assert all(720 <= types[kind] <= 880 for kind in ("good", "blot", "hole"))  # mean 800, deviation 23
    goods = Counter(tile.index for tile in tiles if tile.defect_type == "good")
    assert len(goods) == 10
    assert max(goods.values()) < 2 * min(goods.values())


def test_masks_of_a_mosaic_lie_on_the_defects():
    samples = FlatDataset(good=0, holes=0).test("plate")
    image, mask = Mosaic(samples, 1.0).draw(samples[0], np.random.default_rng(3))
    np.testing.assert_array_equal(np.asarray(image)[:, :, 0] == 220, mask)


def test_read_pair_refuses_a_missing_mask_and_one_of_another_size():
    with pytest.raises(TrackInputError, match=r"expected a mask for plate/test/blot/000\.png, got none"):
        read_pair(FlatSample("plate", 0, "blot", masked=False))

    class Odd(FlatSample):
        def load_mask(self):
            return np.zeros((3, 5), dtype=bool)

    with pytest.raises(TrackInputError, match=r"32 x 32 \(height x width\) like its image, got 3 x 5"):
        read_pair(Odd("plate", 0))


def images(rate: float = 0.5, seed: int = 0) -> TrainingImages:
    samples = FlatDataset().test("plate")
    return TrainingImages(samples, to_tensor, Mosaic(samples, rate) if rate else None, seed)


def test_batches_keep_the_order_and_the_small_last_batch():
    source = images(rate=0)
    order = [5, 0, 7, 2, 4, 1, 6]
    batches = list(source.batches(order, 3))
    assert [len(batch.categories) for batch in batches] == [3, 3, 1]
    stacked = torch.cat([batch.images for batch in batches])
    assert stacked.shape == (7, 3, 16, 16)
    for position, index in enumerate(order):
        assert_close(stacked[position], to_tensor(source.samples[index].load_image()))
    masks = torch.cat([batch.masks for batch in batches])
    assert masks.dtype == torch.bool
    assert [bool(mask.any()) for mask in masks] == [source.samples[index].label == 1 for index in order]


def test_the_number_of_workers_changes_nothing():
    one, four = (list(images().batches(range(8), 3, epoch=2, workers=workers)) for workers in (1, 4))
    for first, second in zip(one, four, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.masks, second.masks)


def test_draws_follow_from_seed_epoch_and_index_alone():
    def drawn(source: TrainingImages, epoch: int) -> torch.Tensor:
        return torch.stack([source.load(index, epoch)[0] for index in range(8)])

    assert torch.equal(drawn(images(seed=1), 3), drawn(images(seed=1), 3))
    assert torch.equal(drawn(images(seed=1), 3)[5], images(seed=1).load(5, 3)[0])
    assert not torch.equal(drawn(images(seed=1), 3), drawn(images(seed=1), 4))
    assert not torch.equal(drawn(images(seed=1), 3), drawn(images(seed=2), 3))


def test_an_error_in_a_worker_keeps_its_one_paragraph():
    samples = FlatDataset(masked=False).test("plate")
    with pytest.raises(TrackInputError) as caught:
        list(TrainingImages(samples, to_tensor).batches(range(8), 3))
    assert str(caught.value).startswith("expected a mask for plate/")
    assert "\n" not in str(caught.value)


def test_epoch_order_is_a_permutation_fixed_by_seed_and_epoch():
    assert sorted(epoch_order(50, 0, 0)) == list(range(50))
    assert epoch_order(50, 0, 1) == epoch_order(50, 0, 1)
    assert epoch_order(50, 0, 0) != epoch_order(50, 0, 1)
    assert epoch_order(50, 0, 1) != epoch_order(50, 1, 0)
