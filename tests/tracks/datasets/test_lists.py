"""Data sets that are lists: meta.json, and the packs of VAND 2023 with their lists of references."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.meta_json import MetaJson, write_meta_json
from tracks.datasets.mvtec import MVTec
from tracks.datasets.mvtec_loco import MVTecLOCO
from tracks.datasets.photos import Photos
from tracks.datasets.sample import Dataset
from tracks.datasets.vand2023 import VAND2023
from tracks.datasets.write_meta_json import build
from tracks.datasets.write_meta_json import main as command
from tracks.errors import TrackInputError
from tracks.run.references import resolve


@pytest.fixture
def bottles(tmp_path: Path) -> Path:
    root = tmp_path / "sets"
    for number in (1, 2, 10):
        save_image(root / "bottle/train/good" / f"{number}.png")
    save_image(root / "bottle/test/good/0.png")
    save_image(root / "bottle/test/crack/0.png")
    save_mask(root / "bottle/ground_truth/crack/0_mask.png", {(5, 5): 30})
    return root


def write(root: Path, test: object, train: object = None) -> None:
    (root / "meta.json").write_text(json.dumps({"train": {"bottle": train or []}, "test": {"bottle": test}}))


def entry(image: str, anomaly: int = 0, mask: str = "", kind: str = "") -> dict[str, str | int]:
    return {"img_path": image, "mask_path": mask, "cls_name": "bottle", "specie_name": kind, "anomaly": anomaly}


def test_what_is_written_is_what_the_field_shares(bottles: Path) -> None:
    assert write_meta_json(MVTec(bottles), bottles) == bottles / "meta.json"
    assert json.loads((bottles / "meta.json").read_text()) == {
        "train": {"bottle": [entry(f"bottle/train/good/{number}.png", kind="good") for number in (1, 2, 10)]},
        "test": {
            "bottle": [
                entry("bottle/test/crack/0.png", 1, "bottle/ground_truth/crack/0_mask.png", "crack"),
                entry("bottle/test/good/0.png", kind="good"),
            ]
        },
    }


def test_there_and_back_gives_the_same_samples(bottles: Path) -> None:
    before: Dataset = MVTec(bottles)
    write_meta_json(before, bottles)
    after: Dataset = MetaJson(bottles)
    assert list(after.categories) == ["bottle"]
    assert list(after.test("bottle")) == list(before.test("bottle"))
    assert list(after.train("bottle")) == list(before.train("bottle"))
    drawn = [[sample.name for sample in resolve(dataset, "bottle", shots=2, seed=5)] for dataset in (before, after)]
    assert drawn[0] == drawn[1]
    assert marked(after.test("bottle")[0].load_mask()) == {(5, 5)}


def test_several_masks_become_their_folder(tmp_path: Path) -> None:
    save_image(tmp_path / "pins/train/good/0.png")
    save_image(tmp_path / "pins/test/logical_anomalies/0.png")
    for number, place in ((0, (0, 0)), (1, (5, 7))):
        save_mask(tmp_path / f"pins/ground_truth/logical_anomalies/0/00{number}.png", {place: 255})
    before = MVTecLOCO(tmp_path)
    write_meta_json(before, tmp_path, tmp_path / "other.json")
    after = MetaJson(tmp_path, "other.json")
    assert after.test("pins") == before.test("pins")
    assert marked(after.test("pins")[0].load_mask()) == {(0, 0), (5, 7)}


def test_files_that_others_wrote(bottles: Path) -> None:
    """Windows' separators, no kind (as for VisA), no mask, anomalous training images."""
    write(
        bottles,
        [
            entry(".\\bottle\\test\\crack\\0.png", 1, "bottle\\ground_truth\\crack\\0_mask.png"),
            entry("bottle/train/good/10.png", 1), entry("bottle/test/good/0.png"),
        ],
        [entry("bottle/train/good/1.png"), entry("bottle/train/good/2.png", 1)],
    )  # fmt: skip
    dataset = MetaJson(bottles)
    samples = dataset.test("bottle")
    assert [(sample.name, sample.label, sample.defect_type) for sample in samples] == [
        ("test/crack/0.png", 1, "defect"), ("train/good/10.png", 1, "defect"), ("test/good/0.png", 0, "good"),
    ]  # fmt: skip
    assert marked(samples[0].load_mask()) == {(5, 5)}
    assert samples[1].load_mask() is None
    assert [sample.name for sample in dataset.train("bottle")] == ["train/good/1.png"]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([entry("bottle/test/good/9.png")], r"image of .*meta\.json \(test, bottle\) at .*good/9\.png"),
        ([entry("bottle/test/crack/0.png", 1, "bottle/no.png")], r"mask of .*meta\.json.*at .*bottle/no\.png"),
        ([entry("bottle/test/good/0.png", 2)], r"anomaly 0 or 1 in .*meta\.json, got 2 for bottle/test/good/0\.png"),
        ([entry("bottle/test/good/0.png", 0.9)], r"anomaly 0 or 1 in .*, got 0\.9 for"),  # type: ignore[arg-type]
        ([entry("bottle/test/good/0.png", "no")], r"anomaly 0 or 1 in .*, got 'no' for"),  # type: ignore[arg-type]
        ([], r"test images of bottle in .*meta\.json"),
        ([{"path": "a"}], r"expected img_path, .*got \{'path': 'a'\} \(test, bottle\)"),
        (["a.png"], r"got a\.png \(test, bottle\)"),
        ([entry("bottle/test/good/0.png"), entry("bottle//test/good/0.png", 1)], r"to be one in .*anomaly 0 and 1"),
        ("none", "expected img_path"),
        (7, r"meta\.json to be .*TypeError"),
    ],
)
def test_lists_that_do_not_fit(bottles: Path, test: object, message: str) -> None:
    write(bottles, test)
    with pytest.raises(TrackInputError, match=message):
        MetaJson(bottles)


def test_an_image_counts_once_however_its_path_is_spelled(bottles: Path, caplog: pytest.LogCaptureFixture) -> None:
    spellings = [
        "bottle/test/good/0.png",
        "bottle//test/good/0.png",
        "bottle/test/../test/good/0.png",
        "./bottle/test/good/0.png",
    ]
    spellings.append(str((bottles / spellings[0]).resolve()))
    write(bottles, [entry(spelling) for spelling in spellings])
    assert [sample.name for sample in MetaJson(bottles).test("bottle")] == ["test/good/0.png"]
    assert caplog.messages == [
        f"passed over in {bottles / 'meta.json'}: 4 images listed again ({bottles}/bottle/test/good/0.png first)"
    ]


@pytest.mark.parametrize("absolute", [True, False])
def test_images_outside_the_root_are_called_by_names_that_stay_inside(bottles: Path, absolute: bool) -> None:
    listed = bottles.parent / "listed"
    listed.mkdir()
    way = str(bottles.resolve()) if absolute else f"../{bottles.name}"
    write(listed, [entry(f"{way}/bottle/test/crack/0.png", 1, f"{way}/bottle/ground_truth/crack/0_mask.png")])
    (sample,) = MetaJson(listed).test("bottle")
    assert sample.name == "sets/bottle/test/crack/0.png"
    assert marked(sample.load_mask()) == {(5, 5)}


def test_a_mask_that_is_missing_beside_others_is_said(bottles: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_mask = entry("bottle/test/crack/0.png", 1, "bottle/ground_truth/crack/0_mask.png")
    write(bottles, [with_mask, entry("bottle/train/good/1.png", 1)])
    assert [sample.mask_path is None for sample in MetaJson(bottles).test("bottle")] == [False, True]
    assert "1 masks of anomalous images" in caplog.text


def test_no_list_no_json_and_no_test_images(bottles: Path) -> None:
    with pytest.raises(TrackInputError, match=r"list of images at .*meta\.json"):
        MetaJson(bottles)
    (bottles / "meta.json").write_text("{")
    with pytest.raises(TrackInputError, match="JSONDecodeError"):
        MetaJson(bottles)
    (bottles / "meta.json").write_text("{}")
    with pytest.raises(TrackInputError, match="test images in"):
        MetaJson(bottles)
    write(bottles, [entry("bottle/test/good/0.png")])
    with pytest.raises(TrackInputError, match=r'"train" of .*meta\.json.*shots=0'):
        MetaJson(bottles).train("bottle")


def test_what_cannot_be_written(bottles: Path) -> None:
    with pytest.raises(TrackInputError, match="no label"):
        write_meta_json(Photos(bottles), bottles)
    with pytest.raises(TrackInputError, match=r"below .*train, got .*test/crack/0\.png"):
        write_meta_json(MVTec(bottles), bottles / "bottle/train")
    assert not (bottles / "bottle/train/meta.json").exists()


def test_command_that_writes(bottles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["mvtec", str(bottles), "--out", str(tmp_path / "list.json")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "list.json")
    assert MetaJson(bottles, tmp_path / "list.json").test("bottle") == MVTec(bottles).test("bottle")
    with pytest.raises(SystemExit) as stopped:
        command(["mvtec", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "error: expected the data set's folder at" in capsys.readouterr().err
    with pytest.raises(TrackInputError, match=r"got 'synthetic'"):
        build("synthetic", bottles)


# ---- the packs of VAND 2023


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    root = tmp_path / "vand_kshot"
    for category in ("candle", "pcb1"):
        for number in (0, 1, 2, 10):
            save_image(root / "Train" / category / "Images" / f"{number:03d}.JPG")
            save_image(root / "Test" / category / "Images" / f"{number:03d}.JPG")
        (root / "Train" / category / "selected_samples_per_run.txt").write_text("0-1: 002\n1-2: 010 000\n")
    return root


def test_pack_has_no_labels(pack: Path) -> None:
    dataset: Dataset = VAND2023(pack)
    assert list(dataset.categories) == ["candle", "pcb1"]
    samples = list(dataset.test("pcb1"))
    assert [sample.name for sample in samples] == [f"Test/Images/{n:03d}.JPG" for n in (0, 1, 2, 10)]
    assert {(sample.label, sample.load_mask()) for sample in samples} == {(None, None)}
    assert dataset.protocol == {"labels": "none"}


def test_references_are_those_of_the_lists_of_the_pack(pack: Path) -> None:
    dataset = VAND2023(pack)
    drawn = resolve(dataset, "candle", shots=2, seed=0, manifest=pack / "Train", run=1)
    assert [getattr(sample, "path", None) for sample in drawn] == [
        pack / f"Train/candle/Images/{stem}.JPG" for stem in ("010", "000")
    ]
    assert {sample.name for sample in drawn}.isdisjoint(sample.name for sample in dataset.test("candle"))
    with pytest.raises(TrackInputError, match=r"line 0-2 .*selected_samples_per_run\.txt, got 0-1, 1-2"):
        resolve(dataset, "candle", shots=2, seed=0, manifest=pack / "Train", run=0)


def test_pack_without_training_images(pack: Path) -> None:
    shutil.rmtree(pack / "Train")
    with pytest.raises(TrackInputError, match=r"normal images of candle in .*vand_kshot\).*shots=0"):
        VAND2023(pack).train("candle")


def test_other_roots_and_faults_of_a_pack(pack: Path) -> None:
    with pytest.raises(TrackInputError, match=r"its folder .*vand_kshot is one"):
        VAND2023(pack.parent)
    save_image(pack / "Test/candle/Images/001.png")
    with pytest.raises(TrackInputError, match=r"one image for 001, got .*001\.JPG and .*001\.png"):
        VAND2023(pack)
    shutil.rmtree(pack / "Test/candle/Images")
    (pack / "Test/candle/Images").mkdir()
    with pytest.raises(TrackInputError, match="test images of candle"):
        VAND2023(pack)
    assert VAND2023(pack, ["pcb1"]).categories == ("pcb1",)
