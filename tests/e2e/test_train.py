"""`python -m train.adapter` from end to end on rendered pictures, with a CLIP small enough for seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from models.clip_adapter.checkpoint import load_adapter
from tests.support.train_stand_ins import SMALL_CLIP
from tracks.errors import TrackInputError
from train.adapter import run_training

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.e2e
FEW = "categories=[wood,carpet,gear,screw,capsule,coin,tablets,part_tray]"


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "small.json"
    path.write_text(json.dumps(SMALL_CLIP))
    return path


def settings(small_clip: Path, out: Path, *more: str) -> list[str]:
    return [
        f"weights.backbone.name={small_clip}", "weights.backbone.weights=random:0", "weights.backbone.image_size=32",
        "weights.backbone.stages=[1,2]", "weights.backbone.activation=gelu",
        "data.image_size=48", "data.test_normal=2", "data.test_per_kind=1", "data.kinds_per_category=2",
        "target=synthetic", "batch_size=8", "epochs=2", "device=cpu", f"out={out}", FEW, *more,
    ]  # fmt: skip


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def command(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "train.adapter", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def in_process(*arguments: str) -> Path:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return run_training(compose("train", list(arguments)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_adapter(folder / "adapter.safetensors")[0].state_dict()


def test_the_command_trains_and_says_where_the_adapters_are(small_clip, tmp_path):
    out = tmp_path / "run"
    code, printed, errors = finish(command(*settings(small_clip, out, "validation_share=0.2", "aug_rate=0.5")))
    assert code == 0, errors
    assert str(out / "adapter.safetensors") in printed
    assert "epoch 2/2" in errors
    assert "loss=" in errors
    adapter, header = load_adapter(out / "adapter.safetensors")
    assert adapter.stage_widths == (24, 24)
    assert header.trained_on == ("synthetic:source",)
    assert 0 <= header.image_threshold <= 1
    assert len((out / "log.csv").read_text().splitlines()) == 3
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.yaml", "run.json", "state.pt"} < {path.name for path in out.iterdir()}
    assert not (out / "cache").exists()


def test_two_processes_under_torchrun_end_in_the_same_weights(small_clip, tmp_path):
    more = ("validation_share=0.2", "aug_rate=0.5")
    alone, together = in_process(*settings(small_clip, tmp_path / "alone", *more)), tmp_path / "together"
    code, printed, errors = finish(command(*settings(small_clip, together, *more), launcher=TWO_PROCESSES))
    assert code == 0, errors
    assert printed.count("adapters: ") == 1
    expected, got = weights(alone), weights(together)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-5, rtol=1e-4)


def test_killed_in_the_middle_the_same_command_ends_in_the_same_weights(small_clip, tmp_path):
    more = ("aug_rate=0.0", "checkpoint_every=1", "epochs=6")
    in_process(*settings(small_clip, tmp_path / "whole", *more))
    arguments = settings(small_clip, tmp_path / "killed", *more)
    process = command(*arguments)
    while process.poll() is None and not (tmp_path / "killed" / "state.pt").is_file():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert process.returncode == -signal.SIGKILL
    log = tmp_path / "killed" / "log.csv"
    assert not log.is_file() or len(log.read_text().splitlines()) < 7
    code, _, errors = finish(command(*arguments))
    assert code == 0, errors
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(small_clip, tmp_path):
    out = tmp_path / "run"
    process = command(*settings(small_clip, out, "aug_rate=0.0", "checkpoint_every=1", "epochs=5000"))
    while process.poll() is None and not (out / "adapter.safetensors").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # what a callback of C code raises is lost, so that one has to press again
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=200)
    code = process.returncode
    assert code not in (0, 1)
    assert "the same command" in errors
    assert "of 5000 epochs" in errors
    assert "Traceback" not in errors
    assert (out / "state.pt").is_file()
    assert (out / "cache").is_dir()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.split=target", "categories=[denim,marble]"], "allow_same_dataset=true"),
        (["data=mvtec", "data.root=nowhere"], "nowhere"),
    ],
)
def test_what_the_user_can_mend_ends_in_one_paragraph_and_exit_code_2(small_clip, tmp_path, more, message):
    arguments = settings(small_clip, tmp_path / "run", *more)
    if "data=mvtec" in more:
        arguments = [argument for argument in arguments if argument == "data.root=nowhere" or "data." not in argument]
    code, _, errors = finish(command(*arguments))
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["target=null", "data.split=target", "categories=[denim,marble]"], "synthetic:target for both"),
        (["data.test_per_kind=0"], "none anomalous"),
        (["categories=[not_there]"], "not_there"),
        (["model.backbone=null"], "use model=clip_adapter"),
        (["epochs=0"], "expected epochs to be 1 or more"),
    ],
)
def test_other_bad_settings_are_refused_before_anything_is_written(small_clip, tmp_path, more, message):
    with pytest.raises(TrackInputError, match=message):
        in_process(*settings(small_clip, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_allow_same_dataset_is_recorded(small_clip, tmp_path):
    more = ("data.split=target", "categories=[denim,marble]", "allow_same_dataset=true", "epochs=1", "aug_rate=0.0")
    in_process(*settings(small_clip, tmp_path, *more))
    assert load_adapter(tmp_path / "adapter.safetensors")[1].trained_on == ("synthetic:target",)
    assert json.loads((tmp_path / "run.json").read_text())["allow_same_dataset"] is True


def test_a_training_keeps_a_log_and_tells_its_tracker_the_curves(small_clip, tmp_path):
    told = ["tracker._target_=tests.tracks.run.test_trackers.Told", f"+tracker.path={tmp_path / 'told.json'}"]
    folder = in_process(*settings(small_clip, tmp_path / "run", *told))
    lines = (folder / "log.txt").read_text().splitlines()
    assert "INFO vandkit: begun: " in lines[0]
    assert "INFO vandkit: epochs 2, last: {'epoch': 2, " in lines[-2]
    assert lines[-1].endswith("INFO vandkit: finished")
    record = json.loads((tmp_path / "told.json").read_text())
    rows = (folder / "log.csv").read_text().splitlines()[1:]
    assert [[epoch, row["loss"]] for epoch, row in record["curves"]] == [
        [int(row.split(",")[0]), float(row.split(",")[1])] for row in rows
    ]
    assert record["settings"]["epochs"] == 2
    assert {"log.csv", "loss.png", "config.yaml", "log.txt"} <= set(record["files"])


def test_the_default_folder_is_named_after_the_settings(small_clip, tmp_path):
    arguments = [argument for argument in settings(small_clip, tmp_path) if not argument.startswith("out=")]
    arguments += [f"outputs={tmp_path}", "epochs=1"]
    one, other = in_process(*arguments), in_process(*arguments, "learning_rate=0.01")
    assert one.parent == other.parent == tmp_path / "train"
    assert one != other
    assert "synthetic_source-for-synthetic-seed0" in one.name
    assert in_process(*arguments, "epochs=2") == one
