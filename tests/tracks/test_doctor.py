"""The doctor: a healthy set of each layout has no problem, and each planted fault is found and named, alone."""

import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from omegaconf import OmegaConf

from models.weights import catalogue
from tracks import doctor
from tracks.checkup import machine
from tracks.checkup.data import SHOTS, check_counts, examine_data
from tracks.checkup.pictures import list_pictures
from tracks.command.cli import CONF, run_main
from tracks.datasets.dagm import DAGM
from tracks.datasets.ksdd import KSDD
from tracks.datasets.ksdd2 import KSDD2
from tracks.datasets.mtd import MTD, UNMARKED
from tracks.datasets.mvtec import MVTec
from tracks.datasets.mvtec_ad2 import MVTecAD2
from tracks.datasets.mvtec_loco import MVTecLOCO
from tracks.datasets.registry import registry as registry_of_sets
from tracks.datasets.visa import VisA
from tracks.errors import TrackInputError

SIZE = (12, 10)  # width, height
serial = iter(range(1, 10_000))


def picture(path: Path, size=SIZE) -> Path:
    """A picture like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(serial)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, size=SIZE, levels=(255,)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values.flat[: len(levels)] = levels
    PIL.Image.fromarray(values).save(path)
    return path


def mvtec(root: Path, category="nut") -> Path:
    for index in range(3):
        picture(root / category / f"train/good/{index:03}.png")
        picture(root / category / f"test/good/{index:03}.png")
        picture(root / category / f"test/crack/{index:03}.png")
        mask(root / category / f"ground_truth/crack/{index:03}_mask.png")
    return root


def visa(root: Path) -> Path:
    rows = ["split,object,label,image,mask"]
    for kind, label, parts in (("Normal", "normal", ("train", "train", "test")), ("Anomaly", "anomaly", ("test",) * 2)):
        for index, part in enumerate(parts):
            path = picture(root / f"candle/Data/Images/{kind}/{index:03}.JPG")
            own = f"candle/Data/Masks/Anomaly/{index:03}.png" if label == "anomaly" else ""
            if own:
                mask(root / own, levels=(1, 2, 3))
            rows.append(f"{part},candle,{label},{path.relative_to(root).as_posix()},{own}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows))
    return root


def mtd(root: Path) -> Path:
    for folder, levels in (("MT_Free", ()), ("MT_Crack", (255, 40)), ("MT_Uneven", (255,))):
        picture(root / folder / "Imgs/one.jpg")
        mask(root / folder / "Imgs/one.png", levels=levels)
    return root


def ksdd2(root: Path) -> Path:
    for part in ("train", "test"):
        for index, levels in enumerate([(), (255,)]):
            picture(root / part / f"{index:05}.png")
            mask(root / part / f"{index:05}_GT.png", levels=levels)
    return root


def ksdd(root: Path) -> Path:
    for index, levels in enumerate([(), (255,)]):
        picture(root / f"kos01/Part{index}.jpg")
        mask(root / f"kos01/Part{index}_label.bmp", levels=levels)
    return root


def dagm(root: Path) -> Path:
    for part in ("Train", "Test"):
        picture(root / f"Class1/{part}/0001.PNG")
        picture(root / f"Class1/{part}/0002.PNG")
        mask(root / f"Class1/{part}/Label/0002_label.PNG")
    return root


def loco(root: Path) -> Path:
    mvtec(root)
    for path in (root / "nut/ground_truth/crack").iterdir():
        mask(path.parent / path.stem.removesuffix("_mask") / "000.png")
        mask(path.parent / path.stem.removesuffix("_mask") / "001.png", levels=(0, 255))
        path.unlink()
    return root


def mvtec_ad2(root: Path) -> Path:
    for name in ("train/good", "validation/good", "test_public/good", "test_public/bad"):
        picture(root / f"can/{name}/000_regular.png")
    mask(root / "can/test_public/ground_truth/bad/000_regular_mask.png")
    picture(root / "can/test_private/000_regular.png")
    return root


def mvtec_3d(root: Path) -> Path:
    for part, kind in (("train", "good"), ("test", "good"), ("test", "hole")):
        for index in range(3):
            picture(root / f"cake/{part}/{kind}/rgb/{index:03}.png")
            mask(root / f"cake/{part}/{kind}/gt/{index:03}.png", levels=(255,) if kind == "hole" else ())
            places = root / f"cake/{part}/{kind}/xyz/{index:03}.tiff"
            places.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(places, np.ones((4, 4, 3), np.float32), photometric="rgb")
    return root


READERS = {
    mvtec: MVTec, visa: VisA, mtd: partial(MTD, mask_above=0), ksdd2: KSDD2, ksdd: KSDD, dagm: DAGM, loco: MVTecLOCO,
    mvtec_ad2: MVTecAD2, mvtec_3d: MVTec,
}  # fmt: skip
LAYOUTS = list(READERS)


def examine(root, make=mvtec, name="none", mask_above=0.0, reader=None):
    """The rows by their names, with the reader of a layout."""
    rows = examine_data(root, name, mask_above, 2, reader or (lambda: READERS[make](root, mask_above=mask_above)))
    return {row.check: row for row in rows}


def problems(rows):
    return {check: row.seen for check, row in rows.items() if row.state == "problem"}


def test_own_data_in_mvtec_layout_are_not_counted_like_mvtec_ad(tmp_path):
    root = mvtec(tmp_path)
    counts = examine_data(root, "mvtec", 0, 1, lambda: MVTec(root))[-1]
    assert (counts.check, counts.state) == ("counts", "skipped")


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_a_healthy_set_has_no_problem(tmp_path, make):
    rows = examine(make(tmp_path), make)
    assert problems(rows) == {}
    assert rows["unreadable files"].seen.endswith("pictures decode")
    assert rows["masks missing"].seen != "0 masks, none is missing"
    assert rows["masks not binary"].state == ("note" if make == mtd else "ok")  # as published: a soft edge
    assert rows["duplicates"].state == "ok"
    assert rows["pictures read"].state == ("note" if make in (mvtec_ad2, ksdd2, dagm) else "ok")


@pytest.mark.parametrize(
    ("make", "expected"),
    [(visa, {("train", 0, 0): 2, ("test", 0, 0): 1, ("test", 1, 1): 2}),
     (loco, {("train", 0, 0): 3, ("test", 0, 0): 3, ("test", 1, 2): 3}),
     (ksdd2, {("train", 0, 0): 1, ("train", 1, 1): 1, ("test", 0, 0): 1, ("test", 1, 1): 1}),
     (mtd, {("all", 0, 0): 1, ("all", 1, 1): 2}),
     (mvtec_ad2, {("train", 0, 0): 2, ("test", 0, 0): 1, ("test", 1, 1): 1, ("test", None, 0): 1})],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_what_is_listed_has_its_part_label_and_masks(tmp_path, make, expected):
    pictures = list_pictures(READERS[make](make(tmp_path))).pictures
    samples = [(one.part, one.sample) for one in pictures]
    got = Counter((part, one.label, bool(one.mask_path) + len(one.more_masks)) for part, one in samples)
    assert got == expected


def painted(background, defect, channels=1, size=SIZE):
    """A mask of two colours, as a picture."""
    values = np.full((size[1], size[0], channels), background, dtype=np.uint8)
    values[4:6, 4:7] = defect
    return PIL.Image.fromarray(values.squeeze())


PAINTED = {
    "masks empty": painted(0, 0), "masks of another size": painted(0, 255, size=SIZE[::-1]),
    "masks that mark everything": painted(255, 255), "masks inverted": painted(255, 0),
    "masks not on black": painted((68, 1, 84), (253, 231, 37), 3),
}  # fmt: skip


def plant(root, fault):
    """Plant one fault into an MVTec tree; returns the path that the doctor must name."""
    nut = root / "nut"
    path = nut / "ground_truth/crack/001_mask.png"
    if fault in PAINTED:
        PAINTED[fault].save(path)
    match fault:
        case "unreadable files":
            path = nut / "test/crack/001.png"
            path.write_bytes(path.read_bytes()[:200])
        case "unreadable mask":
            path.write_bytes(b"no picture")
        case "masks missing":
            path.unlink()
            path = nut / "test/crack/001.png"
        case "masks extra":
            path = mask(nut / "ground_truth/crack/009_mask.png")
        case "masks extra of a kind":
            path = mask(nut / "ground_truth/hole/000_mask.png")
        case "masks not binary":
            mask(path, levels=(255, 200, 3))
        case "masks with noise":
            path.unlink()
            path = path.with_suffix(".jpg")
            painted(0, 255).save(path, quality=30)
        case "duplicates, train and test" | "duplicates":
            path = nut / ("train/good/001.png" if fault == "duplicates" else "test/good/001.png")
            PIL.Image.open(nut / "train/good/002.png").save(path, compress_level=1)
    return path


def run_refuses(root, make=mvtec, mask_above=0.0):
    """Whether a few-shot run that reads every image and mask would end in an error."""
    try:
        reader = READERS[make](root, mask_above=mask_above)
        for category in reader.categories:
            for sample in [*reader.train(category), *reader.test(category)]:
                sample.load_image()
                sample.load_mask()
    except TrackInputError:
        return True
    return False


REFUSED = ["unreadable files", "unreadable mask", "masks missing", "masks empty", "masks of another size",
           "masks with noise"]  # fmt: skip
NOTED = ["masks extra", "masks extra of a kind", "masks not binary", "masks that mark everything", "masks inverted",
         "masks not on black", "duplicates"]  # fmt: skip
ROWS = {"unreadable mask": "unreadable files", "masks extra of a kind": "masks extra"}


@pytest.mark.parametrize("fault", [*REFUSED, *NOTED])
def test_each_planted_fault_is_named_alone_and_judged_as_by_a_run(tmp_path, fault):
    path = plant(mvtec(tmp_path), fault)
    rows, row = examine(tmp_path), ROWS.get(fault, fault)
    assert run_refuses(tmp_path) == (fault in REFUSED)
    assert rows[row].state == ("problem" if fault in REFUSED else "note")
    assert rows[row].seen.startswith("1: ")
    assert str(path) in rows[row].seen
    assert set(problems(rows)) - {"reader"} == ({row} if fault in REFUSED else set())
    others = {check for check, one in rows.items() if one.state == "note"} - {row, "references"}
    assert others == set()


def test_why_a_picture_is_refused_is_said(tmp_path):
    path = mvtec(tmp_path) / "nut/test/good/000.png"
    frames = [PIL.Image.new("L", SIZE, level) for level in (3, 4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert run_refuses(tmp_path)
    assert f"{path}, got an animation of 2 frames" in problems(examine(tmp_path))["unreadable files"]


def test_a_picture_in_train_and_test_is_a_problem_of_its_own(tmp_path):
    path = plant(mvtec(tmp_path), "duplicates, train and test")
    found = problems(examine(tmp_path))
    assert set(found) == {"duplicates, train and test"}
    assert str(path) in found["duplicates, train and test"]


@pytest.mark.parametrize(("make", "name"), [(mtd, "MT_Uneven/Imgs/one.jpg"), (ksdd, "kos01/Part1.jpg")])
def test_copies_are_found_where_there_is_but_one_pool(tmp_path, make, name):
    path = make(tmp_path) / name
    other = next(one for one in READERS[make](tmp_path).test(READERS[make](tmp_path).categories[0]) if one.path != path)
    path.write_bytes(other.path.read_bytes())
    row = examine(tmp_path, make)["duplicates"]
    assert row.state == "note"
    assert str(path) in row.seen


def test_nothing_to_read_is_a_problem(tmp_path):
    (tmp_path / "nut/test/crack").mkdir(parents=True)
    (tmp_path / "nut/train/good").mkdir(parents=True)
    found = problems(examine(tmp_path))
    assert set(found) == {"reader", "pictures"}
    assert found["pictures"] == "not one was found"
    assert [check for check, row in examine(tmp_path).items() if row.state == "ok"] == ["layout"]
    assert set(problems(examine(tmp_path / "nut/train"))) >= {"reader", "layout", "pictures"}


def test_references_are_counted(tmp_path):
    rows = examine(mvtec(tmp_path))
    assert rows["references"].state == "note"
    assert rows["references"].seen == "fewer than the 4 that few-shot draws unless told otherwise, in 1: nut (3)"
    picture(tmp_path / "nut/train/good/003.png")
    assert examine(tmp_path)["references"].seen == "4 normal pictures or more in each category"
    for path in (tmp_path / "nut/train/good").iterdir():
        path.unlink()
    assert examine(tmp_path)["references"].seen.startswith("no normal pictures to draw from, so zero-shot only, in 1: ")
    assert OmegaConf.load(CONF / "few_shot.yaml").shots == SHOTS


@pytest.mark.parametrize(
    ("make", "gone"),
    [(visa, "candle/Data/Masks/Anomaly/001.png"), (mtd, "MT_Crack/Imgs/one.png"), (ksdd2, "test/00001_GT.png"),
     (ksdd, "kos01/Part1_label.bmp"), (loco, "nut/ground_truth/crack/001")],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_a_missing_mask_is_found_in_every_layout(tmp_path, make, gone):
    path = make(tmp_path) / gone
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()
    assert "masks missing" in problems(examine(tmp_path, make))
    assert set(problems(examine(tmp_path, make))) <= {"masks missing", "reader"}
    assert run_refuses(tmp_path, make)


@pytest.mark.parametrize(
    ("make", "extra"),
    [(visa, "candle/Data/Masks/Anomaly/777.png"), (mtd, "MT_Crack/Imgs/two.png"), (ksdd2, "test/00777_GT.png"),
     (ksdd, "kos01/Part7_label.bmp"), (dagm, "Class1/Test/Label/0777_label.PNG"),
     (loco, "nut/ground_truth/crack/777/000.png")],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_an_extra_mask_is_found_in_every_layout(tmp_path, make, extra):
    path = mask(make(tmp_path) / extra)
    row = examine(tmp_path, make)["masks extra"]
    assert row.seen == f"1: {path}"
    assert row.state == ("problem" if run_refuses(tmp_path, make) else "note")


def test_visa_as_downloaded_mixed_with_converted_is_a_problem(tmp_path):
    mvtec(visa(tmp_path), "candle_converted")
    assert (
        "mixed layouts: visa as downloaded: candle; mvtec: candle_converted"
        in problems(examine(tmp_path, visa))["layout"]
    )


def test_many_faults_are_counted_and_the_first_are_named(tmp_path):
    for path in (mvtec(tmp_path) / "nut/ground_truth/crack").iterdir():
        mask(path, levels=())
    mask(tmp_path / "nut/ground_truth/crack/003_mask.png", levels=())
    picture(tmp_path / "nut/test/crack/003.png")
    assert problems(examine(tmp_path))["masks empty"].startswith("4: ")
    assert problems(examine(tmp_path))["masks empty"].endswith("002_mask.png and 1 more")


def test_the_masks_that_were_published_empty_are_only_noted(tmp_path):
    picture(mtd(tmp_path) / f"MT_Uneven/Imgs/{UNMARKED[0]}.jpg")
    mask(tmp_path / f"MT_Uneven/Imgs/{UNMARKED[0]}.png", levels=())
    rows = examine(tmp_path, mtd)
    assert problems(rows) == {}
    assert rows["masks empty as published"].state == "note"


def test_faint_masks_are_judged_by_the_rule_of_the_set(tmp_path):
    mask(mtd(tmp_path) / "MT_Crack/Imgs/one.png", levels=(100,))
    assert problems(examine(tmp_path, mtd, mask_above=0)) == {}
    assert set(problems(examine(tmp_path, mtd, mask_above=127))) == {"masks empty"}


def test_a_category_without_masks_is_noted(tmp_path):
    for path in (mvtec(tmp_path) / "nut/ground_truth/crack").iterdir():
        path.unlink()
    (tmp_path / "nut/ground_truth/crack").rmdir()
    (tmp_path / "nut/ground_truth").rmdir()
    rows = examine(tmp_path)
    assert problems(rows) == {}
    assert rows["pictures without masks"].seen.startswith("3 anomalous")


def entry(totals, categories=2):
    return replace(registry_of_sets()["visa"], totals=totals, categories=categories)


def test_counts_are_held_against_the_totals():
    counts = {"nut": Counter(train=3, test=6, test_normal=3, test_anomalous=3), "cap": Counter(train=1)}
    assert check_counts(counts, entry({"nut": {"train": 3, "test_anomalous": 3}})).state == "ok"
    assert check_counts(counts, entry({"": {"train": 4, "test": 6}})).state == "ok"
    row = check_counts(counts, entry({"": {"train": 5}, "nut": {"train": 4, "test": 6}}))
    assert (row.state, row.seen) == ("problem", "2: in all: expected 5 train, got 4; nut: expected 4 train, got 3")
    assert check_counts(counts, None).state == "skipped"
    assert check_counts(counts, entry({})).state == "skipped"


def test_a_part_of_the_categories_is_noted_but_each_is_counted():
    counts = {"candle": Counter(test_normal=100, test_anomalous=100)}
    visa_entry = registry_of_sets()["visa"]
    row = check_counts(counts, visa_entry)
    assert (row.state, row.seen) == ("note", "0 pictures in 1 categories, of 12 categories of VisA: not the whole set")
    counts["candle"]["test_normal"] = 99
    assert "candle: expected 100 test_normal, got 99" in check_counts(counts, visa_entry).seen


@pytest.mark.parametrize(("make", "name", "total"), [(mtd, "mtd", "1,344 all"), (ksdd2, "ksdd2", "2,331 train")])
def test_a_set_of_one_category_is_held_against_its_registry_entry(tmp_path, make, name, total):
    assert f"in all: expected {total}, got " in problems(examine(make(tmp_path), make, name))["counts"]


def test_what_a_run_would_say_stands_in_the_table(tmp_path):
    plant(mvtec(tmp_path), "masks missing")
    with pytest.raises(TrackInputError) as caught:
        MVTec(tmp_path)
    rows = examine(tmp_path)
    assert set(problems(rows)) == {"reader", "masks missing"}
    assert rows["reader"].seen == str(caught.value)


def test_a_set_of_another_reader_is_recognised(tmp_path):
    rows = examine(visa(tmp_path), mvtec)
    assert "it looks like VisA as downloaded: use data=visa" in problems(rows)["reader"]
    assert (rows["layout"].seen, rows["pictures"].state) == ("visa as downloaded: 1 categories", "skipped")


def test_copies_in_the_archive_of_ksdd2_are_no_pictures(tmp_path):
    picture(ksdd2(tmp_path) / "train/00001 (copy).png")
    mask(tmp_path / "train/00001_GT (copy).png")
    assert problems(examine(tmp_path, ksdd2)) == {}
    assert len(list_pictures(KSDD2(tmp_path)).pictures) == 4


def test_a_layout_that_only_the_reader_knows_is_taken_from_it(tmp_path):
    from tracks.datasets.folder import Folder

    good, bad = picture(tmp_path / "fine/0.png"), picture(tmp_path / "broken/0.png")
    mask(tmp_path / "marks/0.png", levels=())
    good.with_name("1.png").write_bytes(bad.read_bytes())

    def reader():
        return Folder(tmp_path, "fine", "broken", "marks", normal_test_dir=None)

    assert "masks empty" in problems(examine(tmp_path, name="folder", reader=reader))
    assert problems(examine(tmp_path))["layout"].startswith("nothing is laid")


def test_damaged_and_missing_weights_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "catalogue.yaml").write_text(
        "a: {what: a, file: a.bin, size: 4, sha256: '0', licence: MIT, source: here}\n"
        "b: {what: b, url: 'http://x.invalid/b', sha256: '0', groups: [official], licence: MIT, source: there}\n"
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue.yaml")
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "none"))
    rows = {row.check: row for row in machine.check_weights([])}
    assert "a: expected" in rows["weights damaged"].seen
    assert "is truncated" in rows["weights damaged"].seen
    assert rows["weights not fetched"].state == "note"
    rows = {row.check: row for row in machine.check_weights(["official"])}
    assert rows["weights missing"].seen == "b; `make weights WEIGHTS=b` fetches it"
    with pytest.raises(TrackInputError, match="weight files to be one of official, a, b"):
        machine.check_weights(["oficial"])


def test_torch_says_what_it_computes_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1e9, 2e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Stand-in")
    monkeypatch.setattr(machine.torch, "device", lambda *_: "cpu")
    assert machine.check_torch().seen.endswith("Stand-in, 1.0 of 2.0 GB free")
    monkeypatch.setattr(torch, "ones", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no kernel image")))
    assert machine.check_torch().state == "problem"
    assert "no kernel image" in machine.check_torch().seen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    assert "cannot be used" in machine.check_torch().seen
    monkeypatch.setattr(Path, "glob", lambda *_: iter([]))
    assert machine.check_torch().state == "note"


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    rows = {row.check: row.state for row in machine.check_folders(tmp_path / "new/outputs")}
    assert rows["outputs writable"] == "ok"

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    rows = {row.check: row for row in machine.check_folders(tmp_path / "new/outputs")}
    assert rows["outputs writable"].state == "problem"
    assert "Permission denied; choose another folder" in rows["outputs writable"].seen


def run(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command."""
    monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
    code = 0
    try:
        run_main(doctor.main)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_exit_code_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = f"data.root={mvtec(tmp_path / 'set')}"
    code, printed, _ = run(monkeypatch, capsys, "data=mvtec", root)
    assert code == 0
    assert printed.endswith("no problems\n")
    plant(tmp_path / "set", "masks empty")
    code, printed, _ = run(monkeypatch, capsys, "data=mvtec", root)
    assert code == 1
    assert printed.endswith("1 problem\n")
    code, _, error = run(monkeypatch, capsys, "data=mvtec", "data.root=nowhere")
    assert code == 2
    assert "error: expected the data set's folder" in error
    code, _, error = run(monkeypatch, capsys, "data=mvtec")
    assert code == 2
    assert "name it with root=folder" in error
    assert run(monkeypatch, capsys)[0] == 0
