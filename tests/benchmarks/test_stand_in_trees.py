"""The stand-ins of the benchmarks are read as the data sets that they stand for."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reproduce_stand_in
from benchmarks.reproduce_stand_in import Outcome, arguments_of, read_comparison, to_text
from benchmarks.stand_in_trees import MVTEC, NUM_REFERENCES, VISA, WRITERS, write_tree
from eval.published.reader import load
from tracks.datasets.ksdd2 import KSDD2
from tracks.datasets.mtd import MTD
from tracks.datasets.mvtec import MVTec
from tracks.datasets.registry import registry
from tracks.datasets.visa import VisA

READERS = {
    "mvtec": (MVTec, {}, MVTEC, NUM_REFERENCES),
    "visa": (VisA, {}, VISA, NUM_REFERENCES),
    "ksdd2": (KSDD2, {"split": "swapped"}, ("ksdd2",), 1),
    "mtd": (MTD, {"mask_above": 0, "unmarked": "normal"}, ("magnetic_tile",), 1),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_category_has_a_good_and_a_defective_image(tmp_path, name):
    reader, settings, categories, references = READERS[name]
    dataset = reader(write_tree(name, tmp_path, width=30), **settings)
    assert sorted(dataset.categories) == sorted(categories)
    assert len(categories) == registry()[name].categories
    for category in categories:
        samples = {sample.label: sample for sample in dataset.test(category)}
        assert len(dataset.test(category)) == 2
        assert samples.keys() == {0, 1}
        assert len(dataset.train(category)) == references
        pixels, mask = np.asarray(samples[1].load_image()).astype(float), samples[1].load_mask()
        assert mask.shape == pixels.shape[:2] == (20, 30)
        assert 0 < mask.mean() < 0.05
        assert pixels[mask].mean() > pixels[~mask].mean() + 50
        good = samples[0].load_mask()
        assert good is None or not good.any()


def test_a_tree_is_written_once_and_whole(tmp_path, monkeypatch):
    before = write_tree("mtd", tmp_path, width=30)
    monkeypatch.setitem(WRITERS, "mtd", lambda *_: pytest.fail("written again"))
    assert write_tree("mtd", tmp_path, width=30) == before
    monkeypatch.setitem(WRITERS, "mtd", lambda folder, _: (folder.mkdir(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        write_tree("mtd", tmp_path, width=60)
    assert not (tmp_path / "mtd-60").exists()


def test_every_table_of_ours_has_its_data_sets():
    assert {name for table in reproduce_stand_in.TABLES for name in load(table).data} == set(WRITERS)


def options(tmp_path, **changed) -> argparse.Namespace:
    given = {"weights": "random", "device": "cpu", "folder": tmp_path, "only": [], "refiner": "vit_b", "quick": False}
    return argparse.Namespace(**given | {"settings": [], "models": []} | changed)


def test_the_command_names_weights_data_and_folders(tmp_path):
    clip = arguments_of("april_gan/9", options(tmp_path), {"visa": Path("/there/visa-300")})
    assert clip[:2] == ["table=april_gan/9", "use_weights=random_vitl14_336"]
    assert "models=[clip_adapter]" in clip
    other = arguments_of("saa_report/1", options(tmp_path, weights="clipseg_random", models=["clipseg"]), {})
    assert {"use_weights=clipseg_random", "models=[clipseg]"} <= set(other)
    assert not any("refiner" in argument for argument in other)
    assert "+roots.visa='/there/visa-300'" in clip
    assert not any("refiner" in argument for argument in clip)
    saa = arguments_of("saa_extended/1", options(tmp_path, only=["mtd"], settings=["seeds=[0]"]), {})
    assert saa[1] == "use_weights=saa_random"
    assert saa[-3:] == ["only=[mtd]", "+settings.weights.saa.refiner.name=vit_b", "seeds=[0]"]
    assert arguments_of("saa_report/1", options(tmp_path, weights="tiny"), {})[1] == "use_weights=tiny"
    quick = arguments_of("saa_report/1", options(tmp_path, quick=True), {})
    added = [argument for argument in quick if argument not in arguments_of("saa_report/1", options(tmp_path), {})]
    assert added == [f"+settings.{setting}" for setting in reproduce_stand_in.QUICK] != []


def test_figures_without_ours_are_counted(tmp_path):
    (tmp_path / "comparison.csv").write_text("row,paper,ours\na,1,2\nb,1,\nc,1,0.0\n")
    assert read_comparison(tmp_path) == (3, 2)
    line = to_text([Outcome("april_gan/9", 0, 12.5, 9.25, 1000.4, 24, 3, 2)]).splitlines()[-1]
    assert line == "| april_gan/9 | 24 | 12.5 | 9.25 | 1000 | 2 of 3 | 0 |"
