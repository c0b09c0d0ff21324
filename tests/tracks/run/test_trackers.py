"""What trackers are told, read back by their own clients where they are installed."""

import json
import sys

import numpy as np
import PIL.Image
import pytest

from tests.tracks.run.test_runner import config
from tracks.errors import TrackInputError
from tracks.run.track import run_track
from tracks.run.trackers import MLflow, Record, TensorBoard, Tracker, WandB, curves_of, flat, metrics_of

RESULTS = {
    "categories": {"nut": {"auroc_cls": 0.75, "images": 4, "reason": "none"}, "nut#2": {"auroc_cls": None}},
    "mean": {"auroc_cls": 0.75}, "score": 0.5, "seconds": None,
}  # fmt: skip
HISTORY = [{"epoch": 1, "loss": 2.0, "ap_seg": None}, {"epoch": 2, "loss": 1.5, "ap_seg": 0.25}]
METRICS = {"nut/auroc_cls": 0.75, "nut/images": 4.0, "mean/auroc_cls": 0.75, "score": 0.5}


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "a run"
    (folder / "overlays/nut").mkdir(parents=True)
    PIL.Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(folder / "overlays/nut/0.png")
    (folder / "results.md").write_text("| nut | 75.0 |\n")
    (folder / "config.yaml").write_text("shots: 2\n")
    settings = flat({"shots": 2, "model": {"side": 64, "stages": [1, 2], "more": {}}})
    return Record(folder, settings, metrics_of(RESULTS), curves_of(HISTORY))


def test_numbers_and_settings_are_flat_and_without_blanks(record):
    assert record.metrics == METRICS
    assert record.settings == {"shots": 2, "model.side": 64, "model.stages": [1, 2], "model.more": {}}
    assert record.curves == [(1, {"loss": 2.0}), (2, {"loss": 1.5, "ap_seg": 0.25})]
    assert [path.name for path in record.files] == ["results.md", "config.yaml"]
    Tracker().write(record)
    assert sorted(path.name for path in record.folder.parent.iterdir()) == ["a run"]


@pytest.mark.parametrize(
    ("build", "package"),
    [
        (lambda: TensorBoard("x"), "tensorboard"),
        (lambda: MLflow("x", "y"), "mlflow"),
        (lambda: WandB("x", "y", "offline"), "wandb"),
    ],
)
def test_a_package_that_is_not_here_is_named_with_its_remedy(build, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrackInputError, match=rf"package {package} .*pip install \"vandkit\[trackers\]\""):
        build()


def test_tensorboard_reads_back_what_was_written(record, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # in place of the first, not beside it
        TensorBoard(str(tmp_path / "tb")).write(record)
    read = EventAccumulator(str(tmp_path / "tb/a run")).Reload()
    assert {name: read.Scalars(name)[0].value for name in METRICS} == METRICS
    assert [(each.step, each.value) for each in read.Scalars("training/loss")] == [(1, 2.0), (2, 1.5)]
    assert [(each.step, each.value) for each in read.Scalars("training/ap_seg")] == [(2, 0.25)]
    (picture,) = read.Images("overlays/nut/0")
    assert (picture.width, picture.height) == (6, 4)
    texts = [read.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0] for name in ("settings", "results")]
    assert b"| model.side | 64 |" in texts[0]
    assert b"| nut | 75.0 |" in texts[1]


def test_mlflow_reads_back_what_was_written(record, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    store = tmp_path / "ml runs"
    MLflow(str(store), "mine").write(record)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert {name: run.data.metrics[name] for name in METRICS} == METRICS
    assert run.data.params["model.stages"] == "[1, 2]"
    steps = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(each.step, each.value) for each in steps] == [(1, 2.0), (2, 1.5)]
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"results.md", "config.yaml", "overlays"}
    assert [each.path for each in client.list_artifacts(run.info.run_id, "overlays/nut")] == ["overlays/nut/0.png"]


def test_wandb_writes_an_offline_run(record, tmp_path):
    pytest.importorskip("wandb")
    WandB(str(tmp_path), "mine", "offline").write(record)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    assert (run / "files/results.md").exists()


def test_a_run_of_a_track_tells_its_tracker_all_there_is(tmp_path):

    results = run_track(
        config(tmp_path, tracker={"_target_": f"{__name__}.Told", "path": str(tmp_path / "told.json")}), "zero_shot"
    )
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["metrics"] == metrics_of(results)
    assert told["settings"]["model._target_"] == "tests.support.fakes.BrightnessModel"
    assert {"results.md", "results.json", "config.yaml", "log.txt"} <= set(told["files"])
    assert told["pictures"]


class Told(Tracker):
    """Writes down what it is told."""

    def __init__(self, path):
        self.path = path

    def write(self, record):
        with open(self.path, "w", encoding="utf-8") as file:
            names = {key: [path.name for path in getattr(record, key)] for key in ("files", "pictures")}
            json.dump({"metrics": record.metrics, "settings": record.settings, "curves": record.curves, **names}, file)
