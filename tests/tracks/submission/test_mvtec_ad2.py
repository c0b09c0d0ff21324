"""The MVTec AD 2 writer and validator, on stores and counts made here."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from models.baselines.closing import LineClosing
from tests.support.baseline_stand_ins import BASELINES
from tests.support.submission_stand_ins import configured, kinds, make_run, png
from tracks.decide.decision import KeptThresholds
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore
from tracks.submission.archive import write_tar
from tracks.submission.mvtec_ad2 import PUBLISHED_COUNTS, Options, Submission, image_targets, validate
from tracks.submit import submit, submit_configured

COUNTS = {"can": 2, "rice": 1}
CAN, RICE = np.arange(24).reshape(4, 6) / 16, np.full((4, 6), 0.75)


def private_run(folder, split, ending, **settings):
    images = {
        "can": {f"{split}/{n:03d}_{ending}.png": (0.5, CAN + n) for n in range(2)},
        "rice": {f"{split}/000_{ending}.png": (0.5, RICE)},
    }
    return make_run(folder, images, {"split": split, "resolution": "each image's own"}, **settings)


@pytest.fixture
def stores(tmp_path):
    return [
        private_run(tmp_path / "regular", "test_private", "regular"),
        private_run(tmp_path / "mixed", "test_private_mixed", "mixed"),
    ]


@pytest.fixture
def good(tmp_path, stores):
    """A right submission as a folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    assert Submission(stores, Options(threshold=1.0, counts=COUNTS)).write(folder) == []
    return folder


def test_files_lie_and_read_as_the_server_wants_them(good):
    assert len([path for path in good.rglob("*") if path.is_file()]) == 12
    values = tifffile.imread(good / "anomaly_images/can/test_private/001_regular.tiff")
    np.testing.assert_array_equal(values, (CAN + 1).astype(np.float16), strict=True)
    mask = np.asarray(PIL.Image.open(good / "anomaly_images_thresholded/can/test_private_mixed/000_mixed.png"))
    np.testing.assert_array_equal(mask, np.where(CAN > 1.0, 255, 0).astype(np.uint8), strict=True)
    rice = np.asarray(PIL.Image.open(good / "anomaly_images_thresholded/rice/test_private/000_regular.png"))
    assert not rice.any()


def test_the_published_counts_are_those_of_the_checker():
    assert (len(PUBLISHED_COUNTS), sum(PUBLISHED_COUNTS.values())) == (8, 2045)
    targets = image_targets(PUBLISHED_COUNTS)
    assert len(targets) == 4090
    assert {"can/test_private/000_regular", "can/test_private_mixed/320_mixed"} <= set(targets)
    assert "can/test_private/321_regular" not in targets


def test_ours_is_accepted_as_folder_and_as_archive(good, tmp_path):
    assert validate(good, COUNTS) == []
    write_tar(good, tmp_path / "mine.tar.gz")
    assert validate(tmp_path / "mine.tar.gz", COUNTS) == []
    with tarfile.open(tmp_path / "mine.tar.gz") as tar:
        assert {name.split("/")[0] for name in tar.getnames()} == {"mine"}


MAP = "anomaly_images/can/test_private/000_regular.tiff"
RICE_MAP = MAP.replace("can", "rice")
MASK = "anomaly_images_thresholded/can/test_private/000_regular.png"
LEVELS = np.where(CAN > 1, 255, 0).astype(np.uint8)


def tiff(values):
    content = io.BytesIO()
    tifffile.imwrite(content, values)
    return content.getvalue()


HALF = CAN.astype(np.float16)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (MAP, tiff(CAN.astype(np.float32)), "dtype"),
        (MAP, tiff(np.stack([HALF] * 5)), "shape"),
        (MAP, tiff(np.where(HALF > 1, np.float16("nan"), HALF)), "number"),
        (MAP, tiff(HALF)[:60], "unreadable"),
        (MAP, png(LEVELS), "unreadable"),
        (MAP, b"", "unreadable"),
        (MASK, png(np.where(CAN > 1, 1, 0).astype(np.uint8)), "values"),
        (MASK, png(np.stack([LEVELS] * 3, -1)), "shape"),
        (MASK, png(LEVELS > 0), "dtype"),
        (MASK, png(LEVELS.astype(np.uint16)), "dtype"),
        (MASK, png(LEVELS, kind="JPEG"), "unreadable"),
        (MASK, png(LEVELS[:2]), "size"),
    ],
)
def test_each_spoilt_file_is_named_with_its_problem(good, name, content, kind):
    (good / name).write_bytes(content)
    assert kinds(validate(good, COUNTS)) == [(kind, Path(name).name)]


def moved(name, other):
    return lambda folder: (folder / name).rename(folder / other)


def a_link(folder):
    (folder / MAP).unlink()
    (folder / MAP).symlink_to("001_regular.tiff")


def an_empty_folder(folder):
    (folder / "anomaly_images/can/validation").mkdir()


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda folder: (folder / MAP).unlink(), {("missing", "000_regular.tiff")}),
        (moved(RICE_MAP, RICE_MAP.replace("000", "001")),
         {("extra", "001_regular.tiff"), ("missing", "000_regular.tiff")}),
        (moved(MAP, MAP.replace("regular", "mixed")), {("extra", "000_mixed.tiff"), ("missing", "000_regular.tiff")}),
        (lambda folder: shutil.copy(folder / MAP, folder / MAP.replace("000", "002")), {("extra", "002_regular.tiff")}),
        (lambda folder: (folder / ".DS_Store").touch(), {("extra", ".DS_Store")}),
        (lambda folder: shutil.rmtree(folder / "anomaly_images_thresholded/rice"),
         {("missing", "000_regular.png"), ("missing", "000_mixed.png")}),
        (an_empty_folder, {("extra", "validation")}),
        (a_link, {("link", "000_regular.tiff")}),
    ],
)  # fmt: skip
def test_each_spoilt_tree_is_named_with_its_problem(good, tmp_path, spoil, found):
    spoil(good)
    assert set(kinds(validate(good, COUNTS))) == found
    if spoil not in (a_link, an_empty_folder):  # which our writer of archives leaves out
        write_tar(good, tmp_path / "spoilt.tar.gz")
        assert set(kinds(validate(tmp_path / "spoilt.tar.gz", COUNTS))) == found


def repacked(good, archive, names):
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(good, arcname=name)
    return archive


def test_spoilt_archives_are_named(good, tmp_path):
    whole = repacked(good, tmp_path / "a.tar.gz", ["mine"])
    assert validate(whole, COUNTS) == []
    twice = validate(repacked(good, tmp_path / "b.tar.gz", ["mine", "mine"]), COUNTS)
    assert {problem.kind for problem in twice} == {"duplicate"}
    assert len(twice) == 12
    assert {p.kind for p in validate(repacked(good, tmp_path / "c.tar.gz", ["."]), COUNTS)} >= {"root", "missing"}
    two = repacked(good, tmp_path / "d.tar.gz", ["mine", "other"])
    assert {problem.kind for problem in validate(two, COUNTS)} >= {"root"}
    (tmp_path / "plain.tar.gz").write_bytes(gzip.decompress(whole.read_bytes()))
    assert kinds(validate(tmp_path / "plain.tar.gz", COUNTS)) == [("unreadable", "plain.tar.gz")]
    assert kinds(validate(tmp_path / "nowhere.tar.gz", COUNTS)) == [("unreadable", "nowhere.tar.gz")]


def test_an_archive_cut_anywhere_or_with_a_changed_byte_is_unreadable(good, tmp_path):
    whole = repacked(good, tmp_path / "whole.tar.gz", ["mine"]).read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    for length in [1, 10, *range(200, len(whole), 151), len(whole) - 1]:
        damaged.write_bytes(whole[:length])
        assert ("unreadable", damaged.name) in kinds(validate(damaged, COUNTS)), f"cut after {length} bytes"
    damaged.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])  # the checksum
    assert kinds(validate(damaged, COUNTS)) == [("unreadable", damaged.name)]
    cut_between_headers = gzip.decompress(whole)[:700]  # packed again whole, so only the header shows it
    damaged.write_bytes(gzip.compress(cut_between_headers))
    assert ("unreadable", damaged.name) in kinds(validate(damaged, COUNTS))


def test_binary_maps_may_be_left_out_and_are_then_extra(stores, good, tmp_path):
    submission = Submission(stores, Options(thresholded=False, counts=COUNTS))
    (tmp_path / "maps").mkdir()
    assert "no binary maps" in submission.write(tmp_path / "maps")[0]
    assert validate(tmp_path / "maps", COUNTS, thresholded=False) == []
    assert len(validate(tmp_path / "maps", COUNTS)) == 6
    assert {problem.kind for problem in validate(good, COUNTS, thresholded=False)} == {"extra"}


def test_the_threshold_comes_from_normal_images_of_the_same_method(stores, tmp_path):
    rng = np.random.default_rng(0)
    maps = [rng.normal(3, 0.25, (9, 7)).astype(np.float16) for _ in range(3)]
    images = {"can": {f"validation/good/{n}.png": (0.1, m) for n, m in enumerate(maps)}}
    images["rice"] = {"validation/good/0.png": (0.1, np.full((2, 2), 0.5))}
    run = make_run(tmp_path / "validation", images, {"split": "validation"})
    options = Options(threshold_run=str(run.folder), threshold_stds=2.0, counts=COUNTS)
    found = Submission(stores, options).thresholds
    pixels = np.concatenate([m.ravel() for m in maps]).astype(np.float64)
    assert found == pytest.approx({"can": pixels.mean() + 2 * pixels.std(), "rice": 0.5}, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"split": "test_public"}, "with split test_public"),
        ({"split": "validation", "weights": "other"}, "differ in weights"),
        ({"split": "validation", "categories": ("can",)}, "expected normal images of rice"),
    ],
)
def test_a_threshold_from_elsewhere_is_refused(stores, tmp_path, settings, text):
    images = {name: {"validation/good/0.png": (0.1, CAN)} for name in settings.get("categories", ("can", "rice"))}
    run = make_run(
        tmp_path / "other", images, {"split": settings["split"]}, weights=settings.get("weights", "stand-in")
    )
    with pytest.raises(TrackInputError, match=text):
        Submission(stores, Options(threshold_run=str(run.folder), counts=COUNTS))


def test_the_models_own_thresholds_and_closed_lines_arrive_in_the_archive(tmp_path):
    """What SuperADD learns of references is kept by a run, and decides the binary maps that are written."""
    model, rng, stores = BASELINES["superadd"](), np.random.default_rng(0), []
    for name in COUNTS:
        model.fit([torch.from_numpy(rng.integers(0, 256, (3, 48, 64), np.uint8)) for _ in range(3)], name)
    for split, ending in (("test_private", "regular"), ("test_private_mixed", "mixed")):
        images = {
            name: {
                f"{split}/{n:03d}_{ending}.png": (0.5, model.map_threshold(name) * rng.uniform(0.5, 1.05, (30, 40)))
                for n in range(count)
            }
            for name, count in COUNTS.items()
        }
        stores.append(make_run(tmp_path / ending, images, {"split": split, "resolution": "each image's own"}, shots=3))
        for name in COUNTS:
            KeptThresholds(stores[-1].folder, 0.05).keep_fitted(name, model)
    options = Options(threshold="model", closing=3, counts=COUNTS)
    submission = Submission(stores, options)
    assert submission.thresholds == {name: model.map_threshold(name) for name in COUNTS}
    assert "closed along 16 lines of radius 3 px" in str(submission.record["binary_maps"])
    (tmp_path / "out").mkdir()
    submission.write(tmp_path / "out")
    assert validate(tmp_path / "out", COUNTS) == []
    values = tifffile.imread(tmp_path / "out" / RICE_MAP)
    mask = np.asarray(PIL.Image.open(tmp_path / "out" / MASK.replace("can", "rice"))) > 0
    np.testing.assert_array_equal(mask, LineClosing(3)(values, model.map_threshold("rice")))
    assert 0 < mask.mean() < 1
    assert (mask != (values > model.map_threshold("rice"))).any()


def test_maps_are_made_smaller_on_request(stores, tmp_path):
    (tmp_path / "small").mkdir()
    Submission(stores, Options(threshold=0.7, downscale=2, counts=COUNTS)).write(tmp_path / "small")
    values = tifffile.imread(tmp_path / "small" / MAP)
    expected = CAN.reshape(2, 2, 3, 2).mean((1, 3)).astype(np.float16)
    np.testing.assert_array_equal(values, expected, strict=True)
    mask = np.asarray(PIL.Image.open(tmp_path / "small" / MASK))
    np.testing.assert_array_equal(mask > 0, expected > 0.7)
    assert validate(tmp_path / "small", COUNTS) == []


def test_what_is_lacking_and_the_wrong_size_are_remarked_upon(tmp_path):
    run = private_run(tmp_path / "run", "test_private", "regular")
    run.settings["protocol"]["resolution"] = "256 x 256"
    (tmp_path / "out").mkdir()
    said = Submission([run], Options(threshold=0.0, counts=COUNTS)).write(tmp_path / "out")
    assert said[0] == "can: 2 of 4 images are in no run, can/test_private_mixed/000_mixed first"
    assert said[1].startswith("rice: 1 of 2")
    assert "ARGS=resolution=native" in said[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "expected a threshold"),
        ({"threshold": 1.0, "threshold_run": "x"}, "got both"),
        ({"threshold": 1.0, "downscale": 0}, "downscale >= 1"),
        ({"threshold": 1.0, "closing": 0}, "closing >= 1 or null"),
        ({"threshold": "best"}, "a number or model, got 'best'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text):
    with pytest.raises(TrackInputError, match=text):
        Options(**options)


@pytest.mark.parametrize(
    "name", ["test_public/good/000.png", "test_private/000_mixed.png", "test_private/00_regular.png"]
)
def test_images_of_other_sets_are_refused(tmp_path, name):
    run = make_run(tmp_path / "run", {"can": {name: (0.5, CAN)}}, {})
    with pytest.raises(TrackInputError, match="expected images of the private test sets"):
        Submission([run], Options(threshold=1.0))


def test_unlike_or_unfinished_runs_or_one_image_twice_are_refused(tmp_path, stores):
    other = private_run(tmp_path / "other", "test_private_mixed", "mixed", weights="better")
    with pytest.raises(TrackInputError, match="differ in weights"):
        Submission([stores[0], other], Options(threshold=1.0))
    again = private_run(tmp_path / "again", "test_private", "regular")
    with pytest.raises(TrackInputError, match="one image for can/test_private/000_regular"):
        Submission([stores[0], again], Options(threshold=1.0))
    (stores[0].folder / "results.json").unlink()
    with pytest.raises(TrackInputError, match="expected a finished run"):
        Submission(stores, Options(threshold=1.0))


def test_a_threshold_that_the_model_has_not_learnt_is_refused(stores):
    with pytest.raises(TrackInputError, match=r"threshold of the maps of can in .*superadd"):
        Submission(stores, Options(threshold="model", counts=COUNTS))


def test_maps_that_are_no_numbers_are_refused(tmp_path):
    run = make_run(tmp_path / "run", {"can": {"test_private/000_regular.png": (0.5, np.full((2, 2), np.inf))}}, {})
    with pytest.raises(TrackInputError, match=r"finite map of can/test_private/000_regular\.png"):
        Submission([run], Options(threshold=1.0)).write(tmp_path)


def test_the_command_writes_archive_and_record_and_replaces_its_own(stores, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "sub/entry"))
    runs = f"run=[{stores[0].folder},{stores[1].folder}]"
    chosen = [runs, "format=mvtec_ad2", "mvtec_ad2.threshold=1.0", "mvtec_ad2.counts={can:2,rice:1}"]
    assert submit_configured(configured(*chosen)) == []
    first = (tmp_path / "sub/entry.tar.gz").read_bytes()
    assert submit_configured(configured(*chosen)) == []
    assert (tmp_path / "sub/entry.tar.gz").read_bytes() == first, "equal runs make equal archives"
    record = json.loads((tmp_path / "sub/entry.json").read_text())
    assert (record["format"], record["thresholds"]) == ("mvtec_ad2", {"can": 1.0, "rice": 1.0})
    assert "read back: 12 files written, no problems" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["entry", "entry.json", "entry.tar.gz"]
    incomplete = submit_configured(configured(*chosen[:3]))
    assert len(incomplete) == 2 * 4090 - 12
    assert {problem.kind for problem in incomplete} == {"missing"}


def test_other_peoples_archives_are_never_replaced(stores, tmp_path):
    submission = Submission(stores, Options(threshold=1.0, counts=COUNTS))
    (tmp_path / "taken.tar.gz").write_text("mine")
    with pytest.raises(TrackInputError, match=r"taken.tar.gz, which holds other files"):
        submit(submission, tmp_path / "taken")
    (tmp_path / "ours.zip").write_text("mine too")
    assert submit(submission, tmp_path / "ours") == []
    assert (tmp_path / "ours.zip").read_text() == "mine too"


def test_a_store_reopened_gives_the_same(stores):
    again = [PredictionStore(store.folder) for store in stores]
    assert Submission(again, Options(threshold=1.0)).record == Submission(stores, Options(threshold=1.0)).record
