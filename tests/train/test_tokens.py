"""Cached tokens equal computed ones, are made once, continued after a kill, and bounded."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.support.train_stand_ins import FlatDataset, small_backbone
from tracks.errors import TrackInputError
from train.adapters.checkpoint import open_run
from train.adapters.config import TrainOptions
from train.adapters.images import Mosaic, TrainingImages
from train.adapters.source import plan_course
from train.adapters.token_cache import TokenCache, cache_key
from train.adapters.token_sources import CacheTooLargeError, check_room, open_sources, with_caches
from train.adapters.tokens import LiveTokens

BACKBONE = small_backbone()
SAMPLES = FlatDataset().test("plate")


def live(backbone=BACKBONE, samples=SAMPLES) -> LiveTokens:
    return LiveTokens(backbone, TrainingImages(samples, backbone.preprocess), "cpu")


def built(folder, batch_size: int = 3, **changed) -> TokenCache:
    cache = TokenCache(live(**changed), folder)
    cache.build(batch_size)
    return cache


def test_cached_tokens_equal_computed_ones(tmp_path):
    order = [7, 0, 3, 3, 5]
    computed, cached = (list(source.batches(order, 2)) for source in (live(), built(tmp_path)))
    assert [batch.categories for batch in cached] == [("plate", "plate"), ("plate", "plate"), ("plate",)]
    for ours, theirs in zip(cached, computed, strict=True):
        assert ours.features.grids == theirs.features.grids == ((4, 4), (4, 4))
        assert [stage.shape[1:] for stage in ours.features.stages] == [(16, 24), (16, 24)]
        assert_close(ours.features.embedding, theirs.features.embedding, atol=1e-3, rtol=1e-3)
        for stage, expected in zip(ours.features.stages, theirs.features.stages, strict=True):
            assert stage.dtype == torch.float32
            assert_close(stage, expected, atol=1e-3, rtol=1e-3)
        assert torch.equal(ours.masks, theirs.masks)
    assert sum(int(batch.masks.sum()) for batch in cached) > 0


def test_a_cache_is_built_once(tmp_path, monkeypatch):
    built(tmp_path)
    again = TokenCache(live(), tmp_path)
    assert again.layout.mask == (32, 32)
    monkeypatch.setattr(type(BACKBONE), "encode_image", lambda *_: pytest.fail("encoded again"))
    again.build(3)
    assert len(list(again.batches(range(8), 4))) == 2


def test_a_build_that_was_killed_is_continued_at_a_whole_batch(tmp_path):
    whole = {name: array.tobytes() for name, array in built(tmp_path / "whole").arrays.items()}
    cache = built(tmp_path / "killed")
    (cache.folder / "complete.json").unlink()
    for name, row in cache.layout.files.items():
        size = row.itemsize
        kept = 5 * size + size // 2 if name == "stage_0.f16" else 7 * size  # torn in the middle of a row
        with (cache.folder / name).open("r+b") as file:
            file.truncate(kept)
    seen = []
    continued = TokenCache(live(), tmp_path / "killed")
    encode = type(BACKBONE).encode_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(BACKBONE), "encode_image", lambda self, images: seen.append(len(images)) or encode(self, images)
        )
        continued.build(3)
    assert seen == [1, 3, 2]  # the shapes, then images 3 to 7
    assert {name: array.tobytes() for name, array in continued.arrays.items()} == whole


def test_the_key_follows_weights_images_and_settings():
    key = cache_key(live())
    assert cache_key(live()) == key
    assert cache_key(live(backbone=small_backbone())) == key
    others = [
        live(backbone=small_backbone(seed=1)),
        live(backbone=small_backbone(precision="bfloat16")),
        live(samples=SAMPLES[::-1]),
        live(samples=SAMPLES[1:]),
        live(samples=[replace(SAMPLES[0], size=(40, 32)), *SAMPLES[1:]]),
    ]
    assert len({key, *map(cache_key, others)}) == 6


def test_the_size_is_asked_before_anything_is_written(tmp_path):
    cache = TokenCache(live(), tmp_path / "cache")
    per_image = 2 * 16 + 2 * (2 * 16 * 24) + 32 * 32
    assert cache.layout.bytes_per_image == per_image
    exact = 8 * per_image / 1e9
    check_room([cache], tmp_path / "cache", exact)
    with pytest.raises(CacheTooLargeError, match="max_cache_gb"):
        check_room([cache, cache], tmp_path / "cache", exact * 1.9)
    assert not cache.folder.exists()
    cache.build(4)
    assert sum(path.stat().st_size for path in cache.folder.iterdir() if path.suffix != ".json") == 8 * per_image


def test_a_full_disk_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr("models.disk.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CacheTooLargeError, match=r"GB free in .*, for the token cache"):
        check_room([TokenCache(live(), tmp_path)], tmp_path, 1.0)


def test_too_large_is_an_error_or_with_auto_a_said_fallback(tmp_path, caplog):
    options = TrainOptions(cache="always", aug_rate=0, max_cache_gb=1e-9)
    with pytest.raises(CacheTooLargeError):
        with_caches([live()], options, tmp_path)
    sources, caches = with_caches([live()], replace(options, cache="auto"), tmp_path)
    assert caches == []
    assert isinstance(sources[0], LiveTokens)
    assert "cache=auto goes without a cache" in caplog.text


def test_tokens_beyond_float16_are_refused(tmp_path, monkeypatch):
    encode = type(BACKBONE).encode_image

    def huge(self, images):
        features = encode(self, images)
        return replace(features, stages=(features.stages[0], features.stages[1] + 1e6))

    monkeypatch.setattr(type(BACKBONE), "encode_image", huge)
    with pytest.raises(TrackInputError, match="65,504"):
        built(tmp_path)


@pytest.mark.parametrize(
    ("cache", "aug_rate", "kinds"),
    [
        ("auto", 0.0, (TokenCache, TokenCache)),
        ("auto", 0.2, (TokenCache, TokenCache)),
        ("always", 0.2, (TokenCache, TokenCache)),
        ("never", 0.0, (LiveTokens, LiveTokens)),
    ],
)
def test_only_what_nothing_random_touches_is_cached(tmp_path, cache, aug_rate, kinds):
    options = TrainOptions(target="mvtec", cache=cache, aug_rate=aug_rate, validation_categories=["tube"])
    course = plan_course(FlatDataset(), options)
    with open_sources(BACKBONE, course, options, tmp_path) as sources:
        assert tuple(map(type, sources)) == kinds
        assert [len(list(source.batches(range(8), 3))) for source in sources] == [3, 3]
        assert (tmp_path / "cache").is_dir() == any(kind is not LiveTokens for kind in kinds)
    assert not (tmp_path / "cache").exists()


def test_mosaics_are_encoded_and_everything_else_is_read(tmp_path, monkeypatch):
    images = TrainingImages(SAMPLES, BACKBONE.preprocess, Mosaic(SAMPLES, 0.4), seed=3)
    source = LiveTokens(BACKBONE, images, "cpu")
    order = [7, 0, 3, 5, 1, 2, 6, 4]
    computed = [list(source.batches(order, 3, epoch=epoch)) for epoch in (1, 2)]
    cache = TokenCache(source, tmp_path)
    cache.build(4)
    seen, encode = [], type(BACKBONE).encode_image
    monkeypatch.setattr(type(BACKBONE), "encode_image", lambda self, x: seen.append(len(x)) or encode(self, x))
    for epoch, expected in zip((1, 2), computed, strict=True):
        for ours, theirs in zip(cache.batches(order, 3, epoch=epoch), expected, strict=True):
            assert ours.categories == theirs.categories
            assert ours.features.grids == theirs.features.grids
            assert torch.equal(ours.masks, theirs.masks)
            for stage, other in zip(ours.features.stages, theirs.features.stages, strict=True):
                assert_close(stage, other, atol=1e-3, rtol=1e-3)
            assert_close(ours.features.embedding, theirs.features.embedding, atol=1e-3, rtol=1e-3)
    mosaics = sum(images.replaced(index, epoch) for epoch in (1, 2) for index in order)
    assert 0 < mosaics < 16
    assert sum(seen) == mosaics
    plain = TrainingImages(SAMPLES, BACKBONE.preprocess)
    for index in order:
        same = torch.equal(images.load(index, 1)[0], plain.load(index)[0])
        assert same != images.replaced(index, 1)


def test_the_cache_outlives_an_interruption_and_on_demand_the_end(tmp_path):
    options = TrainOptions(target="mvtec", aug_rate=0, keep_cache=True)
    course = plan_course(FlatDataset(), options)
    with pytest.raises(KeyboardInterrupt), open_sources(BACKBONE, course, options, tmp_path):
        raise KeyboardInterrupt
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with open_sources(BACKBONE, course, options, tmp_path):
        pass
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_trainings_that_share_a_cache_never_delete_what_the_other_reads(tmp_path, caplog):
    options = TrainOptions(target="mvtec", aug_rate=0, cache_dir=str(tmp_path / "shared"))
    course = plan_course(FlatDataset(), options)
    runs = [tmp_path / "one", tmp_path / "other"]
    for run in runs:
        run.mkdir()
    with open_sources(BACKBONE, course, options, runs[0]) as (mine, _):
        with open_sources(BACKBONE, course, options, runs[1]):
            pass
        assert f"stays: {runs[0]} still uses it" in caplog.text
        assert len(list(mine.batches(range(8), 3))) == 3
    assert not (tmp_path / "shared").exists()


def test_the_cache_of_a_training_that_was_broken_off_waits_for_it_while_its_folder_is_there(tmp_path):
    options = TrainOptions(target="mvtec", aug_rate=0, cache_dir=str(tmp_path / "shared"))
    course = plan_course(FlatDataset(), options)
    broken, other = tmp_path / "broken", tmp_path / "other"
    broken.mkdir()
    other.mkdir()
    with pytest.raises(KeyboardInterrupt), open_sources(BACKBONE, course, options, broken):
        raise KeyboardInterrupt
    with open_sources(BACKBONE, course, options, other):
        pass
    assert len(list((tmp_path / "shared").iterdir())) == 1
    broken.rmdir()
    with open_sources(BACKBONE, course, options, other):
        pass
    assert not (tmp_path / "shared").exists()


def test_a_cache_in_the_making_is_waited_for_and_not_made_again(tmp_path, monkeypatch, caplog):
    first, second = TokenCache(live(), tmp_path, tmp_path / "one"), TokenCache(live(), tmp_path, tmp_path / "other")
    encoded, encode = [], type(BACKBONE).encode_image
    assert first.layout == second.layout  # one image each

    def slow(self, images):
        time.sleep(0.05)
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(type(BACKBONE), "encode_image", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda cache: cache.build(3), (first, second)))
    assert sum(encoded) == 8
    assert "another process is at the token cache" in caplog.text


def test_fresh_leaves_a_cache_in_its_folder_that_another_training_reads(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    open_run(one, {"trained_on": "flat"})
    other.mkdir()
    for user in (one, other):
        TokenCache(live(), one / "cache", user).build(3)
    open_run(one, {"trained_on": "flat"}, fresh=True)
    assert len(list((one / "cache").iterdir())) == 1
    TokenCache(live(), one / "cache", other).delete()
    assert not (one / "cache").exists()
