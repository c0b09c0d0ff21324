"""The CSIG writer and validator, on stores made here; small maps by the setting `size`."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support.submission_stand_ins import configured, kinds, make_run, png
from tracks.errors import TrackInputError
from tracks.submission.archive import write_archive
from tracks.submission.csig import Options, Submission, mask_file, read_samples, validate
from tracks.submit import submit_configured

SAMPLES = ["lock/S1", "lock/S2", "tire/S1"]
PROTOCOL = {"map_bound": 2.0}


def value(category, sample, view):
    return (view + 1) / 8 + {"lock/S1": 0, "lock/S2": 0.5, "tire/S1": 1}[f"{category}/{sample}"]


def run_of(folder, protocol=PROTOCOL, views=range(5)):
    images = {}
    for name in SAMPLES:
        category, sample = name.split("/")
        images.setdefault(category, {}).update(
            {
                f"test/{sample}/{v}.png": (value(category, sample, v) - 1, np.full((4, 6), value(category, sample, v)))
                for v in views
            }
        )
    return make_run(folder, images, protocol)


@pytest.fixture
def good(tmp_path):
    """A right submission as a folder."""
    folder = tmp_path / "good"
    folder.mkdir()
    Submission([run_of(tmp_path / "run")], Options(size=8)).write(folder)
    return folder


def test_files_lie_and_read_as_the_kit_wants_them(good):
    assert (good / "submission.csv").read_bytes().decode() == (
        "\ufeffgroup_folder,anomaly_score\nlock/S1,-0.375\nlock/S2,0.125\ntire/S1,0.625\n"
    )
    assert len(list(good.rglob("*.png"))) == 15
    for sample, view in (("lock/S1", 0), ("lock/S2", 3), ("tire/S1", 4)):
        with PIL.Image.open(good / mask_file(sample, view)) as image:
            grey = round(255 * value(*sample.split("/"), view) / 2.0)
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), np.full((8, 8), grey, np.uint8), strict=True)


def test_the_mean_of_the_views_and_no_byte_order_mark(tmp_path):
    (tmp_path / "out").mkdir()
    Submission([run_of(tmp_path / "run")], Options(size=4, sample_score="mean", bom=False)).write(tmp_path / "out")
    lines = (tmp_path / "out/submission.csv").read_text().splitlines()
    assert lines == ["group_folder,anomaly_score", "lock/S1,-0.625", "lock/S2,-0.125", "tire/S1,0.375"]


def test_by_the_category_s_own_range_the_whole_of_grey_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    submission = Submission([run_of(tmp_path / "run", {})], Options(size=4, normalise="category_minmax"))
    submission.write(tmp_path / "out")

    def grey(sample, view):
        return int(np.asarray(PIL.Image.open(tmp_path / "out" / mask_file(sample, view)))[0, 0])

    assert [grey("lock/S1", 0), grey("lock/S2", 4)] == [0, 255]
    assert [grey("tire/S1", view) for view in range(5)] == [0, 64, 128, 191, 255]
    assert submission.record["normalise"].startswith("transductive")


def test_values_beyond_a_told_range_are_cut_and_said(tmp_path):
    (tmp_path / "out").mkdir()
    said = Submission([run_of(tmp_path / "run", {})], Options(size=4, map_range=(0.5, 1.0))).write(tmp_path / "out")
    every = np.array([value(*name.split("/"), view) for name in SAMPLES for view in range(5)])
    assert said[0].startswith(f"{((every < 0.5) | (every > 1.0)).mean():.3%} of all map pixels")


def test_a_model_that_states_no_bound_needs_a_range(tmp_path):
    with pytest.raises(TrackInputError, match=r"map_bound in run\.json"):
        Submission([run_of(tmp_path / "run", {})], Options())


def test_views_that_lack_and_names_that_do_not_fit_are_refused(tmp_path):
    store = run_of(tmp_path / "run", views=[0, 1, 2, 4])
    with pytest.raises(TrackInputError, match=r"expected views 0 to 4 of lock/S1, got \[0, 1, 2, 4\]"):
        Submission([store], Options())
    with pytest.raises(TrackInputError, match="describe their names"):
        Submission([store], Options(image_name=r"(?P<sample>T\d)/(?P<view>\d)"))
    other = make_run(tmp_path / "other", {"lock": {f"S1_v{n}.png": (0.0, np.ones((2, 2))) for n in range(5)}}, PROTOCOL)
    assert list(Submission([other], Options(image_name=r"(?P<sample>S\d)_v(?P<view>\d)")).samples) == ["lock/S1"]


def test_a_score_or_a_map_that_is_no_number_is_refused(tmp_path):
    for number, (score, pixel) in enumerate([(np.nan, 1.0), (0.5, np.nan)]):
        images = {"lock": {f"S1/{n}.png": (float(score), np.full((2, 2), pixel)) for n in range(5)}}
        store = make_run(tmp_path / f"run{number}", images, PROTOCOL)
        with pytest.raises(TrackInputError, match=r"finite .* of lock/S1/0\.png"):
            Submission([store], Options(size=4)).write(tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sample_score": "median"}, "sample_score"),
        ({"normalise": "minmax"}, "normalise"),
        ({"map_range": (1, 0)}, "low < high"),
        ({"size": 0}, "csig.size"),
        ({"image_name": "("}, "expected csig.image_name to be a pattern"),
        ({"image_name": r"(?P<sample>x)"}, "groups"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text):
    with pytest.raises(TrackInputError, match=text):
        Options(**options)


def test_ours_is_accepted_zipped_and_as_a_folder(good, tmp_path):
    assert validate(good, SAMPLES, size=8) == []
    write_archive(good, tmp_path / "good.zip")
    assert validate(tmp_path / "good.zip", SAMPLES, size=8) == []
    table = (good / "submission.csv").read_text("utf-8-sig")
    (good / "submission.csv").write_text(table)
    assert validate(good, SAMPLES, size=8) == [], "without a byte-order mark"


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
MASK = "predicted_masks/lock/S2/3_mask.png"
LINES = "group_folder,anomaly_score\nlock/S1,0.1\nlock/S2,0.2\ntire/S1,0.3\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (MASK, png(GREY[:7]), "shape"),
        (MASK, png(GREY, "RGB"), "dtype"),
        (MASK, png(GREY.astype(np.uint16)), "dtype"),
        (MASK, png(GREY, "1"), "dtype"),
        (MASK, png(GREY, kind="JPEG"), "unreadable"),
        (MASK, png(GREY)[:50], "unreadable"),
        ("submission.csv", LINES.replace("0.2", "high").encode(), "number"),
        ("submission.csv", LINES.replace("0.2", "inf").encode(), "number"),
        ("submission.csv", LINES.replace("0.2", "").encode(), "number"),
        ("submission.csv", LINES.replace("0.2", "0.2,1").encode(), "columns"),
        ("submission.csv", LINES.replace("anomaly_score", "score").encode(), "header"),
        ("submission.csv", b"", "header"),
        ("submission.csv", LINES.encode("utf-16"), "encoding"),
        ("submission.csv", LINES.replace("lock/S2,0.2\n", "").encode(), "lacking"),
        ("submission.csv", (LINES + "lock/S2,0.3\n").encode(), "twice"),
        ("submission.csv", (LINES + "lock/S9,0.3\n").encode(), "unknown"),
    ],
)
def test_each_spoilt_file_is_named_with_its_problem(good, name, content, kind):
    (good / name).write_bytes(content)
    assert kinds(validate(good, SAMPLES, size=8)) == [(kind, Path(name).name)]


def test_missing_extra_and_misplaced_files_are_named(good, tmp_path):
    (good / MASK).unlink()
    shutil.copy(good / mask_file("lock/S1", 0), good / "predicted_masks/lock/S1/5_mask.png")
    (good / "predicted_masks/lock/S3").mkdir()
    (good / "submission.csv").rename(good / "scores.csv")
    assert kinds(validate(good, SAMPLES, size=8)) == [
        ("extra", "5_mask.png"), ("extra", "S3"), ("extra", "scores.csv"), ("missing", "3_mask.png"),
        ("missing", "submission.csv"),
    ]  # fmt: skip
    write_archive(good, tmp_path / "a.zip")
    assert len(validate(tmp_path / "a.zip", SAMPLES, size=8)) == 4, "the archive has no empty folder"
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr(mask_file("lock/S1", 0), png(GREY))
    assert ("duplicate", "0_mask.png") in kinds(validate(tmp_path / "a.zip", SAMPLES, size=8))


def test_a_folder_around_it_all_is_refused(good, tmp_path):
    (tmp_path / "outer").mkdir()
    good.rename(tmp_path / "outer/good")
    assert {problem.kind for problem in validate(tmp_path / "outer", SAMPLES, size=8)} == {"missing", "extra"}


def test_the_command_takes_the_format_and_a_list_of_samples(tmp_path, monkeypatch, capsys):
    (tmp_path / "all.csv").write_text("group_folder,label\nlock/S1,0\nlock/S2,0\ntire/S1,1\n", encoding="utf-8-sig")
    assert read_samples(tmp_path / "all.csv") == SAMPLES
    monkeypatch.setenv("VANDKIT_RUN", str(run_of(tmp_path / "run").folder))
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out"))

    def submitted(*chosen):
        return submit_configured(configured("format=csig", *chosen))

    assert submitted("csig.size=8", f"csig.samples={tmp_path}/all.csv") == []
    assert json.loads((tmp_path / "out.json").read_text())["map_range_of_run"] == {str(tmp_path / "run"): [0.0, 2.0]}
    (tmp_path / "all.csv").write_text("group_folder\nlock/S1\nlock/S2\ntire/S1\ntire/S2\n")
    lacking = submitted("csig.size=8", f"csig.samples={tmp_path}/all.csv")
    assert [problem.kind for problem in lacking] == ["missing"] * 5 + ["lacking"]
    assert "1 of 4 samples are in no run, tire/S2 first" in capsys.readouterr().out
    (tmp_path / "all.csv").write_text("name\nlock/S1\n")
    with pytest.raises(TrackInputError, match="column group_folder"):
        submitted(f"csig.samples={tmp_path}/all.csv")
