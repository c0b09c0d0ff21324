"""`predict` on folders of photos made here, with a model that calls bright pixels anomalous."""

import csv
import errno
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from eval.ranking.histogram import VALUES
from models.base import AnomalyModel, Prediction
from models.disk import alone
from models.errors import ModelInputError
from tests.support.fakes import FromTheMean
from tracks.command.cli import CONF
from tracks.decide.judge import Judge
from tracks.decide.kept import facts_of
from tracks.decide.threshold import UNCHECKED, weights_threshold
from tracks.decide.threshold_fit import fit_threshold
from tracks.decide.threshold_folder import folder_threshold
from tracks.errors import TrackInputError
from tracks.predict import choose_threshold, exit_code, predict

SIDE = 16


class Brightness(AnomalyModel):
    """The map is the brightness in [0, 1], less the brightest pixel of the references; the score is its maximum."""

    def __init__(self):
        super().__init__()
        self.seen, self.largest_batch = {}, 0

    @staticmethod
    def preprocess(image):
        grey = np.asarray(image.convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST), dtype=np.float32)
        return torch.from_numpy(grey / 255).expand(3, SIDE, SIDE).clone()

    def fit(self, references, category):
        self.seen[category] = references

    def predict(self, images, categories):
        if self.seen and not set(categories) <= set(self.seen):
            raise KeyError(categories)
        self.largest_batch = max(self.largest_batch, len(images))
        maps = images.mean(dim=1)
        return Prediction(maps, maps.amax(dim=(1, 2)))

    def reference_prediction(self, category):
        return self.predict(self.seen[category], [category] * len(self.seen[category]))

    @property
    def protocol(self):
        return {}


def save_photo(path, level, size=(40, 30), spot=None):
    """A photo of (width, height) at one grey level, with a white or other square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), level, dtype=np.uint8)
    if spot is not None:
        pixels[size[1] // 2 :, size[0] // 2 :] = spot
    PIL.Image.fromarray(pixels).save(path)


def settings(tmp_path, **changes):
    known = {
        "model": {}, "prompts": {"defects": []}, "images": str(tmp_path / "photos"), "references": None,
        "category": "steel bracket", "recursive": True, "tiles": None, "bit_depth": None, "threshold": None,
        "false_alarm_rate": 0.05, "batch_size": 2, "workers": 2, "device": "cpu",
        "out": str(tmp_path / "out"), "outputs": str(tmp_path / "outputs"), "fresh": False,
        "roi": None, "every": 1, "frames": None, "maps": "full", "quiet": False, "exit_code": False,
    }  # fmt: skip
    return OmegaConf.create({**known, **changes})


@pytest.fixture
def model(monkeypatch):
    model = Brightness()
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: model)
    return model


@pytest.fixture
def photos(tmp_path):
    """Three photos of different sizes: a dark one, one with a white spot, one in a folder below."""
    save_photo(tmp_path / "photos/good.png", 51)
    save_photo(tmp_path / "photos/bad, with comma.png", 51, (61, 35), spot=255)
    save_photo(tmp_path / "photos/below/good.jpg", 64, (20, 50))
    return tmp_path / "photos"


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_zero_shot_writes_a_row_a_map_and_an_overlay_for_each_photo(tmp_path, photos, model, capsys):
    verdicts = predict(settings(tmp_path))
    rows = table(tmp_path / "out")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "bad, with comma.png": "DEFECT", "below/good.jpg": "OK", "good.png": "OK"
    }  # fmt: skip
    assert list(rows) == [verdict.name for verdict in verdicts]
    assert list(rows["good.png"]) == [
        "file", "score", "verdict", "threshold", "map", "overlay", "note", "milliseconds"
    ]  # fmt: skip
    assert float(rows["good.png"]["score"]) == pytest.approx(51 / 255)
    assert {row["threshold"] for row in rows.values()} == {"0.5"}
    for name, row in rows.items():
        width, height = PIL.Image.open(photos / name).size
        anomaly_map = tifffile.imread(tmp_path / "out" / row["map"])
        assert (anomaly_map.shape, anomaly_map.dtype) == ((height, width), np.float16)
        assert PIL.Image.open(tmp_path / "out" / row["overlay"]).width == width
    assert model.seen == {}, "no references, no fit"
    printed = capsys.readouterr().out
    assert "DEFECT      bad, with comma.png" in printed
    assert "3 photos: 1 DEFECT, 2 OK, 0 undecided, 0 unreadable" in printed
    assert "0.5, a convention" in printed


def test_the_map_is_where_the_photo_is_bright_and_the_good_overlay_is_the_photo(tmp_path, photos, model):
    predict(settings(tmp_path))
    anomaly_map = tifffile.imread(tmp_path / "out/maps/bad, with comma.png.tiff")
    assert anomaly_map[-1, -1] == 1.0
    assert anomaly_map[0, 0] == pytest.approx(0.2, abs=1e-3)
    overlay = np.asarray(PIL.Image.open(tmp_path / "out/overlays/good.png.jpg"))[:16]  # no legend in the block
    np.testing.assert_allclose(overlay, np.asarray(PIL.Image.open(photos / "good.png"))[:16], atol=2)
    bad = np.asarray(PIL.Image.open(tmp_path / "out/overlays/bad, with comma.png.jpg"))
    assert (bad[30, 55] != 255).any()
    assert np.abs(bad[2, 2].astype(int) - 51).max() <= 3


def test_with_references_the_threshold_is_fitted_on_them_alone(tmp_path, photos, model, capsys):
    for index, level in enumerate((60, 70, 66, 80)):
        save_photo(tmp_path / f"refs/{index}.png", level)
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    assert model.seen["steel bracket"].shape == (4, 3, SIDE, SIDE)
    fitted = json.loads((tmp_path / "out/threshold.json").read_text())
    scores = np.array([60, 70, 66, 80]) / 255
    assert fitted["value"] == pytest.approx(fit_threshold(np.float32(scores).tolist(), 0.05).value)
    assert fitted["reference_scores"] == pytest.approx(scores)
    printed = capsys.readouterr().out
    assert "learnt 4 references in" in printed
    assert "scoring the 4 references, each without itself" in printed
    assert fitted["highest_normal"] == pytest.approx(80 / 255)
    first = table(tmp_path / "out")
    assert [row["verdict"] for row in first.values()].count("DEFECT") == 1
    save_photo(photos / "another.png", 200)  # more photos change neither threshold nor the others' rows
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    second = table(tmp_path / "out")
    assert second.pop("another.png")["verdict"] == "DEFECT"
    assert second == first


def test_a_score_between_the_references_and_the_threshold_is_undecided(tmp_path, photos, model):
    for index, level in enumerate((20, 40, 30, 60)):
        save_photo(tmp_path / f"refs/{index}.png", level)
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    row = table(tmp_path / "out")["below/good.jpg"]  # level 64
    assert (row["verdict"], row["note"].split(":")[0]) == ("undecided", "unsure")
    assert table(tmp_path / "out")["good.png"]["note"] == ""


def test_a_threshold_of_ones_own_and_the_verdict_at_it(tmp_path, photos, model):
    for value, verdict in ((1.0, "DEFECT"), (1.001, "OK")):
        predict(settings(tmp_path, threshold=value, out=str(tmp_path / verdict)))
        assert table(tmp_path / verdict)["bad, with comma.png"]["verdict"] == verdict


def test_files_folders_and_patterns_are_judged_as_they_come(tmp_path, photos, model):
    (photos / "notes.txt").write_text("no photo")
    save_photo(tmp_path / "else/1.png", 51)
    given = {
        "one.file": (photos / "good.png", ["good.png"]),
        "several": ([photos / "good.png", photos / "notes.txt", tmp_path / "else"], ["photos/good.png", "else/1.png"]),
        "twice": ([photos / "good.png", photos], ["good.png", "bad, with comma.png", "below/good.jpg"]),
        "pattern": (photos / "*.png", ["bad, with comma.png", "good.png"]),
        "deep": (photos / "**/*.jpg", ["below/good.jpg"]),
    }
    for name, (images, expected) in given.items():
        images = [str(path) for path in images] if isinstance(images, list) else str(images)
        predict(settings(tmp_path, images=images, out=str(tmp_path / name)))
        assert list(table(tmp_path / name)) == expected
    predict(settings(tmp_path, images=str(photos / "*.png"), out=None))
    assert [path.name[:7] for path in (tmp_path / "outputs/predict").iterdir() if not path.is_symlink()] == ["photos-"]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 50])
def test_one_unreadable_photo_costs_no_other(tmp_path, photos, model, batch_size, capsys):
    (photos / "cut.png").write_bytes((photos / "good.png").read_bytes()[:60])
    (photos / "empty.jpg").write_bytes(b"")
    verdicts = predict(settings(tmp_path, batch_size=batch_size))
    assert [verdict.name for verdict in verdicts if verdict.verdict == "unreadable"] == ["cut.png", "empty.jpg"]
    rows = table(tmp_path / "out")
    assert len(rows) == 5
    assert "cut.png" in rows["cut.png"]["note"]
    assert (rows["cut.png"]["score"], rows["cut.png"]["map"]) == ("", "")
    assert float(rows["good.png"]["score"]) == pytest.approx(0.2)
    assert "3 photos" not in (printed := capsys.readouterr().out)
    assert "5 photos: 1 DEFECT, 2 OK, 0 undecided, 2 unreadable" in printed


def test_a_picture_of_a_pixel_gets_no_verdict(tmp_path, photos, model):
    PIL.Image.new("RGB", (300, 1)).save(photos / "dot.png")
    predict(settings(tmp_path))
    row = table(tmp_path / "out")["dot.png"]
    assert (row["verdict"], row["score"]) == ("unreadable", "")
    assert "got " in row["note"]
    assert "dot.png of 300 x 1" in row["note"]


def test_only_unreadable_photos_are_an_error(tmp_path, model):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"nothing")
    with pytest.raises(TrackInputError, match=r"not one of 1 photos could be read.*a\.png"):
        predict(settings(tmp_path))
    assert table(tmp_path / "out")["a.png"]["verdict"] == "unreadable"


def test_a_reference_that_does_not_decode_is_an_error(tmp_path, photos, model):
    save_photo(tmp_path / "refs/a.png", 50)
    (tmp_path / "refs/b.png").write_bytes(b"nothing")
    with pytest.raises(TrackInputError, match=r"b\.png"):
        predict(settings(tmp_path, references=str(tmp_path / "refs")))


def test_running_again_replaces_what_is_there(tmp_path, photos, model):
    predict(settings(tmp_path))
    (photos / "good.png").unlink()
    predict(settings(tmp_path))
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == [
        "index.html", "kept/basis.json", "kept/drawn.jsonl", "kept/reference_pixels.npz", "kept/scores.jsonl",
        "log.txt", "maps/bad, with comma.png.tiff", "maps/below/good.jpg.tiff",
        "overlays/bad, with comma.png.jpg", "overlays/below/good.jpg.jpg",
        "predictions.csv", "predictions.jsonl", "run.json", "threshold.json",
        "thumbs/bad, with comma.png.jpg", "thumbs/bad, with comma.png.photo.jpg",
        "thumbs/below/good.jpg.jpg", "thumbs/below/good.jpg.photo.jpg",
    ]  # fmt: skip


def test_the_folder_of_another_run_or_of_other_files_is_refused(tmp_path, photos, model):
    predict(settings(tmp_path))
    before = table(tmp_path / "out")
    with pytest.raises(TrackInputError, match="category there"):
        predict(settings(tmp_path, category="nut"))
    with pytest.raises(TrackInputError, match=r"\(config.path there null, here \"weights.pt\"\)"):
        predict(settings(tmp_path, model={"path": "weights.pt"}))
    assert table(tmp_path / "out") == before
    with pytest.raises(TrackInputError, match="which holds other files"):
        predict(settings(tmp_path, out=str(photos)))


def test_what_was_judged_stays_when_the_run_is_stopped(tmp_path, photos, model, monkeypatch):
    def stops(images, categories, real=model.predict):
        if model.largest_batch:
            raise KeyboardInterrupt
        return real(images, categories)

    monkeypatch.setattr(model, "predict", stops)
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path, batch_size=1))
    assert len(table(tmp_path / "out")) == 1


def unbuilt(monkeypatch):
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: pytest.fail("a model is built"))


def test_another_threshold_computes_nothing_and_equals_a_run_of_its_own(tmp_path, photos, model, monkeypatch):
    for index, level in enumerate((20, 40, 30, 60)):
        save_photo(tmp_path / f"refs/{index}.png", level)
    same = {"references": str(tmp_path / "refs")}
    changes = ({"threshold": 0.22}, {"false_alarm_rate": 0.3}, {"threshold": None}, {"threshold": 2.0})
    for number, change in enumerate(changes):
        predict(settings(tmp_path, **same, **change, out=str(tmp_path / f"own{number}")))
    predict(settings(tmp_path, **same))
    unbuilt(monkeypatch)
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/overlays").rglob("*.*")}
    for number, change in enumerate(changes):
        predict(settings(tmp_path, **same, **change))
        expected, found = table(tmp_path / f"own{number}"), table(tmp_path / "out")
        assert {name: row["verdict"] for name, row in found.items()} == {
            name: row["verdict"] for name, row in expected.items()
        }  # fmt: skip
        assert [row["score"] for row in found.values()] == [row["score"] for row in expected.values()]
        for name in ("threshold.json", *(row["overlay"] for row in expected.values())):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / f"own{number}" / name).read_bytes()
    again = {path: path.stat().st_mtime_ns for path in drawn}
    assert sorted(path.name[:4] for path in drawn if drawn[path] != again[path]) == ["bad,", "good"], (
        "those called DEFECT"
    )


def test_without_references_another_threshold_draws_only_what_it_calls_otherwise(tmp_path, photos, model, monkeypatch):
    predict(settings(tmp_path))
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/overlays").rglob("*.*")}
    unbuilt(monkeypatch)
    predict(settings(tmp_path, threshold=0.22))
    assert [path.name for path in drawn if path.stat().st_mtime_ns != drawn[path]] == ["good.jpg.jpg"]


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same(tmp_path, photos, model, monkeypatch, capsys):
    for number in range(4):
        save_photo(photos / f"more/{number}.png", 50 + number)
    predict(settings(tmp_path, out=str(tmp_path / "whole")))
    batches = []

    def predicting(images, categories, real=model.predict):
        batches.append(len(images))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(images, categories)

    monkeypatch.setattr(model, "predict", predicting)
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path))
    with (tmp_path / "out/kept/scores.jsonl").open("ab") as file:
        file.write(b'{"name": "good.png", "finge')  # a kill cut the line short
    predict(settings(tmp_path))
    assert batches == [2, 2, 2, 2, 1], "one was done, one was stopped, three were left"
    assert "2 of 7 photos were scored before" in capsys.readouterr().out
    whole, resumed = table(tmp_path / "whole"), table(tmp_path / "out")
    assert list(whole) == list(resumed)
    for row in whole.values():
        for file in (row["map"], row["overlay"]):
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_only_what_changed_is_scored_again_and_fresh_scores_all(tmp_path, photos, model, monkeypatch):
    (photos / "cut.png").write_bytes(b"nothing")
    predict(settings(tmp_path))
    batches = []
    monkeypatch.setattr(
        model, "predict", lambda images, names, real=model.predict: batches.append(len(images)) or real(images, names)
    )
    predict(settings(tmp_path))
    assert batches == []
    save_photo(photos / "good.png", 200)
    (tmp_path / "out" / table(tmp_path / "out")["below/good.jpg"]["map"]).unlink()
    predict(settings(tmp_path))
    assert sum(batches) == 3, "the batch of one of them holds another photo"
    assert table(tmp_path / "out")["good.png"]["verdict"] == "DEFECT"
    predict(settings(tmp_path, fresh=True))
    assert sum(batches) == 6


def test_other_references_weights_or_code_score_all_again(tmp_path, photos, model, monkeypatch, capsys):
    save_photo(tmp_path / "refs/a.png", 60)
    given = settings(tmp_path, references=str(tmp_path / "refs"), model={"path": str(tmp_path / "weights.pt")})
    (tmp_path / "weights.pt").write_bytes(b"1")
    predict(given)
    (tmp_path / "weights.pt").write_bytes(b"12")
    predict(given)
    assert "since the last run of this folder weights changed: all photos are scored" in capsys.readouterr().out
    save_photo(tmp_path / "refs/b.png", 61)
    monkeypatch.setattr("tracks.decide.asked.code_digest", lambda: "another")
    predict(given)
    assert "references, code changed" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out/threshold.json").read_text())["reference_scores"]) == 2


def test_the_folder_of_an_earlier_version_is_taken_over(tmp_path, photos, model):
    predict(settings(tmp_path))
    path = tmp_path / "out/run.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "threshold": 0.3, "false_alarm_rate": 0.05}))
    predict(settings(tmp_path))
    assert json.loads(path.read_text()) == before


def test_lists_for_scripts_and_for_excel(tmp_path, photos, model, capsys):
    (photos / "cut.png").write_bytes(b"nothing")
    verdicts = predict(settings(tmp_path, quiet=True))
    assert "DEFECT      bad" not in capsys.readouterr().out
    assert (tmp_path / "out/predictions.csv").read_bytes().startswith(b"\xef\xbb\xbffile,")
    rows = table(tmp_path / "out")
    said = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [(row["file"], row["verdict"]) for row in said] == [(name, row["verdict"]) for name, row in rows.items()]
    assert [row["score"] is None for row in said] == [False, False, True, False]
    assert all(float(rows[row["file"]]["milliseconds"]) == row["milliseconds"] for row in said if row["score"])
    (region,) = said[0]["regions"]
    assert region["peak"] == 1.0
    assert region["box"][2:] == [61, 35]
    assert region["area"] == pytest.approx(0.25, abs=0.06)
    assert [row["regions"] for row in said[1:]] == [[], [], []]
    assert exit_code(verdicts) == 3
    assert exit_code([verdict for verdict in verdicts if verdict.score]) == 1
    assert exit_code(verdicts[1:2]) == 0


def test_maps_at_the_models_size_at_the_photos_and_none(tmp_path, photos, model, monkeypatch):
    shapes = {"model": (SIDE, SIDE), "full": (35, 61)}
    for maps, shape in shapes.items():
        predict(settings(tmp_path, maps=maps))
        row = table(tmp_path / "out")["bad, with comma.png"]
        anomaly_map = tifffile.imread(tmp_path / "out" / row["map"])
        assert (anomaly_map.shape, anomaly_map.dtype) == (shape, np.float16)
        with PIL.Image.open(tmp_path / "out" / row["overlay"]) as overlay:
            assert (overlay.format, overlay.width) == ("JPEG", 61)
    unbuilt(monkeypatch)
    predict(settings(tmp_path, maps="none"))
    rows = table(tmp_path / "out")
    assert {(row["map"], row["overlay"]) for row in rows.values()} == {("", "")}
    assert rows["bad, with comma.png"]["verdict"] == "DEFECT"
    assert not [path for name in ("maps", "overlays") for path in (tmp_path / "out" / name).rglob("*.*")]
    assert len(list((tmp_path / "out/thumbs").rglob("*.jpg"))) == 3


def test_only_the_region_of_interest_counts(tmp_path, photos, model):
    for number in range(3):
        save_photo(tmp_path / f"refs/{number}.png", 50 + number, spot=255)  # bright where nobody is to look
    given = {"roi": [[0, 0], [0.45, 0], [0, 1]], "references": str(tmp_path / "refs")}
    save_photo(photos / "corner.png", 51)
    pixels = np.full((30, 40, 3), 51, np.uint8)
    pixels[2:8, 2:8] = 255
    PIL.Image.fromarray(pixels).save(photos / "corner.png")
    predict(settings(tmp_path, **given))
    rows = table(tmp_path / "out")
    assert rows["corner.png"]["verdict"] == "DEFECT"
    assert rows["bad, with comma.png"]["verdict"] != "DEFECT", "its spot is outside"
    assert tifffile.imread(tmp_path / "out" / rows["corner.png"]["map"]).shape == (30, 18)
    said = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[2])
    assert said["file"] == "corner.png"
    np.testing.assert_allclose(said["regions"][0]["box"], [2, 2, 8, 8], atol=2)
    assert "cropped to the region's bounding box" in json.loads((tmp_path / "out/run.json").read_text())["roi"]["rule"]
    with pytest.raises(TrackInputError, match="roi there"):
        predict(settings(tmp_path, references=given["references"]))


class Full:
    """A disk on which the files below some folders cannot be written, though their first bytes may be."""

    def __init__(self, monkeypatch, *folders):
        self.folders, self.real = folders, Path.write_bytes
        full = self
        monkeypatch.setattr(Path, "write_bytes", lambda path, content: full.write(path, content))

    def write(self, path, content):
        if any(folder in path.parts for folder in self.folders):
            self.real(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")  # a write that fails names no file
        return self.real(path, content)


@pytest.mark.parametrize("folders", [("maps", "overlays"), ("overlays",)])
def test_a_full_disk_costs_no_verdict(tmp_path, photos, model, monkeypatch, folders, capsys):
    Full(monkeypatch, *folders)
    with pytest.raises(TrackInputError, match=r"No space left on device \(.*/out/.*all verdicts are in"):
        predict(settings(tmp_path))
    rows = table(tmp_path / "out")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "bad, with comma.png": "DEFECT", "below/good.jpg": "OK", "good.png": "OK"
    }  # fmt: skip
    assert {row["overlay"] for row in rows.values()} == {""}
    assert {bool(row["map"]) for row in rows.values()} == {"maps" not in folders}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.parent.name in folders]
    assert "3 photos: 1 DEFECT" in capsys.readouterr().out


def test_rows_that_cannot_be_written_are_written_at_the_end(tmp_path, photos, model, monkeypatch):
    class Failing(io.BytesIO):
        def write(self, line):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, *arguments, real=Path.open, **keywords):
        is_begun = path.name == "predictions.csv" and arguments == ("wb",)
        return Failing() if is_begun else real(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(
        TrackInputError, match=r"got 4 times an error, first: No space left on device \(predictions.csv"
    ):
        predict(settings(tmp_path))
    assert [row["verdict"] for row in table(tmp_path / "out").values()] == ["DEFECT", "OK", "OK"]


def test_two_predicts_into_one_folder_take_turns_and_say_so(tmp_path, photos, model, caplog):
    with ThreadPoolExecutor() as pool, alone(tmp_path / "out/.lock", "the test"):
        second = pool.submit(predict, settings(tmp_path))
        while "another process is at the run in" not in caplog.text and not second.done():
            time.sleep(0.01)
        assert [path.name for path in (tmp_path / "out").iterdir() if path.name != ".lock"] == ["run.json"]
    assert len(second.result()) == len(table(tmp_path / "out")) == 3


def test_interrupted_while_overlays_are_drawn_every_verdict_is_kept(tmp_path, photos, model, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tracks.decide.judge.render_overlay", stops)
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path))
    rows = table(tmp_path / "out").values()
    assert [row["verdict"] for row in rows] == ["DEFECT", "OK", "OK"]
    assert {row["overlay"] for row in rows} == {""}, "no file is named that is not there"


def test_what_was_judged_stays_when_nobody_reads_the_output_any_more(tmp_path, photos, model, monkeypatch):
    def unread(line):
        raise BrokenPipeError

    monkeypatch.setattr("tracks.decide.judge.tqdm.write", unread)
    with pytest.raises(BrokenPipeError):
        predict(settings(tmp_path))
    assert [row["verdict"] for row in table(tmp_path / "out").values()] == ["DEFECT"]


def a_folder_of(tmp_path, levels):
    for number, level in enumerate(levels):
        save_photo(tmp_path / f"photos/{number:02}.png", level)


def test_a_threshold_from_the_folder_judges_once_all_are_scored(tmp_path, model, capsys):
    levels = [50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 240]
    a_folder_of(tmp_path, levels)
    predict(settings(tmp_path, threshold="folder"))
    rows = table(tmp_path / "out")
    fitted = folder_threshold(np.float32(np.array(levels) / 255).tolist(), 0.05)
    assert [row["verdict"] for row in rows.values()] == ["OK"] * 10 + ["DEFECT"]
    assert [float(row["threshold"]) for row in rows.values()] == pytest.approx([fitted.value] * 11)
    assert json.loads((tmp_path / "out/threshold.json").read_text())["source"] == fitted.source
    printed = capsys.readouterr().out
    assert "most of them are taken to be good" in printed
    assert "transductive, from these 11 photos" in printed
    assert "11 photos: 1 DEFECT, 10 OK" in printed


def test_until_then_nothing_is_judged_but_every_score_is_kept(tmp_path, model, monkeypatch):
    a_folder_of(tmp_path, range(50, 62))
    monkeypatch.setattr("tracks.predict.folder_threshold", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path, threshold="folder"))
    rows = table(tmp_path / "out").values()
    assert [(row["verdict"], row["threshold"]) for row in rows] == [("undecided", "")] * 12
    assert [float(row["score"]) for row in rows] == pytest.approx([level / 255 for level in range(50, 62)])


def test_a_folder_of_few_photos_gives_no_threshold(tmp_path, photos, model):
    with pytest.raises(TrackInputError, match="10 or more readable photos for threshold=folder, got 3"):
        predict(settings(tmp_path, threshold="folder"))
    assert not (tmp_path / "out").exists()


def test_an_odd_reference_is_named_and_found_in_threshold_json(tmp_path, photos, model, capsys):
    for number, level in enumerate((60, 61, 63, 66, 69, 70, 230)):
        save_photo(tmp_path / f"refs/normal-{number}.jpg", level)
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    fitted = json.loads((tmp_path / "out/threshold.json").read_text())
    assert fitted["odd_references"] == ["normal-6.jpg"]
    assert fitted["highest_normal"] == pytest.approx(70 / 255)
    assert "normal-6.jpg scores like a defect: look at it or leave it out" in capsys.readouterr().out
    assert table(tmp_path / "out")["bad, with comma.png"]["verdict"] == "DEFECT"


def test_an_odd_reference_does_not_show_what_good_maps_look_like(tmp_path, model):
    levels = (60, 61, 63, 66, 69, 70, 230)
    model.fit(torch.stack([torch.full((3, SIDE, SIDE), level / 255) for level in levels]), "nut")
    names = [f"{level}.png" for level in levels]
    facts = facts_of(model, "nut", names)
    assert choose_threshold(settings(tmp_path), facts, names).odd_references == ("230.png",)
    assert VALUES[facts.pixels.by_value()[1] > 0].max() == pytest.approx(70 / 255, abs=1e-3)


def test_references_that_are_all_alike_give_no_verdict(tmp_path, photos, model, capsys):
    for number in range(3):  # no copies of one another, but the model sees the same three times
        save_photo(tmp_path / f"refs/{number}.png", 60, (40 + number, 30))
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    assert {row["verdict"] for row in table(tmp_path / "out").values()} == {"undecided"}
    printed = capsys.readouterr().out
    assert "copies of one another" in printed
    assert "3 photos: 0 DEFECT, 0 OK, 3 undecided" in printed


def test_a_threshold_that_finds_nothing_is_withdrawn(tmp_path, model, capsys):
    a_folder_of(tmp_path, range(50, 70))
    for number, level in enumerate((100, 110, 120, 130)):
        save_photo(tmp_path / f"refs/{number}.png", level)
    predict(settings(tmp_path, references=str(tmp_path / "refs")))
    assert {row["verdict"] for row in table(tmp_path / "out").values()} == {"undecided"}
    assert "this threshold finds nothing" in capsys.readouterr().out
    assert "finds nothing" in json.loads((tmp_path / "out/threshold.json").read_text())["undecided"]


def test_a_threshold_that_scores_cannot_reach_is_refused(tmp_path, photos, model, monkeypatch):
    monkeypatch.setattr(Brightness, "scores_are_probabilities", True)
    with pytest.raises(TrackInputError, match="threshold from 0 to 1"):
        predict(settings(tmp_path, threshold=40))
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_is_refused_deletes_nothing(tmp_path, photos, model, monkeypatch):
    monkeypatch.setattr(Brightness, "scores_are_probabilities", True)
    predict(settings(tmp_path))
    before = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr("tracks.decide.asked.code_digest", lambda: "another")
    with pytest.raises(TrackInputError, match="threshold from 0 to 1"):
        predict(settings(tmp_path, threshold=40))
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_no_page_stays_without_its_pictures(tmp_path, photos, model, monkeypatch):
    predict(settings(tmp_path))
    monkeypatch.setattr("tracks.decide.asked.code_digest", lambda: "another")
    monkeypatch.setattr("tracks.decide.asked.facts_of", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path))
    assert not (tmp_path / "out/overlays").exists()
    assert not (tmp_path / "out/index.html").exists()


def test_what_changes_a_score_changes_the_default_folder_and_nothing_else_does(tmp_path, photos, model):
    changed = ({}, {"category": "nut"}, {"recursive": False})
    only_decide = [{"recursive": False, **each} for each in ({}, {"threshold": 0.3}, {"false_alarm_rate": 0.1})]
    for number, changes in enumerate((*changed, *only_decide)):
        predict(settings(tmp_path, out=None, **changes))
        folders = [path for path in (tmp_path / "outputs/predict").iterdir() if not path.is_symlink()]
        assert len(folders) == min(number + 1, len(changed))
    assert all(folder.name.startswith("photos-") for folder in folders)
    assert (tmp_path / "outputs/predict/latest/predictions.csv").is_file()


def test_maps_beyond_float16_are_kept_whole_and_drawn(tmp_path, photos, model, monkeypatch):
    def huge(images, categories, real=model.predict):
        found = real(images, categories)
        return Prediction(found.anomaly_maps * 1e6, found.image_scores * 1e6)

    monkeypatch.setattr(model, "predict", huge)
    predict(settings(tmp_path, threshold=5e5))
    anomaly_map = tifffile.imread(tmp_path / "out/maps/bad, with comma.png.tiff")
    assert anomaly_map.dtype == np.float32
    assert anomaly_map.max() == pytest.approx(1e6)
    assert table(tmp_path / "out")["bad, with comma.png"]["overlay"]


def test_batches_are_as_large_as_asked_for(tmp_path, photos, model):
    for index in range(8):
        save_photo(photos / f"more/{index}.png", 50)
    predict(settings(tmp_path, batch_size=4))
    assert model.largest_batch == 4


def test_a_name_that_is_no_unicode_does_not_stop_the_run(tmp_path, photos, model):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        save_photo(photos / name, 50)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert name in [verdict.name for verdict in predict(settings(tmp_path))]
    assert b"caf\xe9.png" in (tmp_path / "out/predictions.csv").read_bytes()


def test_names_as_long_as_a_disk_takes_them(tmp_path, photos, model):
    photos = photos.rename(tmp_path / ("部" * 80))
    name = "钉" * 83 + "a.png"  # 254 bytes
    save_photo(photos / name, 50)
    predict(settings(tmp_path, images=str(photos), out=None))
    (folder,) = (path for path in (tmp_path / "outputs/predict").iterdir() if not path.is_symlink())
    row = table(folder)[name]
    assert tifffile.imread(folder / row["map"]).shape == (30, 40)
    assert PIL.Image.open(folder / row["overlay"]).width == 40


def test_a_folder_called_outputs_is_judged_and_one_with_a_run_of_ours_is_not(tmp_path, photos, model):
    save_photo(photos / "outputs/1.png", 50)
    for _ in range(2):
        verdicts = predict(settings(tmp_path, out=str(photos / "judged")))
        assert sorted(verdict.name for verdict in verdicts) == sorted(
            ["bad, with comma.png", "below/good.jpg", "good.png", "outputs/1.png"]
        )
    assert len(predict(settings(tmp_path))) == 4  # nor does another command judge its maps and overlays


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": None}, "expected a folder of photos, got none"),
        ({"images": ""}, "expected a folder of photos, got none"),
        ({"images": "/no/such/folder"}, "/no"),
        ({"images": "/no/such/*.png"}, "/no"),
        ({"images": "*.nothing"}, "found none that fits"),
        ({"references": "/no/such/folder"}, "/no"),
        ({"batch_size": 0}, "batch_size and workers >= 1"),
        ({"actors": 0}, "actors >= 1"),
        ({"device": "cuda:99"}, "expected a device"),
        ({"false_alarm_rate": 2}, "between 0 and 1"),
        ({"false_alarm_rate": float("nan"), "references": None}, "between 0 and 1"),
        ({"threshold": float("nan")}, "threshold to be a finite number, folder or null, got nan"),
        ({"threshold": float("inf")}, "finite number"),
        ({"threshold": "high"}, "finite number"),
        ({"threshold": True}, "finite number"),
        ({"roi": [[0, 0], [1, 1]]}, "three or more points"),
        ({"roi": [[0, 0], [2, 0], [0, 1]]}, "from 0 to 1"),
        ({"roi": "/no/mask.png"}, "/no"),
        ({"maps": "large"}, "maps to be one of model, full, none"),
        ({"bit_depth": 7}, "bit_depth from 8 to 16"),
        ({"bit_depth": 17}, "bit_depth from 8 to 16"),
    ],
)
def test_bad_settings_get_a_sentence(tmp_path, photos, model, changes, text):
    save_photo(tmp_path / "refs/a.png", 50)
    changes = {"references": str(tmp_path / "refs"), **changes}
    with pytest.raises(TrackInputError, match=text):
        predict(settings(tmp_path, **changes))


def test_a_preprocessing_that_refuses_a_photo_counts_as_unreadable(tmp_path, photos, model, monkeypatch):
    def refuses(image):
        if image.size == (20, 50):
            raise ModelInputError("expected a wider photo")
        return Brightness.preprocess(image)

    monkeypatch.setattr(model, "preprocess", refuses)
    predict(settings(tmp_path))
    assert table(tmp_path / "out")["below/good.jpg"]["note"] == "expected a wider photo"


def test_the_threshold_of_the_weights_is_used_and_announced_as_never_checked_on_photographs(
    tmp_path, photos, model, capsys
):
    model.image_threshold, model.threshold_source = 0.22, "F1-max on held-out categories"
    threshold = weights_threshold(model)
    assert (threshold.value, threshold.source) == (
        0.22, f"from the weights: F1-max on held-out categories; {UNCHECKED}"
    )  # fmt: skip
    model.threshold_source = "at most 10% of the good images of the synthetic validation categories exceed it"
    predict(settings(tmp_path))
    assert table(tmp_path / "out")["below/good.jpg"]["verdict"] == "DEFECT"
    assert table(tmp_path / "out")["good.png"]["verdict"] == "OK"
    printed = capsys.readouterr().out
    assert printed.count("from the weights, learnt on renderings: at most 10%") == 2, "before the rows and after them"
    assert printed.count("never checked on photographs of yours; give references") == 2
    assert "learnt on renderings" in json.loads((tmp_path / "out/threshold.json").read_text())["source"]


def test_free_text_survives_the_configuration_and_no_other_type_or_name_does(monkeypatch):
    text = """it's "steel", [x] {y: 1} = ${z} #1 \\ ü"""
    given = {"images": text, "references": text, "category": text, "out": text}
    monkeypatch.setenv("VANDKIT_PROMPT", "scratch, a \"deep\" [dent]: 'x=1'")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for key, value in given.items():
            monkeypatch.setenv(f"VANDKIT_{key.upper()}", value)
        cfg = compose("predict")
        assert {key: cfg[key] for key in given} == given
        assert instantiate(cfg.prompts).defects == ("scratch", "a \"deep\" [dent]: 'x=1'")
        assert instantiate(cfg.model.prompts).defects == ("scratch", "a \"deep\" [dent]: 'x=1'")
        for key in (*given, "prompt"):
            monkeypatch.delenv(f"VANDKIT_{key.upper()}")
            monkeypatch.setenv(key.upper(), "what another program means by it")
        cfg = compose("predict")
        assert {key: cfg[key] for key in given} == dict.fromkeys(given)
        assert instantiate(cfg.model.prompts).defects == ()
        for override in ("batch_size=many", "workers=1.5", "recursive=perhaps", "bit_depth=x", "no_such=1"):
            with pytest.raises(HydraException):
                compose("predict", [override])


def test_references_that_the_model_cannot_score_need_a_threshold_of_ones_own(tmp_path, photos, model, monkeypatch):
    def blind(self, category):
        raise NotImplementedError

    monkeypatch.setattr(Brightness, "reference_prediction", blind)
    save_photo(tmp_path / "refs/a.png", 50)
    with pytest.raises(TrackInputError, match=r"Brightness does not; set one yourself.*threshold=0\.5"):
        predict(settings(tmp_path, references=str(tmp_path / "refs")))
    predict(settings(tmp_path, references=str(tmp_path / "refs"), threshold=0.22, out=str(tmp_path / "own")))
    assert table(tmp_path / "own")["below/good.jpg"]["verdict"] == "DEFECT"


def write_clip(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (40, 32))
    for level in levels:
        writer.write(np.full((32, 40, 3), level, np.uint8))
    writer.release()


def test_frames_of_a_clip_are_judged_drawn_and_gone_on_with(tmp_path, model, monkeypatch):
    clip = tmp_path / "photos/clip.avi"
    write_clip(clip, [20, 0, 230, 0, 40, 0, 60, 0])
    clipped = {"images": str(clip), "every": 2}
    write_map = Judge._write_map
    monkeypatch.setattr(
        Judge, "_write_map", lambda self, name, m: (_ for _ in ()).throw(KeyboardInterrupt) if "000004" in name
        else write_map(self, name, m),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        predict(settings(tmp_path, **clipped))
    assert list(table(tmp_path / "out")) == ["clip.avi#000000@0.00s", "clip.avi#000002@0.20s"]
    monkeypatch.undo()
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: model)
    predict(settings(tmp_path, **clipped))
    rows = table(tmp_path / "out")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "clip.avi#000000@0.00s": "OK", "clip.avi#000002@0.20s": "DEFECT", "clip.avi#000004@0.40s": "OK",
        "clip.avi#000006@0.60s": "OK",
    }  # fmt: skip
    shown = PIL.Image.open(tmp_path / "out/photos/clip.avi#000002@0.20s.jpg")
    assert abs(np.asarray(shown).mean() - 230) < 4
    page = (tmp_path / "out/index.html").read_text()
    assert '"photo":"photos/clip.avi%23000002%400.20s.jpg"' in page
    before = (tmp_path / "out/predictions.csv").read_bytes()
    predict(settings(tmp_path, fresh=True, **clipped))
    assert [row["score"] for row in table(tmp_path / "out").values()] == [row["score"] for row in rows.values()]
    assert len(before.splitlines()) == 5


def test_a_camera_needs_a_number_of_pictures_and_is_then_a_folder(tmp_path, model, monkeypatch):
    with pytest.raises(TrackInputError, match="expected how many pictures camera:0 is to take"):
        predict(settings(tmp_path, images="camera:0"))
    write_clip(tmp_path / "seen.avi", [20, 230])
    monkeypatch.setattr("tracks.datasets.video.opened", lambda _: cv2.VideoCapture(str(tmp_path / "seen.avi")))
    verdicts = predict(settings(tmp_path, images="camera:0", frames=2))
    assert [verdict.verdict for verdict in verdicts] == ["OK", "DEFECT"]
    [folder] = (tmp_path / "outputs/camera").iterdir()
    assert json.loads((tmp_path / "out/run.json").read_text())["images"] == str(folder)


def test_photos_of_phones_are_judged_and_shown(tmp_path, model):
    pillow_heif = pytest.importorskip("pillow_heif")
    (tmp_path / "photos").mkdir()
    pillow_heif.from_pillow(PIL.Image.new("RGB", (64, 48), (230, 230, 230))).save(tmp_path / "photos/a.heic")
    predict(settings(tmp_path))
    assert table(tmp_path / "out")["a.heic"]["verdict"] == "DEFECT"
    assert PIL.Image.open(tmp_path / "out/photos/a.heic.jpg").size == (64, 48)


def test_a_tracker_is_told_counts_and_shown_the_highest_overlays(tmp_path, photos, model, monkeypatch):
    told = []
    tracker = SimpleNamespace(write=told.append)
    monkeypatch.setattr("tracks.predict.chosen_tracker", lambda cfg: tracker)
    predict(settings(tmp_path))
    [record] = told
    assert record.metrics == {
        "threshold": 0.5, "photos/DEFECT": 1, "photos/OK": 2, "photos/undecided": 0, "photos/unreadable": 0
    }  # fmt: skip
    assert record.pictures[0] == tmp_path / "out/overlays/bad, with comma.png.jpg"
    assert {"predictions.csv", "index.html", "log.txt"} <= {path.name for path in record.files}
    assert "finished" in (tmp_path / "out/log.txt").read_text()


def test_shards_gathered_are_the_whole_run(tmp_path, model, capsys):
    for number in range(7):
        save_photo(tmp_path / f"photos/{number}.png", 40 + 5 * number, spot=255 if number == 5 else None)
    for number in range(4):
        save_photo(tmp_path / f"refs/{number}.png", 40 + 7 * number)
    given = {"references": str(tmp_path / "refs"), "maps": "model"}
    whole, gathered = tmp_path / "whole", tmp_path / "gathered"
    expected = predict(settings(tmp_path, out=str(whole), **given))
    for shard in ("1/3", "3/3"):
        predict(settings(tmp_path, out=str(gathered), shard=shard, **given))
    assert not (gathered / "predictions.csv").exists()
    predict(settings(tmp_path, out=str(gathered), shard="2/3", **given))
    capsys.readouterr()
    model.predict = None  # nothing is left to do for it
    found = predict(settings(tmp_path, out=str(gathered), **given))
    assert "3 shards gathered: 7 of 7 photos are scored" in capsys.readouterr().out
    assert [replace(verdict, milliseconds=None) for verdict in found] == [
        replace(verdict, milliseconds=None) for verdict in expected
    ]
    assert (gathered / "threshold.json").read_bytes() == (whole / "threshold.json").read_bytes()
    for verdict in found:
        for file in (verdict.map_file, verdict.overlay_file, verdict.thumb_file):
            assert (gathered / file).read_bytes() == (whole / file).read_bytes()


def test_a_shard_of_another_run_or_basis_is_refused(tmp_path, photos, model):
    predict(settings(tmp_path, shard="1/1"))
    with pytest.raises(TrackInputError, match=r"shards/1-of-1.*category there \"steel bracket\", here \"bolt\""):
        predict(settings(tmp_path, category="bolt"))
    basis = tmp_path / "out/shards/1-of-1/kept/basis.json"
    known = json.loads(basis.read_text())
    known["basis"]["device"] = "another processor"
    basis.write_text(json.dumps(known))
    with pytest.raises(TrackInputError, match=r"expected shards that were scored as here.*other device"):
        predict(settings(tmp_path, fresh=False))
    assert len(predict(settings(tmp_path, fresh=True))) == 3


def test_a_model_that_scores_photos_together_has_no_shards(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: FromTheMean())
    with pytest.raises(TrackInputError, match="expected no shard"):
        predict(settings(tmp_path, shard="1/2"))
