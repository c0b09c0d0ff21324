import csv
import logging
import shutil
from pathlib import Path

import pytest

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.files import FileSample
from tracks.datasets.sample import Dataset
from tracks.datasets.visa import TEST_COUNTS, VisA
from tracks.errors import TrackInputError
from tracks.run.references import resolve

NUMBERS = ("0002", "0010", "0001")
"""In this order in the split file, so that natural order has to be made."""


def write_split(root: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def rows_of(category: str) -> list[dict[str, str]]:
    normal, anomaly = f"{category}/Data/Images/Normal", f"{category}/Data/Images/Anomaly"
    train = [
        {"object": category, "split": "train", "label": "normal", "image": f"{normal}/{number}.JPG", "mask": ""}
        for number in NUMBERS
    ]
    good = {"object": category, "split": "test", "label": "normal", "image": f"{normal}/0003.JPG", "mask": ""}
    bad = [
        {"object": category, "split": "test", "label": "anomaly", "image": f"{anomaly}/{stem}.JPG",
         "mask": f"{category}/Data/Masks/Anomaly/{stem}.png"}
        for stem in ("010", "002")
    ]  # fmt: skip
    return [*train, good, *bad]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two categories as downloaded; the columns of the split file stand in another order than published."""
    root = tmp_path / "VisA"
    rows = [row for category in ("pcb1", "candle") for row in rows_of(category)]
    for row in rows:
        save_image(root / row["image"])
        if row["mask"]:
            save_mask(root / row["mask"], {(1, 2): 1, (3, 4): 5})  # numbers of kinds, nearly black
        (root / row["object"] / "image_anno.csv").write_text("image,label,mask\n")
    write_split(root, rows, ("mask", "image", "label", "split", "object"))
    return root


@pytest.fixture
def converted(raw: Path) -> Path:
    """The same images as the authors' script arranges them."""
    root = raw.parent / "VisA_pytorch" / "1cls"
    for row in (row for category in ("pcb1", "candle") for row in rows_of(category)):
        place = root / row["object"] / row["split"] / ("good" if row["label"] == "normal" else "bad")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / row["image"], place)
        if row["mask"]:
            save_mask(
                root / row["object"] / "ground_truth" / "bad" / Path(row["mask"]).name, {(1, 2): 255, (3, 4): 255}
            )
    return root


def content(sample: FileSample) -> tuple[str, str, int | None, str, set[tuple[int, int]]]:
    return sample.name, sample.category, sample.label, sample.defect_type, marked(sample.load_mask())


def test_both_layouts_list_the_same_samples(raw: Path, converted: Path) -> None:
    dataset: Dataset = VisA(raw)
    assert list(dataset.categories) == ["candle", "pcb1"]
    assert [sample.name for sample in VisA(raw).test("candle")] == [
        "test/bad/002.JPG", "test/bad/010.JPG", "test/good/0003.JPG",
    ]  # fmt: skip
    assert [sample.name for sample in VisA(raw).train("candle")] == [
        "train/good/0001.JPG", "train/good/0002.JPG", "train/good/0010.JPG",
    ]  # fmt: skip
    for category in ("candle", "pcb1"):
        for part in ("train", "test"):
            found = [[content(s) for s in getattr(VisA(root), part)(category)] for root in (raw, converted)]
            assert found[0] == found[1]
    assert content(VisA(raw).test("pcb1")[0]) == ("test/bad/002.JPG", "pcb1", 1, "bad", {(1, 2), (3, 4)})
    assert content(VisA(raw).test("pcb1")[-1]) == ("test/good/0003.JPG", "pcb1", 0, "good", set())


def test_images_and_masks_are_those_of_the_split_file(raw: Path) -> None:
    sample = VisA(raw).test("pcb1")[0]
    assert sample.path == raw / "pcb1/Data/Images/Anomaly/002.JPG"
    assert sample.mask_path == raw / "pcb1/Data/Masks/Anomaly/002.png"


def test_draws_of_references_agree_between_the_layouts(raw: Path, converted: Path) -> None:
    drawn = [[s.name for s in resolve(VisA(root), "candle", shots=2, seed=3)] for root in (raw, converted)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 2


def test_folder_above_the_converted_one(converted: Path) -> None:
    assert VisA(converted.parent).categories == ("candle", "pcb1")
    assert VisA(converted / "candle").categories == ("candle",)


def test_labels_say_the_split_only_if_the_counts_bear_it_out(raw: Path, converted: Path) -> None:
    assert VisA(raw).protocol == {"mask_rule": "> 0", "split": "1cls"}
    assert VisA(converted).protocol["split"] == "as converted, not the counts of 1cls"
    for number in range(4, 53):  # 50 normal and 100 anomalous test images
        save_image(converted / "fryum/test/good" / f"{number:04d}.JPG")
    save_image(converted / "fryum/test/good/0053.JPG")
    for number in range(100):
        save_image(converted / "fryum/test/bad" / f"{number:03d}.JPG")
    assert VisA(converted, ["fryum"]).protocol["split"] == "1cls"


def test_counts_add_up_to_the_published_totals() -> None:
    assert len(TEST_COUNTS) == 12
    assert sum(normal for normal, _ in TEST_COUNTS.values()) == 962
    assert sum(anomalous for _, anomalous in TEST_COUNTS.values()) == 1200


def test_chosen_categories(raw: Path) -> None:
    assert VisA(raw, ["pcb1"]).categories == ("pcb1",)
    with pytest.raises(TrackInputError, match=r"one of candle, pcb1, got 'pcb'; did you mean pcb1\?"):
        VisA(raw, ["pcb"])
    with pytest.raises(TrackInputError, match="got 'candle'"):
        VisA(raw, ["pcb1"]).test("candle")


def test_a_mixture_is_refused(raw: Path, converted: Path) -> None:
    shutil.copytree(converted / "candle", raw / "candle", dirs_exist_ok=True)
    with pytest.raises(
        TrackInputError, match=r"mixture in .*as downloaded candle, pcb1; converted candle; candle in bo"
    ):
        VisA(raw)
    shutil.rmtree(raw / "candle" / "Data")
    with pytest.raises(TrackInputError, match="as downloaded pcb1; converted candle; move the converted"):
        VisA(raw)


def test_a_split_file_beside_the_converted_layout_is_no_mixture(raw: Path, converted: Path) -> None:
    shutil.copytree(raw / "split_csv", converted / "split_csv")
    assert [sample.path.parent for sample in VisA(converted).test("candle")[:1]] == [converted / "candle/test/bad"]


def test_categories_that_were_not_unpacked_are_named(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(raw / "candle")
    with caplog.at_level(logging.WARNING):
        assert VisA(raw).categories == ("pcb1",)
    assert "candle of" in caplog.text


def test_no_split_file(raw: Path) -> None:
    shutil.rmtree(raw / "split_csv")
    with pytest.raises(TrackInputError, match=r"split_csv/1cls\.csv, found no file.*spot-diff"):
        VisA(raw)


def test_a_column_that_is_missing_is_named(raw: Path) -> None:
    path = raw / "split_csv" / "1cls.csv"
    path.write_text(path.read_text().replace("mask,", "gt,", 1))
    with pytest.raises(TrackInputError, match=r"1cls\.csv, got gt, image, label, split, object \(no mask\)"):
        VisA(raw)


def test_blanks_backslashes_and_a_byte_order_mark(raw: Path) -> None:
    path = raw / "split_csv" / "1cls.csv"
    text = path.read_text().replace("mask,image", " mask , image").replace("/Data/", "\\Data\\")
    path.write_text(text, encoding="utf-8-sig")
    assert len(VisA(raw).test("pcb1")) == 3
    path.write_text(text, encoding="utf-16")
    with pytest.raises(TrackInputError, match=r"UTF-8 in .*1cls\.csv"):
        VisA(raw)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Anomaly/002.JPG,anomaly,test,pcb1", "Anomaly/002.JPG,anomaly,val,pcb1", r"line \d+ of .*1cls\.csv, got"),
        ("Anomaly/002.JPG,anomaly,test,pcb1", "Anomaly/002.JPG,bad,test,pcb1", r"a label \(normal, anomaly\)"),
        ("Anomaly/002.JPG,anomaly,test,pcb1", "Anomaly/002.JPG,anomaly,train,pcb1", "only normal images in the split"),
        ("Images/Anomaly/002.JPG,anomaly,test,pcb1", "Images/Anomaly/010.JPG,anomaly,test,pcb1", "every image once"),
    ],
)
def test_rows_that_do_not_fit(raw: Path, old: str, new: str, message: str) -> None:
    path = raw / "split_csv" / "1cls.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(TrackInputError, match=message):
        VisA(raw)


def test_missing_images_and_masks_name_the_file_and_the_line(raw: Path) -> None:
    (raw / "pcb1/Data/Masks/Anomaly/002.png").unlink()
    with pytest.raises(
        TrackInputError, match=r"mask of .*Anomaly/002\.JPG \(line \d+ of .*at .*Masks/Anomaly/002\.png"
    ):
        VisA(raw)
    (raw / "pcb1/Data/Images/Normal/0003.JPG").rename(raw / "pcb1/Data/Images/Normal/0003.jpg")
    with pytest.raises(TrackInputError, match=r"image of line \d+.*0003\.JPG.*did you mean 0003\.jpg"):
        VisA(raw)


def test_an_empty_mask_names_itself(raw: Path) -> None:
    save_mask(raw / "pcb1/Data/Masks/Anomaly/002.png", {})
    with pytest.raises(TrackInputError, match=r"Masks/Anomaly/002\.png to mark a defect"):
        VisA(raw).test("pcb1")[0].load_mask()


def test_roots_that_are_near(raw: Path, converted: Path) -> None:
    with pytest.raises(TrackInputError, match=r"one category as downloaded: give .*VisA and categories=\[pcb1\]"):
        VisA(raw / "pcb1")
    with pytest.raises(TrackInputError, match=r"its folder .*VisA holds categories"):
        VisA(raw.parent)
    (raw.parent / "empty").mkdir()
    with pytest.raises(TrackInputError, match="got neither; give the folder that holds candle"):
        VisA(raw.parent / "empty")


def test_no_training_images(raw: Path) -> None:
    path = raw / "split_csv" / "1cls.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if ",train," not in line))
    assert len(VisA(raw).test("pcb1")) == 3
    with pytest.raises(TrackInputError, match=r"split train of .*1cls\.csv.*shots=0"):
        VisA(raw).train("pcb1")


def test_an_image_counts_once_however_its_path_is_spelled(raw: Path) -> None:
    columns = ("object", "split", "label", "image", "mask")
    good = {
        "object": "pcb1",
        "split": "test",
        "label": "normal",
        "image": "pcb1/Data/Images/Normal/0003.JPG",
        "mask": "",
    }
    again = {**good, "image": "pcb1/Data//Images/../Images/Normal/0003.JPG"}
    write_split(raw, [*rows_of("pcb1"), again], columns)
    assert [sample.name for sample in VisA(raw).test("pcb1")].count("test/good/0003.JPG") == 1
    write_split(raw, [*rows_of("pcb1"), {**again, "label": "anomaly", "mask": rows_of("pcb1")[-1]["mask"]}], columns)
    with pytest.raises(TrackInputError, match=r"every image once in .*1cls\.csv, got .*0003\.JPG in line 8"):
        VisA(raw)
    write_split(raw, [*rows_of("pcb1"), {**good, "object": "../x"}], columns)
    with pytest.raises(TrackInputError, match="expected an object"):
        VisA(raw)


def test_other_data_in_these_layouts_are_not_called_visa(raw: Path, converted: Path) -> None:
    (converted / "candle").rename(converted / "bottle")
    with pytest.raises(TrackInputError, match=r"categories of VisA .*got bottle .*data=mvtec"):
        VisA(converted)
    assert VisA(converted, ["pcb1"]).name == "visa"
    assert VisA(converted, name="mine").name == "mine"
