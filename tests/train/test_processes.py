"""Several processes train to the weights of one; the first alone writes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from models.clip_adapter.checkpoint import load_adapter
from tests.support.joint_training import CASES, training
from tracks.errors import TrackInputError
from train.adapters.processes import ALONE, Processes, joined

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes under torchrun leave of every case."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.support.joint_training", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((folder / "log.csv").open())]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_to_the_weights_of_one(together, tmp_path, monkeypatch, name):
    monkeypatch.setattr("train.adapters.training.draw_curves", lambda *_: None)
    training(tmp_path, CASES[name], ALONE).run()
    ours, alone = (
        load_adapter(folder / "adapter.safetensors")[0].state_dict() for folder in (together[0] / name, tmp_path)
    )
    for key, tensor in alone.items():
        assert_close(ours[key], tensor, atol=1e-5, rtol=1e-4)
    assert losses(together[0] / name) == pytest.approx(losses(tmp_path), rel=1e-5)
    first, second = (torch.load(together[0] / f"{name}_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_one_process_alone_prints_and_the_cache_is_built_once(together):
    folder, printed = together
    assert printed.count("epoch 3/3:   0%") == 3
    assert printed.count("epoch 2/2:   0%") == 1
    assert printed.count("encode once:   0%") == 3 * 2  # two lists each, kept over a break; "defects" has none
    assert len([path for path in (folder / "cached/cache").iterdir() if path.is_dir()]) == 2  # learnt from, held out
    assert (folder / "done.txt").read_text() == "01", "a task is done once by each, by the first one first"
    assert (folder / "left_0.txt").read_text() == "TrackInputError('no room')"
    assert (folder / "left_1.txt").read_text() == "SystemExit(2)"


@pytest.mark.parametrize(("images", "batch_size", "count"), [(16, 5, 2), (16, 5, 3), (9, 4, 4), (12, 4, 1), (3, 8, 4)])
def test_the_parts_of_a_batch_make_the_batch(images, batch_size, count):
    order = [7 * index for index in range(images)]
    members = [Processes(rank, count) for rank in range(count)]
    parts = [member.part(order, batch_size) for member in members]
    sizes = [member.part_size(batch_size) for member in members]
    assert sum(sizes) == batch_size
    for step in range(-(-images // batch_size)):
        batch = [part[step * size : (step + 1) * size] for part, size in zip(parts, sizes, strict=True)]
        assert sorted(index for part in batch for index in part) == order[step * batch_size : (step + 1) * batch_size]


def test_more_processes_than_images_of_a_batch_are_refused():
    with pytest.raises(TrackInputError, match="batch_size to be at least the number of processes, got 2 for 3"):
        Processes(0, 3).part_size(2)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes:
        assert processes == ALONE


def test_one_named_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("train.adapters.processes.pick_device", lambda wanted: wanted)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(TrackInputError, match="no single GPU for several processes"), joined("cuda:1"):
        pass
    with pytest.raises(TrackInputError, match="got 1 for process 2"), joined("cuda"):
        pass
