import inspect
import logging
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tracks.datasets import registry as module
from tracks.datasets.registry import (
    announce_licence,
    licence_notice,
    read_registry,
    registry,
)
from tracks.datasets.visa import TEST_COUNTS
from tracks.errors import TrackInputError

CONF = Path(__file__).resolve().parents[3] / "conf" / "data"
NO_PUBLIC_SET = {"folder", "photos", "meta_json", "synthetic"}


def test_every_reader_of_a_public_set_has_an_entry_and_the_reverse() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} - NO_PUBLIC_SET == set(registry())


def test_names_are_those_of_the_configurations() -> None:
    """A notice and the totals are looked up by `Dataset.name`."""
    for name in registry():
        node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        place, _, reader = node["_target_"].rpartition(".")
        default = inspect.signature(getattr(import_module(place), reader)).parameters.get("name")
        expected = None if name == "mvtec" else name  # found by its categories, as others share its layout
        assert node.get("name", default.default if default else name) == expected


def test_entries_are_complete() -> None:
    for entry in registry().values():
        assert entry.title, entry.name
        assert entry.layout.strip(), entry.name
        assert entry.splits, entry.name
        assert all(isinstance(text, str) for text in entry.splits.values()), entry.name
        assert entry.licence
        assert entry.citation
        assert entry.page.startswith("https://"), entry.name
        assert "root" in entry.by_hand, entry.name
        for archive in entry.archives:
            assert archive.urls
            assert all(url.startswith("https://") for url in archive.urls)
            assert archive.sha256 is None or re.fullmatch("[0-9a-f]{64}", archive.sha256)
            assert archive.size is None or archive.size > 10**6


def test_totals_agree_with_one_another() -> None:
    """Published sums: 2,162 test images of VisA in 12 categories, 5,354 images of MVTec AD, 3,335 of KolektorSDD2."""
    visa = registry()["visa"]
    whole, parts = visa.totals[""], {name: counts for name, counts in visa.totals.items() if name}
    assert {name: (counts["test_normal"], counts["test_anomalous"]) for name, counts in parts.items()} == TEST_COUNTS
    assert len(parts) == visa.categories == 12
    for key in ("test_normal", "test_anomalous"):
        assert sum(counts[key] for counts in parts.values()) == whole[key]
    assert whole["test"] == whole["test_normal"] + whole["test_anomalous"] == 2162
    assert whole["train"] + whole["test_normal"] == 9621
    assert sum(registry()["mvtec"].totals[""].values()) == 5354
    assert sum(registry()["ksdd2"].totals[""].values()) == 3335
    assert registry()["mtd"].totals[""] == {"all": 952 + 115 + 85 + 57 + 32 + 103}


def test_notice_only_where_commercial_use_is_forbidden() -> None:
    forbidden = {name for name in registry() if licence_notice(name)}
    assert forbidden == {"mvtec", "mvtec_ad2", "mvtec_loco", "ksdd", "ksdd2", "btad", "mpdd"}
    assert licence_notice("mvtec") == (
        "licence of MVTec AD (data mvtec): CC BY-NC-SA 4.0, no commercial use; see "
        "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    )
    assert licence_notice("my own") is None


def test_notice_comes_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_announced", set())
    with caplog.at_level(logging.WARNING):
        for name in ("btad", "visa", "btad", "photos", "mpdd"):
            announce_licence(name)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "licence of BTAD", "licence of MPDD",
    ]  # fmt: skip


def test_broken_entries(tmp_path: Path) -> None:
    content = yaml.safe_load(module.REGISTRY.read_text())["visa"]
    for change, message in (
        ({"totals": {"": {"pictures": 3}}}, "totals of train.*got 'pictures'"),
        ({"commercial_use": "maybe"}, "got 'maybe'"),
        ({"colour": "red"}, "keys of DatasetEntry for visa.*colour"),
        ({"archives": [{"file": "a"}]}, "keys of DatasetEntry for visa"),
    ):
        path = tmp_path / "registry.yaml"
        path.write_text(yaml.safe_dump({"visa": {**content, **change}}))
        with pytest.raises(TrackInputError, match=message):
            read_registry(path)
