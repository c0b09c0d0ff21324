"""The Kaputt 2 writer and validator, on stores and tables made here."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.submission_stand_ins import configured, make_run
from tracks.errors import TrackInputError
from tracks.submission.archive import write_archive
from tracks.submission.kaputt2 import Options, Submission, read_captures, validate
from tracks.submit import submit_configured

MAP = np.zeros((2, 2))
IDS = ["c1", "c2", "c3"]
GOOD = "capture_id,pred\nc1,0\nc2,1\nc3,0.5\n"


def run_of(folder, scores, **settings):
    return make_run(folder, {"item": {f"crops/{name}": (score, MAP) for name, score in scores.items()}}, {}, **settings)


def table(path, rows):
    pd.DataFrame(rows, columns=["capture_id", "query_crop"]).to_csv(path, index=False)
    return str(path)


def written(folder, store, **options):
    folder.mkdir()
    submission = Submission([store], Options(**options))
    return submission, submission.write(folder)


def test_the_csv_has_its_header_and_one_line_for_each_image(tmp_path):
    store = run_of(tmp_path / "run", {"c1.jpg": 0.25, "c2.jpg": 1.0, "c3.jpg": float(np.float32(1 / 3))})
    submission, said = written(tmp_path / "out", store)
    text = (tmp_path / "out/predictions.csv").read_bytes().decode()
    assert text == "capture_id,pred\nc1,0.25\nc2,1\nc3,0.333333343\n"
    assert submission.check(tmp_path / "out") == []
    assert "it is not known whether these are all captures" in said[0]


def test_captures_are_found_by_the_table(tmp_path):
    ids = table(tmp_path / "ids.csv", [("007", "x/data/q1.jpg"), ("008", "x/data/q2.jpg")])
    store = run_of(tmp_path / "run", {"q2.jpg": 0.5})
    submission, said = written(tmp_path / "out", store, ids=ids, csv_name="mine.csv")
    assert (tmp_path / "out/mine.csv").read_text() == "capture_id,pred\n008,0.5\n"
    assert said == ["1 of 2 captures are in no run, 007 first"]
    assert [(p.kind, p.text) for p in submission.check(tmp_path / "out")] == [("missing", "no line for capture '007'")]


def test_scores_beyond_0_to_1_need_a_range_and_keep_their_order(tmp_path):
    store = run_of(tmp_path / "run", {"c1.jpg": -3.0, "c2.jpg": 5.0, "c3.jpg": 1.0})
    with pytest.raises(TrackInputError, match=r"image score of crops/c1.jpg within \[0.0, 1.0\], got -3"):
        written(tmp_path / "fixed", store)
    fixed, _ = written(tmp_path / "told", store, score_range=(-5.0, 5.0))
    assert (tmp_path / "told/predictions.csv").read_text() == "capture_id,pred\nc1,0.2\nc2,1\nc3,0.6\n"
    assert fixed.record["scores"] == "the model's, -5 to 5 as 0 to 1"
    free, _ = written(tmp_path / "free", store, score_range=None)
    assert (tmp_path / "free/predictions.csv").read_text() == GOOD
    assert free.record["scores"].startswith("transductive")


def test_a_score_that_is_no_number_is_refused(tmp_path):
    store = run_of(tmp_path / "run", {"c1.jpg": float("nan")})
    with pytest.raises(TrackInputError, match=r"finite image score of item/crops/c1\.jpg"):
        written(tmp_path / "out", store)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"csv_name": "a/b.csv"}, "csv_name"),
        ({"csv_name": "predictions"}, "csv_name"),
        ({"score_range": (1, 1)}, "low < high"),
        ({"ids": "nowhere.csv"}, "table of the captures at nowhere.csv"),
        ({"ids": "two.csv"}, "c1 and c2 for q.jpg"),
        ({"ids": "other.csv"}, "expected crops/c1.jpg among the images"),
        ({"ids": "other.csv", "image_column": "query_image"}, "columns capture_id and query_image"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(tmp_path, monkeypatch, options, text):
    monkeypatch.chdir(tmp_path)
    table("two.csv", [("c1", "a/q.jpg"), ("c2", "b/q.jpg")])
    table("other.csv", [("c1", "q.jpg")])
    with pytest.raises(TrackInputError, match=text):
        Submission([run_of(tmp_path / "run", {"c1.jpg": 0.5})], Options(**options))


def test_parquet_is_read_where_a_reader_is_there_and_asked_for_where_not(monkeypatch):
    frame = pd.DataFrame({"capture_id": [1, 2], "query_crop": ["a/x.jpg", "a/y.jpg"]})
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame)
    assert read_captures(Path("query-test.parquet"), "query_crop") == {"x.jpg": "1", "y.jpg": "2"}

    def none(path):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", none)
    with pytest.raises(TrackInputError, match="install pyarrow"):
        read_captures(Path("query-test.parquet"), "query_crop")


def test_two_images_of_one_capture_are_refused(tmp_path):
    store = make_run(tmp_path / "run", {"item": {"a/c1.jpg": (0.5, MAP), "b/c1.jpg": (0.6, MAP)}}, {})
    with pytest.raises(TrackInputError, match="one image for c1"):
        Submission([store], Options())


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_ours_is_accepted_zipped_and_as_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.csv").write_text(GOOD)
    assert validate(tmp_path / "out", IDS) == []
    write_archive(tmp_path / "out", tmp_path / "out.zip")
    assert validate(tmp_path / "out.zip", IDS) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"p.csv": GOOD.replace("c3,0.5\n", "")}, ["missing"]),
        ({"p.csv": GOOD + "c4,0.5\n"}, ["unknown"]),
        ({"p.csv": GOOD + "c1,0.5\n"}, ["duplicate"]),
        ({"p.csv": GOOD.replace("0.5", "1.5")}, ["range"]),
        ({"p.csv": GOOD.replace("0.5", "-0.1")}, ["range"]),
        ({"p.csv": GOOD.replace("0.5", "nan")}, ["number"]),
        ({"p.csv": GOOD.replace("0.5", "high")}, ["number"]),
        ({"p.csv": GOOD.replace("0.5", "")}, ["number"]),
        ({"p.csv": GOOD.replace("0.5", "0.5,1")}, ["columns"]),
        ({"p.csv": GOOD.replace("pred", "score")}, ["header"]),
        ({"p.csv": "c1,0\nc2,1\nc3,0.5\n"}, ["header"]),
        ({"p.csv": ""}, ["header"]),
        ({"p.csv": b"\xef\xbb\xbf" + GOOD.encode()}, ["header"]),
        ({"p.csv": GOOD.replace("c1", "c\u00e9").encode("latin-1")}, ["encoding"]),
        ({"sub/p.csv": GOOD}, ["folder"]),
        ({"p.csv": GOOD, "q.csv": GOOD}, ["extra"]),
        ({"p.csv": GOOD, "readme.txt": "hello"}, ["extra"]),
        ({"p.tsv": GOOD}, ["extra"]),
        ({}, ["missing"]),
    ],
)
def test_each_spoilt_submission_is_named_with_its_problem(tmp_path, files, expected):
    assert [problem.kind for problem in validate(zipped(tmp_path / "p.zip", files), IDS)] == expected


def test_a_damaged_archive_is_noticed(tmp_path):
    archive = zipped(tmp_path / "p.zip", {"p.csv": GOOD})
    content = bytearray(archive.read_bytes())
    content[content.index(b"c3,0.5") + 3] ^= 1
    archive.write_bytes(content)
    assert [problem.kind for problem in validate(archive, IDS)] == ["unreadable"]
    archive.write_bytes(content[:-30])
    assert [problem.kind for problem in validate(archive, IDS)] == ["unreadable"]


def test_many_alike_are_counted(tmp_path):
    found = validate(zipped(tmp_path / "p.zip", {"p.csv": "capture_id,pred\n"}), [f"c{n}" for n in range(20)])
    assert [problem.kind for problem in found] == ["missing"] * 6
    assert found[-1].text == "15 more like these"


def test_the_command_takes_the_format(tmp_path, monkeypatch):
    ids = table(tmp_path / "ids.csv", [("c1", "c1.jpg")])
    run = run_of(tmp_path / "run", {"c1.jpg": 2.0}).folder
    monkeypatch.setenv("VANDKIT_RUN", str(run))
    monkeypatch.setenv("VANDKIT_OUT", str(tmp_path / "out"))
    assert submit_configured(configured("format=kaputt2", f"kaputt2.ids={ids}", "kaputt2.score_range=[0,4]")) == []
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("predictions.csv") == b"capture_id,pred\nc1,0.5\n"
    assert json.loads((tmp_path / "out.json").read_text())["captures"] == ids
