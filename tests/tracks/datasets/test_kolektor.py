"""KolektorSDD2 and KolektorSDD, whose labels stand in their masks alone."""

import logging
import shutil
from pathlib import Path

import pytest

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.ksdd import KSDD
from tracks.datasets.ksdd2 import KSDD2
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError
from tracks.run.references import resolve
from tracks.run.track import samples_to_score


@pytest.fixture
def ksdd2(tmp_path: Path) -> Path:
    """Four images in each folder, of which 10001 and 20002 have a mark; the stray copies of the published archive."""
    root = tmp_path / "KolektorSDD2"
    for part, numbers in (("train", (10000, 10001, 10002, 9999)), ("test", (20000, 20001, 20002, 20003))):
        for number in numbers:
            save_image(root / part / f"{number}.png")
            levels = {10001: {(1, 1): 255}, 20002: {(2, 3): 1}}.get(number, {})
            save_mask(root / part / f"{number}_GT.png", levels)
    save_image(root / "train" / "10001 (copy).png")
    save_mask(root / "train" / "10001_GT (copy).png")
    (root / "split_weakly_0.pyb").write_bytes(b"x")
    return root


def labels(samples) -> dict[str, int]:  # type: ignore[no-untyped-def]
    return {sample.name: sample.label for sample in samples}


def test_official_split(ksdd2: Path) -> None:
    dataset: Dataset = KSDD2(ksdd2)
    assert list(dataset.categories) == ["ksdd2"]
    assert labels(dataset.test("ksdd2")) == {f"test/{n}.png": int(n == 20002) for n in (20000, 20001, 20002, 20003)}
    assert labels(dataset.train("ksdd2")) == {f"train/{n}.png": 0 for n in (9999, 10000, 10002)}
    assert list(labels(dataset.train("ksdd2"))) == ["train/9999.png", "train/10000.png", "train/10002.png"]
    samples = {sample.name: sample for sample in dataset.test("ksdd2")}
    assert marked(samples["test/20002.png"].load_mask()) == {(2, 3)}
    assert marked(samples["test/20001.png"].load_mask()) == set()
    assert samples["test/20002.png"].defect_type == "defect"
    assert dataset.protocol["split"] == "official"


def test_swapped_split_says_so(ksdd2: Path) -> None:
    dataset = KSDD2(ksdd2, split="swapped")
    assert labels(dataset.test("ksdd2")) == {f"train/{n}.png": int(n == 10001) for n in (9999, 10000, 10001, 10002)}
    assert set(labels(dataset.train("ksdd2"))) == {f"test/{n}.png" for n in (20000, 20001, 20003)}
    assert "swapped" in str(dataset.protocol["split"])
    with pytest.raises(TrackInputError, match=r"split to be one of official, swapped, got 'train'"):
        KSDD2(ksdd2, split="train")  # type: ignore[arg-type]


def test_stray_copies_are_neither_images_nor_masks(ksdd2: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        names = labels(KSDD2(ksdd2, split="swapped").test("ksdd2"))
    assert len(names) == 4
    assert not [name for name in names if "copy" in name or "GT" in name]
    assert "10001 (copy).png, 10001_GT (copy).png left out of" in caplog.text


def test_the_mask_rule_decides_the_label(ksdd2: Path) -> None:
    assert sum(labels(KSDD2(ksdd2, mask_above=1).test("ksdd2")).values()) == 0


def test_references_of_ksdd2(ksdd2: Path) -> None:
    drawn = resolve(KSDD2(ksdd2), "ksdd2", shots=2, seed=0)
    assert len({sample.name for sample in drawn}) == 2
    assert {sample.label for sample in drawn} == {0}


def test_only_the_folder_that_is_tested_on_is_needed(ksdd2: Path) -> None:
    shutil.rmtree(ksdd2 / "train")
    dataset = KSDD2(ksdd2)
    assert len(dataset.test("ksdd2")) == 4
    with pytest.raises(TrackInputError, match=r"normal images of ksdd2 in .*train.*shots=0"):
        dataset.train("ksdd2")
    with pytest.raises(TrackInputError, match=r"folders train and test.*got none in .*train"):
        KSDD2(ksdd2, split="swapped")


def test_missing_masks_and_images_are_named(ksdd2: Path) -> None:
    (ksdd2 / "test" / "20003_GT.png").unlink()
    with pytest.raises(TrackInputError, match=r"mask of .*20003\.png at .*20003_GT\.png, got none"):
        KSDD2(ksdd2)
    save_mask(ksdd2 / "test" / "20003_GT.png", {})
    (ksdd2 / "test" / "20000.png").unlink()
    with pytest.raises(TrackInputError, match=r"image 20000\.png beside the mask .*20000_GT\.png"):
        KSDD2(ksdd2)


def test_other_roots_of_ksdd2(ksdd2: Path) -> None:
    with pytest.raises(TrackInputError, match=r"its folder .*KolektorSDD2 has them"):
        KSDD2(ksdd2.parent)
    with pytest.raises(TrackInputError, match="did you mean ksdd2"):
        KSDD2(ksdd2).test("ksdd")


@pytest.fixture
def ksdd(tmp_path: Path) -> Path:
    root = tmp_path / "KolektorSDD"
    for part, number, level in (("kos10", 0, 0), ("kos2", 0, 0), ("kos2", 5, 255), ("kos2", 1, 0)):
        save_image(root / part / f"Part{number}.jpg")
        save_mask(root / part / f"Part{number}_label.bmp", {(4, 4): level})
    return root


def test_commutators(ksdd: Path) -> None:
    dataset: Dataset = KSDD(ksdd)
    (category,) = dataset.categories
    assert labels(dataset.test(category)) == {
        "kos2/Part0.jpg": 0, "kos2/Part1.jpg": 0, "kos2/Part5.jpg": 1, "kos10/Part0.jpg": 0,
    }  # fmt: skip
    assert list(labels(dataset.test(category)))[-1] == "kos10/Part0.jpg"
    assert marked(list(dataset.test(category))[2].load_mask()) == {(4, 4)}
    drawn = resolve(dataset, category, shots=2, seed=1)
    assert len(samples_to_score(dataset, category, drawn)) == 2
    assert "not scored" in str(dataset.protocol["reference_pool"])


def test_commutators_without_masks_and_elsewhere(ksdd: Path) -> None:
    with pytest.raises(TrackInputError, match=r"its folder .*KolektorSDD holds them"):
        KSDD(ksdd.parent)
    (ksdd / "kos2" / "Part5_label.bmp").unlink()
    with pytest.raises(TrackInputError, match=r"mask of .*kos2/Part5\.jpg at .*Part5_label\.bmp"):
        KSDD(ksdd)


def test_commutators_all_defective(ksdd: Path) -> None:
    for path in ksdd.glob("*/*_label.bmp"):
        save_mask(path)
    dataset = KSDD(ksdd)
    assert set(labels(dataset.test(*dataset.categories)).values()) == {1}
    with pytest.raises(TrackInputError, match="shots=0"):
        dataset.train(*dataset.categories)
