"""The VAND 2023 writer and validator, on stores made here."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.submission_stand_ins import configured, files_below, kinds, make_run
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore
from tracks.submission.archive import replace_submission
from tracks.submission.base import Problem
from tracks.submission.vand2023 import Options, Submission, validate
from tracks.submit import main, submit, submit_configured

PROTOCOL = {"map_bound": 1.0, "few_shot_map_bound": 4.0}


def two_bolts(folder, **options):
    maps = {"a.png": (0.25, np.full((6, 8), 0.5)), "b.JPG": (1.0, np.linspace(0, 1, 48).reshape(6, 8))}
    return make_run(folder, {"bolt": maps}, PROTOCOL, **options)


def written_to(folder, stores, options):
    submission = Submission(stores, options)
    folder.mkdir()
    return submission.write(folder)


def targets(stores, **options):
    return [image.target for image in Submission(stores, Options(**options)).images]


def submitted(stores, out, options):
    return submit(Submission(stores, options), out)


BOTH = ["0shot/0/bolt/Unknown/a", "0shot/0/bolt/Unknown/b"]


@pytest.fixture
def good(tmp_path):
    """A right submission of two images, and their targets."""
    assert written_to(tmp_path / "good", [two_bolts(tmp_path / "run")], Options(map_size=8))[0].endswith("2 images")
    return tmp_path / "good", BOTH


def test_files_lie_where_the_format_wants_them_and_scores_have_five_decimals(good):
    assert files_below(good[0]) == [
        "0shot/0/bolt/Unknown/classification/a.txt",
        "0shot/0/bolt/Unknown/classification/b.txt",
        "0shot/0/bolt/Unknown/segmentation/a.npz",
        "0shot/0/bolt/Unknown/segmentation/b.npz",
    ]
    folder = good[0] / "0shot/0/bolt/Unknown/classification"
    assert (folder / "a.txt").read_bytes() == b"0.25000"
    assert (folder / "b.txt").read_bytes() == b"1.00000"


def test_maps_are_one_uint8_array_named_img(good):
    folder = good[0] / "0shot/0/bolt/Unknown/segmentation"
    with np.load(folder / "a.npz") as arrays:
        assert arrays.files == ["img"]
        np.testing.assert_array_equal(arrays["img"], np.full((8, 8), 128, dtype=np.uint8), strict=True)
    with np.load(folder / "b.npz") as arrays:
        ramp = arrays["img"]
    assert ramp.dtype == np.uint8
    assert (ramp[0, 0], ramp[-1, -1]) == (0, 255)
    assert (np.diff(ramp.astype(int), axis=1) >= 0).all()


def test_a_map_of_the_wanted_size_is_scaled_and_rounded_only(tmp_path):
    anomaly_map = np.random.default_rng(0).random((8, 8)).astype(np.float16)
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (0.0, anomaly_map)}}, PROTOCOL, shots=2, seed=3)
    written_to(tmp_path / "out", [store], Options(map_size=8))
    with np.load(tmp_path / "out/2shot/3/bolt/Unknown/segmentation/a.npz") as arrays:
        found = arrays["img"]
    expected = np.array([[round(255 * float(value) / 4.0) for value in line] for line in anomaly_map], dtype=np.uint8)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("level", "folder"),
    [("Unknown", "5shot/1/bolt/Unknown"), ("none", "5shot/1/bolt"), ("defect_type", "5shot/1/bolt/dent")],
)
def test_the_level_below_the_category(tmp_path, level, folder):
    store = make_run(
        tmp_path / "run", {"bolt": {"test/dent/a.png": (0.5, np.zeros((4, 4)))}}, PROTOCOL, shots=5, seed=1
    )
    assert targets([store], level=level) == [f"{folder}/a"]


def test_run_number_is_the_seed_but_0_without_shots_and_can_be_given(tmp_path):
    zero, few = two_bolts(tmp_path / "zero", shots=0, seed=7), two_bolts(tmp_path / "few", shots=5, seed=2)
    assert targets([zero, few]) == [*BOTH, "5shot/2/bolt/Unknown/a", "5shot/2/bolt/Unknown/b"]
    assert targets([few], run_number=1) == ["5shot/1/bolt/Unknown/a", "5shot/1/bolt/Unknown/b"]


def test_remarks_name_what_the_challenge_did_not_have(tmp_path):
    usual = written_to(tmp_path / "x", [two_bolts(tmp_path / "a", shots=5, seed=2)], Options(map_size=8))
    odd = written_to(tmp_path / "y", [two_bolts(tmp_path / "b", shots=4, seed=9)], Options(map_size=8))
    assert [text.split(":")[0] for text in usual] == ["5shot/2/bolt/Unknown", usual[1]]
    assert [text.split(":")[0] for text in odd[1:3]] == ["4 shots", "run 9"]


def test_two_images_of_one_stem_are_refused_and_the_remedy_works(tmp_path):
    images = {f"test/{kind}/000.png": (0.5, np.zeros((4, 4))) for kind in ("dent", "scratch")}
    store = make_run(tmp_path / "run", {"bolt": images}, PROTOCOL)
    with pytest.raises(TrackInputError, match=r"test/dent/000.png and test/scratch/000.png.*level=defect_type"):
        targets([store], level="Unknown")
    assert len(targets([store], level="defect_type")) == len(targets([store])) == 2
    images = {name: (0.5, np.zeros((4, 4))) for name in ("a.png", "a.jpg")}
    with pytest.raises(TrackInputError, match=r"a.png and a.jpg"):
        targets([make_run(tmp_path / "suffixes", {"bolt": images}, PROTOCOL)])


def test_two_runs_with_one_place_are_refused(tmp_path):
    runs = [two_bolts(tmp_path / name, shots=1) for name in ("first", "second")]
    with pytest.raises(TrackInputError, match=r"first and .*second, which both hold 1shot/0/bolt"):
        targets(runs)


def test_an_unfinished_or_empty_run_is_refused(tmp_path):
    killed = two_bolts(tmp_path / "killed")
    (killed.folder / "results.json").unlink()
    with pytest.raises(TrackInputError, match="expected a finished run"):
        targets([killed])
    with pytest.raises(TrackInputError, match="expected predictions of nut"):
        targets([make_run(tmp_path / "empty", {"nut": {}}, PROTOCOL)])


def test_fixed_knows_nothing_of_the_other_images(tmp_path):
    weak, strong = np.full((4, 4), 0.2), np.full((4, 4), 0.9)
    alone = make_run(tmp_path / "alone", {"bolt": {"a.png": (0.2, weak)}}, PROTOCOL)
    both = make_run(tmp_path / "both", {"bolt": {"a.png": (0.2, weak), "b.png": (0.9, strong)}}, PROTOCOL)
    for name, store in (("x", alone), ("y", both)):
        written_to(tmp_path / name, [store], Options(map_size=4))
    for file in ("classification/a.txt", "segmentation/a.npz"):
        where = f"0shot/0/bolt/Unknown/{file}"
        assert (tmp_path / "x" / where).read_bytes() == (tmp_path / "y" / where).read_bytes()


BOLTS = (("a", 3.0, 10.0), ("b", 7.0, 30.0), ("c", 4.0, 15.0))
NUTS = (("a", 1.0, 0.1), ("b", 2.0, 0.2))


def test_category_minmax_stretches_each_category_over_the_whole_range(tmp_path):
    images = {
        "bolt": {f"{stem}.png": (score, np.full((4, 4), value)) for stem, score, value in BOLTS},
        "nut": {f"{stem}.png": (score, np.full((4, 4), value)) for stem, score, value in NUTS},
    }
    store = make_run(tmp_path / "run", images, PROTOCOL)
    written_to(tmp_path / "out", [store], Options(map_size=4, normalise="category_minmax"))
    found = {}
    for category, stems in (("bolt", "abc"), ("nut", "ab")):
        for stem in stems:
            folder = tmp_path / f"out/0shot/0/{category}/Unknown"
            pixel = np.load(folder / f"segmentation/{stem}.npz")["img"][0, 0]
            found[category, stem] = (float((folder / f"classification/{stem}.txt").read_text()), int(pixel))
    assert found == {
        ("bolt", "a"): (0.0, 0),
        ("bolt", "b"): (1.0, 255),
        ("bolt", "c"): (0.25, 64),
        ("nut", "a"): (0.0, 0),
        ("nut", "b"): (1.0, 255),
    }
    for normalise, word in (("category_minmax", "transductive"), ("fixed", "inductive")):
        assert Submission([store], Options(normalise=normalise)).record["normalise"].startswith(word)


def test_map_max_is_the_largest_pixel_of_the_submitted_map(tmp_path):
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (55.0, np.array([[0.0, 0.5], [0.25, 0.75]]))}}, PROTOCOL)
    written_to(tmp_path / "out", [store], Options(map_size=2, image_scores="map_max"))
    assert (tmp_path / "out/0shot/0/bolt/Unknown/classification/a.txt").read_text() == "0.75000"


@pytest.mark.parametrize(
    ("score", "value", "text"),
    [
        (1.5, 0.5, r"the image score of bolt/a.png within \[0, 1\].*1.5.*image_scores=map_max"),
        (-0.1, 0.5, r"the image score of bolt/a.png within \[0, 1\]"),
        (float("nan"), 0.5, "finite image score of bolt/a.png"),
        (0.5, float("nan"), "finite map of bolt/a.png"),
        (0.5, float("inf"), "finite map of bolt/a.png"),
    ],
)
@pytest.mark.parametrize("normalise", ["fixed", "category_minmax"])
def test_scores_outside_0_to_1_and_numbers_that_are_none_are_refused(tmp_path, score, value, text, normalise):
    other = {"b.png": (0.5, np.full((4, 4), 0.2))}
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (score, np.full((4, 4), value)), **other}}, PROTOCOL)
    if normalise == "category_minmax" and "within" in text:
        written_to(
            tmp_path / "out", [store], Options(map_size=4, normalise=normalise)
        )  # stretched, so nothing is outside
        return
    with pytest.raises(TrackInputError, match=text):
        written_to(tmp_path / "out", [store], Options(map_size=4, normalise=normalise))


def test_map_values_outside_a_fixed_range_are_cut_and_counted(tmp_path):
    ramp = np.linspace(0, 1, 16).reshape(4, 4)
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (0.5, ramp)}}, PROTOCOL)
    said = written_to(tmp_path / "out", [store], Options(map_size=4, map_range=(0.25, 0.5)))
    expected = np.rint(np.clip((ramp.astype(np.float16) - 0.25) / 0.25, 0, 1) * 255)
    found = np.load(tmp_path / "out/0shot/0/bolt/Unknown/segmentation/a.npz")["img"]
    np.testing.assert_array_equal(found, expected)
    assert said[1].startswith(f"{((ramp < 0.25) | (ramp > 0.5)).mean():.3%} of all map pixels")


def test_few_grey_levels_are_remarked_upon_and_many_are_not(tmp_path):
    ramp = np.linspace(0, 1, 40 * 40).reshape(40, 40)
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (0.5, ramp)}}, PROTOCOL)
    assert written_to(tmp_path / "many", [store], Options(map_size=40))[1:] == []
    few = written_to(tmp_path / "few", [store], Options(map_size=40, map_range=(0.0, 20.0)))
    assert few[1].startswith(f"the maps use {round(255 / 20) + 1} of 256 grey levels")


def test_a_model_that_states_no_bound_needs_a_range(tmp_path):
    store = make_run(tmp_path / "run", {"bolt": {"a.png": (0.5, np.full((4, 4), 2.0))}}, {})
    with pytest.raises(TrackInputError, match=r"map_bound in run\.json"):
        written_to(tmp_path / "out", [store], Options(map_size=4))
    written_to(tmp_path / "told", [store], Options(map_size=4, map_range=(0.0, 4.0)))
    assert np.load(tmp_path / "told/0shot/0/bolt/Unknown/segmentation/a.npz")["img"][0, 0] == 128


WRONG = (
    {"level": "unknown_"},
    {"normalise": "minmax"},
    {"image_scores": "mean"},
    {"map_size": 0},
    {"map_range": (1, 1)},
)


@pytest.mark.parametrize("wrong", WRONG)
def test_options_that_do_not_exist_are_refused(wrong):
    with pytest.raises(TrackInputError, match=next(iter(wrong))):
        Options(**wrong)


def test_a_right_submission_has_no_problems(good, tmp_path):
    folder, expected = good
    assert validate(folder, expected, 8) == []
    archive = shutil.make_archive(str(tmp_path / "good"), "zip", folder)
    assert validate(Path(archive), expected, 8) == []


def npz(**arrays):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


PIXELS = np.zeros((8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", b"1.00001", "range"),
        ("a.txt", b"-0.10000", "range"),
        ("a.txt", b"nan", "number"),
        ("a.txt", b"high", "number"),
        ("a.txt", b"", "number"),
        ("a.txt", b"\xff\xfe", "number"),
        ("a.txt", b"0.5", "format"),
        ("a.txt", b"0.50000\n", "format"),
        ("b.npz", npz(map=PIXELS), "name"),
        ("b.npz", npz(img=PIXELS, other=PIXELS), "name"),
        ("b.npz", npz(img=PIXELS.astype(np.float32)), "dtype"),
        ("b.npz", npz(img=PIXELS.astype(bool)), "dtype"),
        ("b.npz", npz(img=PIXELS[:7]), "shape"),
        ("b.npz", npz(img=PIXELS[None]), "shape"),
        ("b.npz", npz(img=PIXELS)[:-30], "unreadable"),
        ("b.npz", b"no archive", "unreadable"),
        ("b.npz", npz(img=np.array([{}], dtype=object)), "unreadable"),
    ],
)
def test_each_spoilt_file_is_named_with_its_problem(good, name, content, kind):
    folder, expected = good
    next(folder.rglob(name)).write_bytes(content)
    assert kinds(validate(folder, expected, 8)) == [(kind, name)]


def test_missing_extra_and_misplaced_files_are_named(good):
    folder, expected = good
    root = folder / "0shot/0/bolt/Unknown"
    (root / "classification/a.txt").unlink()
    (root / "segmentation/b.npz").rename(root / "segmentation/b.NPZ")
    (folder / ".DS_Store").write_bytes(b"")
    assert kinds(validate(folder, expected, 8)) == [
        ("extra", ".DS_Store"), ("extra", "b.NPZ"), ("missing", "a.txt"), ("missing", "b.npz")
    ]  # fmt: skip


def test_an_archive_with_a_file_twice_or_damaged_is_noticed(good, tmp_path):
    folder, expected = good
    archive = Path(shutil.make_archive(str(tmp_path / "twice"), "zip", folder))
    with zipfile.ZipFile(archive, "a") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr("0shot/0/bolt/Unknown/classification/a.txt", "0.10000")
    assert kinds(validate(archive, expected, 8)) == [("duplicate", "a.txt")]
    archive.write_bytes(archive.read_bytes()[:-40])
    assert kinds(validate(archive, expected, 8)) == [("unreadable", "twice.zip")]
    assert kinds(validate(tmp_path / "nowhere.zip", expected, 8)) == [("unreadable", "nowhere.zip")]


def test_a_flipped_byte_in_the_archive_is_noticed(tmp_path):
    submitted([two_bolts(tmp_path / "run")], tmp_path / "out", Options(map_size=8))
    content = bytearray((tmp_path / "out.zip").read_bytes())
    content[content.index(b"0.25000")] ^= 1
    (tmp_path / "out.zip").write_bytes(content)
    found = kinds(validate(tmp_path / "out.zip", BOTH, 8))
    assert found == [("unreadable", "a.txt")]


def test_submit_writes_folder_zip_and_record_and_replaces_its_own(tmp_path, capsys):
    out = tmp_path / "sub/vand"
    assert submitted([two_bolts(tmp_path / "run")], out, Options(map_size=8)) == []
    with zipfile.ZipFile(tmp_path / "sub/vand.zip") as archive:
        assert sorted(archive.namelist()) == files_below(out)
    first = (tmp_path / "sub/vand.zip").read_bytes()
    record = json.loads((tmp_path / "sub/vand.json").read_text())
    assert record["map_range_of_run"] == {str(tmp_path / "run"): [0.0, 1.0]}
    assert record["normalise"].startswith("inductive")
    printed = capsys.readouterr().out
    assert "0shot/0/bolt/Unknown: 2 images" in printed
    assert "no problems" in printed
    assert submitted([two_bolts(tmp_path / "other", shots=1)], out, Options(map_size=8)) == []
    assert files_below(out)[0].startswith("1shot/0/")
    assert submitted([PredictionStore(tmp_path / "run")], out, Options(map_size=8)) == []
    assert (tmp_path / "sub/vand.zip").read_bytes() == first, "equal runs make equal archives"
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["vand", "vand.json", "vand.zip"]


def test_other_peoples_files_are_never_replaced(tmp_path):
    run = two_bolts(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(TrackInputError, match="holds other files"):
        submitted([run], tmp_path / "mine", Options(map_size=8))
    assert files_below(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "taken.zip").write_text("mine too")
    with pytest.raises(TrackInputError, match=r"taken.zip, which holds other files"):
        submitted([run], tmp_path / "taken", Options(map_size=8))
    assert (tmp_path / "taken.zip").read_text() == "mine too"


def test_a_failed_write_leaves_the_earlier_submission(tmp_path):
    out = tmp_path / "out"
    replace_submission(out, {"n": 1}, lambda folder: (folder / "a").write_text("1"))

    def fails(folder):
        (folder / "b").write_text("2")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_submission(out, {"n": 2}, fails)
    assert files_below(tmp_path) == ["out.json", "out.zip", "out/a"]
    assert json.loads((tmp_path / "out.json").read_text()) == {"n": 1}


def test_the_command_takes_run_and_out_from_the_environment(tmp_path, monkeypatch):
    run = two_bolts(tmp_path / "my run, [1]").folder
    monkeypatch.setenv("VANDKIT_RUN", str(run))
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out = here"))
    assert submit_configured(configured()) == []
    assert len(files_below(tmp_path / "out = here")) == 4
    assert validate(tmp_path / "out = here.zip", BOTH) == []


def test_the_command_takes_several_runs(tmp_path, monkeypatch):
    for seed in (0, 1):
        two_bolts(tmp_path / f"run{seed}", shots=5, seed=seed)
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out"))
    assert submit_configured(configured(f"run=[{tmp_path}/run0,{tmp_path}/run1]", "map_size=8", "level=none")) == []
    assert {path[:12] for path in files_below(tmp_path / "out")} == {"5shot/0/bolt", "5shot/1/bolt"}


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["run=null"], "expected the folder of a finished run, got none"),
        (["run=/no/such/run"], "expected a run folder"),
        (["format=vand2032"], "did you mean vand2023"),
        (["map_range=[1,0]"], "low < high"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(tmp_path, monkeypatch, overrides, text):
    monkeypatch.setenv("VANDKIT_RUN", str(two_bolts(tmp_path / "run").folder))
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out"))
    with pytest.raises(TrackInputError, match=text):
        submit_configured(configured(*overrides))
    assert not (tmp_path / "out").exists()


def test_problems_are_printed_and_end_in_exit_code_2(tmp_path, monkeypatch, capsys):
    problems = [Problem("missing", f"x/{number}.txt", "no such file") for number in range(25)]
    monkeypatch.setattr("tracks.submission.vand2023.validate", lambda *arguments: problems)
    monkeypatch.setenv("VANDKIT_RUN", str(two_bolts(tmp_path / "run").folder))
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stopped:
        main(configured("map_size=8"))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "problem, missing: x/0.txt: no such file" in printed.err
    assert "... and 5 more" in printed.err
    assert "25 problems" in printed.out
