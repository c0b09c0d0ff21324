"""Copies, to the byte, among references and between them and the images that are judged."""

from pathlib import Path

import pytest

from tests.support.dataset_stand_ins import save_image
from tests.support.fakes import FakeDataset
from tracks.datasets.files import FileSample
from tracks.datasets.photos import Photos
from tracks.run.copies import distinct, warn_of_judged_references


def image(path: Path, value: int) -> FileSample:
    return FileSample(path.name, "part", None, "", save_image(path, value))


def test_copies_among_references_are_said_and_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = [image(tmp_path / f"{number}.png", value) for number, value in enumerate((7, 8, 7, 9, 7, 8))]
    assert distinct(references) == [references[0], references[1], references[3]]
    assert caplog.messages == [
        "of 6 references 3 tell nothing new: they are copies of others (the first: 2.png of 0.png)"
    ]
    caplog.clear()
    assert distinct(references[:2]) == references[:2]
    assert distinct(FakeDataset().train("bolt")) == FakeDataset().train("bolt")
    assert caplog.messages == []


def test_judged_copies_of_references_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = [image(tmp_path / "good/a.png", 7)]
    others = [image(tmp_path / "b.png", 8), image(tmp_path / "c.png", 9)]
    warn_of_judged_references(references, others)
    warn_of_judged_references([], others)
    assert caplog.messages == []
    warn_of_judged_references(references, [*others, image(tmp_path / "d.png", 7)])
    assert caplog.messages == [
        "of 3 images to judge 1 are references too (the first: d.png is a.png): their scores say nothing about others"
    ]


def test_predict_fits_each_reference_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in (("good/a.png", 7), ("good/b.png", 7), ("good/c.png", 8), ("x.png", 8), ("y.png", 9)):
        save_image(tmp_path / name, value)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    photos = Photos(tmp_path, references=tmp_path / "good")
    assert [sample.name for sample in photos.train("object")] == ["references/a.png", "references/c.png"]
    assert ["copies" in message for message in caplog.messages] == [True, False]
    assert "of 3 images to judge 1 are references too (the first: x.png is references/c.png)" in caplog.messages[1]
