"""What a run is called: adapters of one's own stand in its name."""

from pathlib import Path

from tracks.api import composed
from tracks.run.build import chosen_names, run_names
from train.adapter import usage


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


def test_a_training_ends_with_the_command_that_uses_it():
    composed("zero_shot", {"weights": "tiny"})
    assert usage(Path("my runs/adapter.safetensors"), "visa") == (
        "vandkit zero-shot weights=tiny 'weights.adapter.path=my runs/adapter.safetensors' data=visa root=FOLDER"
    )
