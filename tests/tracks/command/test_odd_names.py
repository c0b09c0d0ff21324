"""Names of files and categories from elsewhere: no UTF-8, too long for what is added, leading out of the run."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.dataset_stand_ins import save_image, save_mask
from tests.tracks.run.test_runner import config
from tracks.datasets.meta_json import MetaJson
from tracks.datasets.mvtec import MVTec
from tracks.errors import TrackInputError
from tracks.report import open_photos, write_report
from tracks.report_page.choice import Choice
from tracks.report_page.page import PageOptions
from tracks.run.reference_lists import read_manifest
from tracks.run.store import PredictionStore, Row
from tracks.run.track import run_track
from tracks.submission.kaputt2 import Options, Submission

BYTES = os.fsdecode(b"\xe9\xff")


def tree(root: Path, category: str, stem: str) -> Path:
    """Three normal images to draw from, two to test on and two defects with masks, all with `stem` in their names."""
    for number in range(3):
        save_image(root / category / f"train/good/{stem}{number}.png", 20)
    for number in range(2):
        save_image(root / category / f"test/good/{stem}{number}.png", 20 + number)
        save_image(root / category / f"test/scratch/{stem}{number}.png", 200 + number)
        save_mask(root / category / f"ground_truth/scratch/{stem}{number}.png")
    return root


def run(root: Path, tmp_path: Path, **changed):
    data = {"_target_": "tracks.datasets.mvtec.MVTec", "root": str(root)}
    return run_track(
        config(tmp_path, data=data, overlays=-1, **changed), "few_shot" if "shots" in changed else "zero_shot"
    )


@pytest.mark.parametrize(
    ("category", "stem"), [(f"b{BYTES}lt", "0"), ("bolt", BYTES), ("螺" * 80, "钉" * 80 + "123456")]
)
def test_a_run_its_tables_and_its_report_take_any_name(tmp_path, category, stem):
    root = tree(tmp_path / "set", category, stem)
    results = run(root, tmp_path, shots=2)
    store = PredictionStore(results["folder"])
    rows = store.rows(category)
    assert [row.name for row in rows] == [sample.name for sample in MVTec(root).test(category)]
    assert all(store.read_map(row).shape == (32, 32) for row in rows)
    assert sum(store.read_mask(row).any() for row in rows) == 2
    assert len(list((store.folder / "overlays").rglob("*.png"))) == 4
    assert len(read_manifest(store.folder / "references.json")[category]) == 2
    with (store.folder / "results.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row["category"] for row in csv.DictReader(file)] == [category, "mean"]
    page = write_report(store, None, PageOptions(Choice(1, 1)), open_photos(store.settings))
    assert page.read_text(encoding="utf-8")
    again = run(root, tmp_path, shots=2, references=str(store.folder / "references.json"))
    assert PredictionStore(again["folder"]).settings["references"] == store.settings["references"]


def test_a_submission_refuses_names_that_no_archive_holds(tmp_path):
    store = PredictionStore(run(tree(tmp_path / "set", "bolt", BYTES), tmp_path)["folder"])
    with pytest.raises(TrackInputError, match=r"names in UTF-8 for a submission, got 'bolt/.*\\udce9.*rename"):
        Submission([store], Options())


@pytest.mark.parametrize("absolute", [True, False])
def test_a_run_on_files_listed_elsewhere_writes_into_its_own_folder_only(tmp_path, absolute):
    data, listed = tree(tmp_path / "data", "bolt", "0"), tmp_path / "listed"
    way = str(data) if absolute else "../data"
    entries = [
        {"img_path": f"{way}/bolt/test/{kind}/00.png", "mask_path": f"{way}/bolt/ground_truth/scratch/00.png" * label,
         "cls_name": "bolt", "specie_name": kind, "anomaly": label}
        for kind, label in (("good", 0), ("scratch", 1))
    ]  # fmt: skip
    listed.mkdir()
    (listed / "meta.json").write_text(json.dumps({"test": {"bolt": entries}}))
    before = sorted(data.rglob("*"))
    node = {"_target_": "tracks.datasets.meta_json.MetaJson", "root": str(listed)}
    results = run_track(config(tmp_path, data=node, overlays=-1), "zero_shot")
    assert sorted(data.rglob("*")) == before
    assert sorted(path.name for path in listed.iterdir()) == ["meta.json"]
    overlays = Path(results["folder"]) / "overlays"
    assert len([path for path in overlays.rglob("*.png") if path.is_file()]) == 2
    assert [s.name for s in MetaJson(listed).test("bolt")] == [
        "data/bolt/test/good/00.png",
        "data/bolt/test/scratch/00.png",
    ]


class Strangers:
    """A data set of somebody who lets names lead out."""

    name, categories, protocol = "strangers", ("bolt",), {}

    def __init__(self, root: str) -> None:
        self._inner = MVTec(root)

    def test(self, category):
        return [replace(sample, name=f"../../{sample.name}") for sample in self._inner.test(category)]


def test_names_of_any_data_set_that_lead_out_are_refused_before_predicting(tmp_path):
    node = {
        "_target_": "tests.tracks.command.test_odd_names.Strangers",
        "root": str(tree(tmp_path / "set", "bolt", "0")),
    }
    with pytest.raises(TrackInputError, match=r"got '\.\./\.\./test/good/00\.png', which leads out"):
        run_track(config(tmp_path, data=node), "zero_shot")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("place", ["../../x.tiff", "/x.tiff", "predictions/../../x.tiff"])
def test_a_stored_row_that_leads_out_is_refused(tmp_path, place):
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    row = Row("a.png", "bolt", 0, "good", 0.5, 2, 2, place, False, "")
    with pytest.raises(TrackInputError, match="leads out"):
        store.read_map(row)
