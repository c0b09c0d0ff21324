"""What a run is called: adapters of one's own stand in its name."""

import pytest

from tracks.api import composed
from tracks.errors import TrackInputError
from tracks.run.build import check_run_settings, chosen_names, run_names


def test_adapters_of_ones_own_are_in_a_runs_name(tmp_path):
    (tmp_path / "mvtec-for-visa").mkdir()
    file = tmp_path / "mvtec-for-visa/adapter.safetensors"
    file.write_bytes(b"")
    composed("zero_shot", {"weights": "tiny", "weights.adapter.path": str(file)})
    assert run_names()["weights"] == "tiny+mvtec-for-visa"
    assert chosen_names()["weights"] == "tiny"
    composed("zero_shot", {"weights": "tiny", "weights.adapter.path": str(file.rename(tmp_path / "mine.safetensors"))})
    assert run_names()["weights"] == "tiny+mine"
    composed("zero_shot", {"weights": "tiny", "weights.adapter.path": "tiny_adapter"})  # a name of the catalogue
    assert run_names()["weights"] == "tiny"


def test_ray_that_is_not_installed_is_said_before_anything_is_done(monkeypatch):
    monkeypatch.setattr("tracks.run.on_ray.find_spec", lambda name: None)
    with pytest.raises(TrackInputError, match=r"vandkit\[ray\]"):
        check_run_settings(composed("predict", {"images": "photos", "engine": "ray"}))
