"""The renderer: reproducible, truthful masks, products and kinds that stay apart."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from tracks.datasets.synthetic import (
    DEFECT_KINDS,
    HELD_OUT_KINDS,
    SOURCE,
    SOURCE_KINDS,
    TARGET,
    VALIDATION,
    kinds_of,
    render,
)
from tracks.datasets.synthetic.products import DEFECTS, PRODUCTS
from tracks.datasets.synthetic.rendering import seen_change
from tracks.errors import TrackInputError

ROOT = Path(__file__).parents[3]
EVERY = SOURCE + VALIDATION + TARGET
MARKS = [
    kind
    for kind, defect in DEFECTS.items()
    if defect.needs == "any" and defect.make.__module__.endswith("surface_defects")
]


def test_splits_share_no_category_and_no_generator() -> None:
    assert len(SOURCE) >= 18
    assert len(VALIDATION) >= 4
    assert len(TARGET) >= 8
    assert len(set(EVERY)) == len(EVERY) == len(PRODUCTS)
    assert len({product.draw for product in PRODUCTS.values()}) == len(PRODUCTS)
    modules = [{PRODUCTS[name].draw.__module__ for name in split} for split in (SOURCE, VALIDATION, TARGET)]
    assert not modules[0] & modules[1]
    assert not modules[0] & modules[2]
    assert not modules[1] & modules[2]


def test_each_split_has_surfaces_objects_and_several_instances() -> None:
    for split in (SOURCE, VALIDATION, TARGET):
        traits = [PRODUCTS[name].traits for name in split]
        assert all(any(word in trait for trait in traits) for word in ("surface", "object", "several"))
        assert all(("surface" in trait) != ("object" in trait) for trait in traits)


def test_held_out_kinds_never_reach_the_source_split() -> None:
    assert len(DEFECT_KINDS) >= 14
    assert len(HELD_OUT_KINDS) >= 4
    assert set(SOURCE_KINDS) | set(HELD_OUT_KINDS) == set(DEFECT_KINDS)
    assert {kind for name in SOURCE for kind in kinds_of(name)} == set(SOURCE_KINDS)
    assert {kind for name in TARGET for kind in kinds_of(name)} == set(DEFECT_KINDS)
    with pytest.raises(TrackInputError, match=r"no defect kind 'fibre'.*scratch"):
        render("leather", seed=0, variant=0, index=0, defect="fibre")


@pytest.mark.parametrize("category", EVERY)
def test_normal_image(category: str) -> None:
    made = render(category, seed=0, variant=3, index=1, defect=None, size=128)
    assert made.image.shape == (128, 128, 3)
    assert made.image.dtype == np.uint8
    assert made.mask.shape == (128, 128)
    assert made.mask.dtype == bool
    assert not made.mask.any()
    assert made.defect_kind == "good"
    assert made.image.std() > 1, "a picture of nothing"
    clipped = ((made.image <= 2) | (made.image >= 253)).all(axis=2).mean()
    assert clipped < 0.9


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_mask_is_where_the_picture_changed(kind: str) -> None:
    fitting = [name for name in EVERY if kind in kinds_of(name)]
    for index, category in enumerate(fitting[:: max(len(fitting) // 4, 1)]):
        normal = render(category, seed=1, variant=index, index=index, defect=None)
        broken = render(category, seed=1, variant=index, index=index, defect=kind)
        assert broken.defect_kind == kind
        assert 0.0004 <= broken.mask.mean() <= 0.30
        change = np.abs(broken.image.astype(float) - normal.image).max(axis=2)
        inside, outside = change[broken.mask].mean(), change[~binary_dilation(broken.mask, iterations=12)]
        assert inside > 6, f"{kind} on {category} changes its mask by {inside} of 255 only"
        # Compression spreads a little of a change over its 16 x 16 block; fading edges stay under the threshold.
        assert outside.mean() < 2, f"{kind} on {category} changes the picture beyond its mask"
        assert np.quantile(outside, 0.995) < 16


@pytest.mark.parametrize("kind", MARKS)
def test_marks_stay_on_the_object(kind: str) -> None:
    category = "battery" if kind in HELD_OUT_KINDS else "washer"
    broken = render(category, seed=0, variant=0, index=3, defect=kind).image.astype(float)
    normal = render(category, seed=0, variant=0, index=3, defect=None).image.astype(float)
    corners = np.r_[:24, -24:0]
    assert np.abs(broken - normal)[np.ix_(corners, corners)].max() < 12


def test_every_product_takes_every_kind_it_claims() -> None:
    for number, category in enumerate(EVERY):
        for kind in kinds_of(category)[number % 3 :: 3]:
            mask = render(category, seed=2, variant=number, index=0, defect=kind, size=96).mask
            assert mask.sum() >= 12, f"{kind} on {category}"


def test_areas_span_small_and_large() -> None:
    shares = [
        render("concrete", seed=0, variant=n, index=n, defect=kind, size=128).mask.mean()
        for kind in ("colour_change", "foreign_texture", "pit")
        for n in range(12)
    ]
    assert min(shares) < 0.004
    assert max(shares) > 0.08


def test_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from tracks.datasets.synthetic import render\n"
        "for c, k in (('beads', 'crack'), ('denim', 'fold'), ('gear', None)):\n"
        "    r = render(c, seed=4, variant=2, index=9, defect=k)\n"
        "    print(hashlib.sha256(r.image.tobytes() + r.mask.tobytes()).hexdigest())\n"
    )
    runs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
        )
        runs.append(done.stdout)
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 3


def test_only_what_has_a_place_can_be_missing() -> None:
    able = {name for name in EVERY if "missing_instance" in kinds_of(name)}
    assert {"candles", "tablets", "ball_bearing"} <= able
    assert not able & {"beads", "almonds"}, "scattered things are as many as they are"


def test_each_number_changes_the_image() -> None:
    start = {"seed": 0, "variant": 0, "index": 0}
    images = [render("bracket", defect=None, **start).image]
    images += [render("bracket", defect=None, **{**start, name: 1}).image for name in start]
    for at, first in enumerate(images):
        for second in images[at + 1 :]:
            assert (first != second).mean() > 0.2


def test_variant_changes_the_look_more_than_the_index() -> None:
    def colour(variant: int, index: int) -> np.ndarray:
        return render("leather", seed=0, variant=variant, index=index, defect=None, size=64).image.mean(axis=(0, 1))

    within = np.std([colour(0, n) for n in range(6)], axis=0).mean()
    between = np.std([colour(n, 0) for n in range(6)], axis=0).mean()
    assert between > 3 * within


@pytest.mark.parametrize("size", [32, 100, 320])
def test_other_sizes(size: int) -> None:
    for category, kind in (("washer", "dent"), ("candles", "missing_instance"), ("denim", "missing_line")):
        made = render(category, seed=0, variant=0, index=0, defect=kind, size=size)
        assert made.image.shape == (size, size, 3)
        assert made.mask.shape == (size, size)
        assert made.mask.sum() >= 12


def test_seen_change_on_planted_differences() -> None:
    before = np.full((64, 64, 3), 0.5, np.float32)
    after = before.copy()
    after[10:20, 10:20, 1] += 0.2
    after[40:50, 40:50] += 0.01
    truth = np.zeros((64, 64), bool)
    truth[10:20, 10:20] = True
    np.testing.assert_array_equal(seen_change(before, after), truth)
    after[14:16, 14:16] = 0.5
    np.testing.assert_array_equal(seen_change(before, after), truth)


def test_a_size_too_small_and_an_unknown_category_are_named() -> None:
    with pytest.raises(TrackInputError, match=r"at least 32 pixels a side, got 16"):
        render("washer", seed=0, variant=0, index=0, defect=None, size=16)
    with pytest.raises(TrackInputError, match=r"no category 'bottle'.*washer"):
        render("bottle", seed=0, variant=0, index=0, defect=None)


def test_rendering_is_quick() -> None:
    start = time.process_time()
    for number, category in enumerate(TARGET):
        render(category, seed=0, variant=0, index=number, defect="stain")
    assert (time.process_time() - start) / len(TARGET) < 0.5
