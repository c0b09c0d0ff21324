"""The command: where the page goes, and which photos it dares to open."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tests.support.report_stand_ins import ReportDataset, finished_run
from tracks.datasets.synthetic import Synthetic
from tracks.errors import TrackInputError
from tracks.report import open_photos, page_of_photos, report, write_report
from tracks.report_page.choice import Choice
from tracks.report_page.page import PageOptions
from tracks.report_page.pictures import Photos
from tracks.run.store import PredictionStore

OPTIONS = PageOptions(Choice(0, 0, 0))
CONF = Path(__file__).resolve().parents[2] / "conf"
SYNTHETIC = {"_target_": "tracks.datasets.synthetic.Synthetic", "_convert_": "all", "seed": 5}
MVTEC = {"_target_": "tracks.datasets.mvtec.MVTec", "_convert_": "all", "root": "/nowhere/at/all"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("report") / "run")


def configured(monkeypatch, run, out="", *overrides):
    for key, value in (("RUN", run), ("OUT", out), ("ROOT", "")):
        monkeypatch.setenv(f"VANDKIT_{key}", str(value))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("report", list(overrides))


def test_the_page_stands_in_the_run_folder_and_its_size_is_told(store, monkeypatch, capsys):
    path = report(configured(monkeypatch, store.folder, "", "misses=1", "false_alarms=0", "hits=0"))
    assert path == store.folder / "report.html"
    assert f"files: {path} ({path.stat().st_size:,} bytes)" in capsys.readouterr().out
    assert path.read_text().count('class="pick"') == 3  # one miss of two categories, one unlabelled image


@pytest.mark.parametrize("override", ["misses=few", "false_alarms=-1", "picture_side=0", "workers=0"])
def test_a_setting_that_makes_no_sense_is_refused_by_name(store, monkeypatch, override):
    with pytest.raises(TrackInputError, match="expected " + override.partition("=")[0]):
        report(configured(monkeypatch, store.folder, "", override))


@pytest.mark.parametrize(("out", "written"), [("deep/page.html", "deep/page.html"), ("folder", "folder/report.html")])
def test_out_is_a_file_or_a_folder(store, tmp_path, out, written):
    path = write_report(store, tmp_path / out, OPTIONS, Photos(ReportDataset()))
    assert path == tmp_path / written
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_the_photos_are_those_of_the_runs_own_data_set():
    photos = open_photos({"config": {"data": SYNTHETIC}})
    assert isinstance(photos.dataset, Synthetic)
    samples = photos.dataset.test("denim")
    assert samples[0].name == Synthetic(seed=5).test("denim")[0].name
    assert (
        samples[0].fingerprint
        == Synthetic(seed=5).test("denim")[0].fingerprint
        != Synthetic(seed=6).test("denim")[0].fingerprint
    )
    assert photos.remarks == []


def test_a_data_set_that_has_moved_is_found_by_root(tmp_path):
    gone = open_photos({"config": {"data": MVTEC}})
    assert gone.dataset is None
    assert "/nowhere" in gone.remarks[0]
    for name in ("train/good", "test/good"):
        (tmp_path / "bottle" / name).mkdir(parents=True)
        (tmp_path / "bottle" / name / "0.png").touch()
    assert open_photos({"config": {"data": MVTEC}}, str(tmp_path)).dataset.categories == ("bottle",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_folder_cannot_make_us_run_its_code(tmp_path, nested):
    trap = {
        "_target_": "pathlib.Path.touch",
        "_args_": [{"_target_": "pathlib.Path", "_args_": [str(tmp_path / "trap")]}],
    }
    node = {**SYNTHETIC, "seed": trap} if nested else trap
    photos = open_photos({"config": {"data": node}})
    assert photos.dataset is None
    assert "pathlib.Path" in photos.remarks[0]
    assert "trust" in photos.remarks[0]
    assert not (tmp_path / "trap").exists()


def test_with_trust_a_data_set_of_ones_own_is_opened(store):
    photos = open_photos(store.settings, trust=True)
    assert type(photos.dataset).__name__ == "ReportDataset"
    assert open_photos(store.settings).dataset is None


@pytest.mark.parametrize("settings", [{}, {"config": {}}, {"config": {"data": {**SYNTHETIC, "no_such_key": 1}}}])
def test_settings_that_name_no_usable_data_set_mean_no_photos(settings):
    photos = open_photos(settings)
    assert photos.dataset is None
    assert photos.remarks


def test_the_page_is_drawn_without_a_model(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "models.clip_adapter.model", None)  # an import of it would fail
    write_report(PredictionStore(store.folder), None, OPTIONS, Photos(ReportDataset()))


def test_the_folder_of_predict_has_its_page_already(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"track": "predict"}')
    with pytest.raises(TrackInputError, match="expected the page that `predict` ends with"):
        page_of_photos(str(tmp_path))
    (tmp_path / "index.html").write_text("<html>")
    assert page_of_photos(str(tmp_path)) == tmp_path / "index.html"
    assert "index.html (6 bytes), as `predict` wrote it" in capsys.readouterr().out
    (tmp_path / "run.json").write_text('{"track": "few_shot"}')
    assert page_of_photos(str(tmp_path)) is None
