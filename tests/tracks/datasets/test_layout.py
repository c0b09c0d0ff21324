"""Slips in how folders are laid out: what is found all the same, what is asked for, and what is said to be left out."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.dagm import DAGM
from tracks.datasets.folder import Folder
from tracks.datasets.ksdd import KSDD
from tracks.datasets.ksdd2 import KSDD2
from tracks.datasets.mtd import MTD
from tracks.datasets.mvtec import MVTec
from tracks.datasets.mvtec_ad2 import MVTecAD2
from tracks.datasets.mvtec_loco import MVTecLOCO
from tracks.datasets.photos import Photos
from tracks.datasets.registry import licence_notice
from tracks.datasets.vand2023 import VAND2023
from tracks.datasets.visa import VisA
from tracks.errors import TrackInputError


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two normal and two scratched bolts with masks, and two normal ones to draw references from."""
    root = tmp_path / "parts"
    for number in range(2):
        save_image(root / f"bolt/train/good/{number}.png")
        save_image(root / f"bolt/test/good/{number}.png")
        save_image(root / f"bolt/test/scratch/{number}.png")
        save_mask(root / f"bolt/ground_truth/scratch/{number}_mask.png", {(number, 3): 255})
    return root


def found(dataset: Any) -> list[tuple[str, int, set[tuple[int, int]] | None]]:
    samples = [sample for category in dataset.categories for sample in dataset.test(category)]
    return [(s.name, s.label, None if (mask := s.load_mask()) is None else marked(mask)) for s in samples]


GOOD: list[tuple[str, int, set[tuple[int, int]] | None]]
GOOD = [("test/good/0.png", 0, set()), ("test/good/1.png", 0, set())]


@pytest.mark.parametrize(
    ("old", "new"),
    [("ground_truth", "Ground_Truth"), ("ground_truth", "groundtruth"), ("ground_truth", "Ground Truth"),
     ("ground_truth", "masks"), ("ground_truth/scratch", "ground_truth/Scratch"), ("train", "Train"), ("test", "TEST")],
)  # fmt: skip
def test_folders_in_another_spelling_are_found(
    parts: Path, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    (parts / "bolt" / old).rename(parts / "bolt" / new)
    dataset = MVTec(parts)
    expected = [*GOOD, ("test/scratch/0.png", 1, {(0, 3)}), ("test/scratch/1.png", 1, {(1, 3)})]
    assert [(name.replace("TEST", "test"), *rest) for name, *rest in found(dataset)] == expected
    assert len(dataset.train("bolt")) == 2
    assert not caplog.messages


def test_two_spellings_of_one_folder(parts: Path) -> None:
    for spelling in ("GT", "gt_"):
        save_mask(parts / f"bolt/{spelling}/scratch/0.png")
    assert found(MVTec(parts))[2][2] == {(0, 3)}  # ground_truth itself stands first
    shutil.rmtree(parts / "bolt/ground_truth")
    with pytest.raises(TrackInputError, match=r"one folder gt in .*bolt, got .* and "):
        MVTec(parts)


@pytest.mark.parametrize("deep_masks", [True, False])
def test_images_in_deeper_folders_are_found_with_their_masks(parts: Path, deep_masks: bool) -> None:
    (parts / "bolt/test/scratch").rename(parts / "bolt/moved")
    (parts / "bolt/test/scratch").mkdir()
    (parts / "bolt/moved").rename(parts / "bolt/test/scratch/batch1")
    if deep_masks:
        (parts / "bolt/ground_truth/scratch").rename(parts / "bolt/moved")
        (parts / "bolt/ground_truth/scratch").mkdir()
        (parts / "bolt/moved").rename(parts / "bolt/ground_truth/scratch/batch1")
    scratches = [("test/scratch/batch1/0.png", 1, {(0, 3)}), ("test/scratch/batch1/1.png", 1, {(1, 3)})]
    assert found(MVTec(parts)) == [*GOOD, *scratches]
    assert [sample.defect_type for sample in MVTec(parts).test("bolt")[2:]] == ["scratch"] * 2


def test_what_is_left_out_is_said_once_with_counts(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    bolt = parts / "bolt"
    for number in range(3):
        save_image(bolt / f"test/{number}.png")
    save_mask(bolt / "ground_truth/scratch/7_mask.png")
    save_mask(bolt / "ground_truth/dent/7_mask.png")
    save_image(bolt / "test/rust/0.png")
    save_image(bolt / "test/scratch/masks/0.png")
    save_image(parts / "nut/batch/0.png")
    (bolt / "test/good/notes.txt").write_text("x")
    (bolt / "test/scratch/0.cr2").write_text("x")
    assert len(MVTec(parts).test("bolt")) == 5
    (message,) = caplog.messages
    assert message.startswith(f"passed over in {parts}: ")
    for said in (
        "1 .cr2 (save them as .tif or .png), 1 .txt", f"1 folders without test or train ({parts / 'nut'} first)",
        "3 images straight in test", f"1 masks without an image ({bolt / 'ground_truth/scratch/7_mask.png'} first)",
        "1 folders of masks without one of images", "1 folders of masks among the images",
        f"1 folders of defects without masks, which count for image metrics only ({bolt / 'test/rust'} first)",
    ):  # fmt: skip
        assert said in message
    caplog.clear()
    save_image(bolt / "train/9.png")
    save_image(bolt / "train/other/9.png")
    assert len(MVTec(parts, ["bolt"]).train("bolt")) == 2
    assert "1 images straight in train" in caplog.text
    assert "1 folders of train not called normal" in caplog.text


def test_linked_folders_are_followed(parts: Path, tmp_path: Path) -> None:
    (parts / "bolt/test/scratch").rename(tmp_path / "elsewhere")
    (parts / "bolt/test/scratch").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")  # a loop
    assert [name for name, *_ in found(MVTec(parts))[2:]] == ["test/scratch/0.png", "test/scratch/1.png"]


def test_pictures_of_mvtec_3d(parts: Path) -> None:
    shutil.rmtree(parts / "bolt/ground_truth")
    for kind in ("train/good", "test/good", "test/scratch"):
        folder = parts / "bolt" / kind
        for path in list(folder.iterdir()):
            path.rename(save_image(folder / "rgb" / path.name))
            save_image(folder / "xyz" / f"{path.stem}.tiff")
            save_mask(folder / "gt" / path.name, {(1, 1): 255} if kind == "test/scratch" else {})
    dataset = MVTec(parts)
    assert found(dataset) == [
        ("test/good/rgb/0.png", 0, set()), ("test/good/rgb/1.png", 0, set()),
        ("test/scratch/rgb/0.png", 1, {(1, 1)}), ("test/scratch/rgb/1.png", 1, {(1, 1)}),
    ]  # fmt: skip
    assert [sample.name for sample in dataset.train("bolt")] == ["train/good/rgb/0.png", "train/good/rgb/1.png"]


# ---- which folder is normal


@pytest.mark.parametrize(
    ("good", "bad"), [("0", "1"), ("io", "nio"), ("fine", "broken"), ("OK2", "nok"), ("good_2", "bad")]
)
def test_folders_that_do_not_tell_whether_they_are_normal_are_asked_about(parts: Path, good: str, bad: str) -> None:
    (parts / "bolt/test/good").rename(parts / "bolt/test" / good)
    (parts / "bolt/test/scratch").rename(parts / "bolt/test" / bad)
    shutil.rmtree(parts / "bolt/ground_truth")
    with pytest.raises(TrackInputError, match=rf"which folders of .*bolt/test hold normal .*{good}.*normal_folders="):
        MVTec(parts)
    told = MVTec(parts, normal_folders=[good])
    assert [(name, label) for name, label, _ in found(told)] == sorted(
        [(f"test/{good}/{n}.png", 0) for n in range(2)] + [(f"test/{bad}/{n}.png", 1) for n in range(2)],
        key=lambda pair: pair[0].casefold() if good != "OK2" else pair[0],
    )
    assert len(told.train("bolt")) == 2
    assert found(MVTec(parts, normal_folders=good)) == found(told)
    assert [label for _, label, _ in found(MVTec(parts, normal_folders=[]))] == [1] * 4
    with pytest.raises(TrackInputError, match=r"each of data\.normal_folders to be one of .*got 'goood'"):
        MVTec(parts, normal_folders=["goood"])


@pytest.mark.parametrize("name", ["good", "OK", "Normal"])
def test_names_that_tell_are_not_asked_about(parts: Path, name: str) -> None:
    (parts / "bolt/test/good").rename(parts / "bolt/test" / name)
    assert sorted(label for _, label, _ in found(MVTec(parts))) == [0, 0, 1, 1]
    shutil.rmtree(parts / "bolt/test" / name)
    assert [label for _, label, _ in found(MVTec(parts))] == [1, 1]  # one kind of defect alone


# ---- names of sets


def test_only_categories_of_mvtec_ad_are_called_mvtec(parts: Path) -> None:
    assert MVTec(parts).name == "parts"
    assert MVTec(parts / "bolt").name == "bolt"
    assert MVTec(parts, name="my bolts").name == "my bolts"
    parts.rename(parts.with_name("MVTec"))
    assert MVTec(parts.with_name("MVTec")).name == "mvtec_layout"
    (parts.with_name("MVTec") / "bolt").rename(parts.with_name("MVTec") / "bottle")
    own = MVTec(parts.with_name("MVTec"))
    assert own.name == "mvtec"
    assert licence_notice(own.name) is not None
    assert licence_notice("parts") is licence_notice("mvtec_layout") is None


# ---- other readers


def mvtec_ad2(root: Path) -> Any:
    for part in ("train/good", "test_public/good", "test_public/bad"):
        save_image(root / "can" / part / "0.png")
    save_mask(root / "can/test_public/ground_truth/bad/0_mask.png")
    save_mask(root / "can/test_public/ground_truth/bad/9_mask.png")
    (root / "can/test_public/bad/x.dng").write_text("x")
    return MVTecAD2(root)


def loco(root: Path) -> Any:
    for kind in ("Good", "logical_anomalies"):
        save_image(root / f"pins/test/{kind}/0.png")
    save_mask(root / "pins/Ground_Truth/logical_anomalies/0/000.png")
    save_image(root / "pins/test/9.png")
    (root / "pins/test/Good/x.dng").write_text("x")
    return MVTecLOCO(root)


def mtd(root: Path) -> Any:
    for folder in ("MT_Free", "MT_Crack"):
        save_image(root / folder / "Imgs/0.jpg")
        save_mask(root / folder / "Imgs/0.png")
    save_mask(root / "MT_Crack/Imgs/9.png")
    save_image(root / "MT_Crack/Imgs/8.bmp")
    return MTD(root)


def ksdd(root: Path) -> Any:
    for number in range(2):
        save_image(root / f"kos01/Part{number}.jpg")
        save_mask(root / f"kos01/Part{number}_label.bmp", {(0, 0): 255 * number})
    save_mask(root / "kos01/Part9_label.bmp")
    save_image(root / "kos02/Part0.jpg")
    return KSDD(root)


def ksdd2(root: Path) -> Any:
    for number in range(2):
        save_image(root / f"test/{number}.png")
        save_mask(root / f"test/{number}_GT.png", {(0, 0): 255 * number})
    (root / "test/3.nef").write_text("x")
    return KSDD2(root)


def dagm(root: Path) -> Any:
    for number in range(2):
        save_image(root / f"Class1/Test/000{number}.PNG")
    save_mask(root / "Class1/Test/Label/0001_label.PNG")
    (root / "Class1/Test/x.raw").write_text("x")
    return DAGM(root)


def visa(root: Path) -> Any:
    rows = ["object,split,label,image,mask"]
    for kind, label, mask in (("Normal", "normal", ""), ("Anomaly", "anomaly", "candle/Data/Masks/Anomaly/0.png")):
        save_image(root / f"candle/Data/Images/{kind}/0.JPG")
        rows.append(f"candle,test,{label},candle/Data/Images/{kind}/0.JPG,{mask}")
    save_image(root / "candle/Data/Images/Normal/9.JPG")
    save_mask(root / "candle/Data/Masks/Anomaly/0.png")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows))
    return VisA(root)


def vand2023(root: Path) -> Any:
    for number in range(2):
        save_image(root / f"Test/candle/Images/{number}.JPG")
    (root / "Test/candle/Images/2.heyc").write_text("x")
    return VAND2023(root)


def folder(root: Path) -> Any:
    save_image(root / "fine/0.png")
    save_image(root / "broken/0.png")
    save_mask(root / "truth/0.png")
    save_mask(root / "truth/9.png")
    (root / "fine/read me").write_text("x")
    return Folder(root, ["fine", "./fine"], "broken", "truth")


@pytest.mark.parametrize(
    ("build", "images", "said"),
    [
        (mvtec_ad2, 2, ["1 .dng", "1 masks without an image"]), (loco, 2, ["1 .dng", "1 images straight in test"]),
        (mtd, 2, ["1 images that are no .jpg", "1 masks without an image"]),
        (ksdd, 2, ["1 masks without an image", "1 folders without masks"]), (ksdd2, 2, ["1 .nef"]),
        (dagm, 2, ["1 .raw", "no Labels.txt in"]), (visa, 2, ["1 images that split_csv/1cls.csv does not name"]),
        (vand2023, 2, ["1 .heyc"]), (folder, 2, ["1 without an ending", "1 masks without an image"]),
    ],
)  # fmt: skip
def test_every_reader_says_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, build: Callable[[Path], Any], images: int, said: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path / "set")
        assert len(found(dataset)) == images
    assert all(text in caplog.text for text in said), caplog.text


@pytest.mark.parametrize("category", [4711, 1.1, None, "", "../x", "/x"])
def test_a_category_is_text_that_stays_inside(parts: Path, category: Any) -> None:
    for build in (Folder, Photos):
        with pytest.raises(TrackInputError, match="name of the category as text, got"):
            build(parts, category=category)


def test_folders_named_by_a_way_up_have_names_that_stay_inside(tmp_path: Path) -> None:
    save_image(tmp_path / "set/fine/0.png")
    save_image(tmp_path / "other/0.png")
    save_image(tmp_path / "set/deep/1.png")
    dataset = Folder(tmp_path / "set", "fine", ["../other", "../set/deep"])
    assert [sample.name for sample in dataset.test("object")] == ["other/0.png", "deep/1.png", "fine/0.png"]
