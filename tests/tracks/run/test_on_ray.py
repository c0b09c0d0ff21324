"""With Ray the numbers are those of one process, whatever happens to its workers. Runs where Ray is installed."""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from models.base import Prediction
from tests.support.fakes import BrightnessModel, FakeDataset, FakeSample
from tracks.errors import TrackInputError
from tracks.run.cost import Stopwatch
from tracks.run.runner import RunnerOptions, Scored, predict_category, score_images
from tracks.run.store import PredictionStore


@dataclass(frozen=True)
class Broken(FakeSample):
    def load_image(self):
        raise TrackInputError(f"expected an image, got {self.name}, which is none")


class SlowModel(BrightnessModel):
    """Says in a file which process predicts, and takes its time."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def predict(self, images: Tensor, categories: Sequence[str]) -> Prediction:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.2)
        return super().predict(images, categories)


@pytest.fixture(scope="module", autouse=True)
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of clusters that tests start too
    yield ray
    ray.shutdown()


def found(model, samples, **options) -> list[Scored | None]:
    options = {"resolution": 32, "batch_size": 4, "strict": False, **options}
    return [scored for _, scored in score_images(model, samples, "bolt", RunnerOptions(**options))]


@pytest.mark.parametrize(("actors", "tasks"), [(None, 64), (2, 2)])
def test_numbers_and_their_order_are_those_of_one_process(actors, tasks, monkeypatch):
    monkeypatch.setattr("tracks.run.on_ray.TASKS", tasks)  # of eight batches: one or four a task
    model, samples = BrightnessModel(), FakeDataset(30).test("bolt")
    model.levels["bolt"] = 0.25
    samples[5] = Broken(*vars(samples[5]).values())
    here, there = found(model, samples), found(model, samples, engine="ray", actors=actors)
    assert here[5] is there[5] is None
    for one, other in zip(here[:5] + here[6:], there[:5] + there[6:], strict=True):
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        assert (one.image_score, one.scalars) == (other.image_score, other.scalars)


def test_the_seconds_are_the_actors_own_and_an_image_that_cannot_be_read_ends_a_strict_run(tmp_path):
    samples, watch = FakeDataset().test("bolt"), Stopwatch()
    options = RunnerOptions(32, 4, engine="ray")
    list(score_images(SlowModel(tmp_path), samples, "bolt", options, watch=watch))
    assert 0.6 <= watch.seconds < 20
    samples[-1] = Broken(*vars(samples[-1]).values())
    run = score_images(BrightnessModel(), samples, "bolt", options)
    assert [loaded.sample.name for loaded, _ in (next(run) for _ in range(8))] == [each.name for each in samples[:8]]
    with pytest.raises(TrackInputError, match="expected an image, got test/bad/004"):
        next(run)


def test_workers_killed_again_and_again_lose_nothing_and_do_nothing_twice(tmp_path):
    samples, pids = FakeDataset(80).test("bolt"), tmp_path / "pids"
    pids.mkdir()
    store = PredictionStore.create(tmp_path / "run", {"categories": ["bolt"]})
    killed: set[str] = set()

    class Killing(PredictionStore):
        """Kills whoever predicted, after every tenth image that is stored."""

        def add(self, row, anomaly_map, mask):
            super().add(row, anomaly_map, mask)
            alive = {path.name for path in pids.iterdir()} - killed
            if len(self.rows("bolt")) % 10 == 0 and alive and len(killed) < 3:
                pid = max(alive, key=lambda name: (pids / name).stat().st_mtime)
                os.kill(int(pid), signal.SIGKILL)
                killed.add(pid)

    store.__class__ = Killing
    options = RunnerOptions(resolution=32, batch_size=2, engine="ray")
    assert predict_category(SlowModel(pids), samples, "bolt", store, options) == 80
    assert killed
    assert [row.name for row in store.rows("bolt")] == [sample.name for sample in samples]
    whole = PredictionStore.create(tmp_path / "whole", {"categories": ["bolt"]})
    predict_category(BrightnessModel(), samples, "bolt", whole, RunnerOptions(resolution=32, batch_size=2))
    for one, other in zip(store.rows("bolt"), whole.rows("bolt"), strict=True):
        assert one == other
        np.testing.assert_array_equal(store.read_map(one), whole.read_map(other))


def judged_slowly(run: Path, pids: Path) -> int:
    """Predict 40 images into the run's folder; how many it lacked."""
    store = PredictionStore.create(run, {"categories": ["bolt"]})
    samples, options = FakeDataset(40).test("bolt"), RunnerOptions(resolution=32, batch_size=2, engine="ray")
    return predict_category(SlowModel(pids), samples, "bolt", store, options)


def test_the_driver_killed_and_started_again_resumes(tmp_path):
    pids, rows = tmp_path / "pids", tmp_path / "run/predictions/bolt.jsonl"
    pids.mkdir()
    driver = multiprocessing.get_context("spawn").Process(target=judged_slowly, args=(tmp_path / "run", pids))
    driver.start()
    while driver.is_alive() and (not rows.is_file() or rows.read_bytes().count(b"\n") < 10):
        time.sleep(0.02)
    driver.kill()
    driver.join()
    had = len(PredictionStore(tmp_path / "run").rows("bolt"))
    assert 10 <= had < 40
    assert judged_slowly(tmp_path / "run", pids) == 40 - had
    samples = FakeDataset(40).test("bolt")
    lines = [line for line in rows.read_bytes().splitlines() if line.endswith(b"}")]
    assert len(lines) == 40
    store, whole = PredictionStore(tmp_path / "run"), PredictionStore.create(tmp_path / "one", {"categories": ["bolt"]})
    assert [row.name for row in store.rows("bolt")] == [sample.name for sample in samples]
    predict_category(BrightnessModel(), samples, "bolt", whole, RunnerOptions(resolution=32, batch_size=2))
    for one, other in zip(store.rows("bolt"), whole.rows("bolt"), strict=True):
        assert one == other
        np.testing.assert_array_equal(store.read_map(one), whole.read_map(other))


class NodeModel(BrightnessModel):
    """Says in a file on which node of a cluster it predicts."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def predict(self, images: Tensor, categories: Sequence[str]) -> Prediction:
        import ray

        (self.folder / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(0.1)
        return super().predict(images, categories)


def test_two_nodes_give_the_bits_of_one_process(ray, tmp_path):
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        samples = FakeDataset(40).test("bolt")
        there = found(NodeModel(tmp_path), samples, engine="ray", ray_address=cluster.address, actors=2)
        assert len(list(tmp_path.iterdir())) == 2
        for one, other in zip(found(BrightnessModel(), samples), there, strict=True):
            np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
            assert (one.image_score, one.scalars) == (other.image_score, other.scalars)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_nobody_at_the_address_is_an_error_that_names_it(ray):
    ray.shutdown()
    with pytest.raises(TrackInputError, match=r"expected a running Ray cluster at '127\.0\.0\.1:1'"):
        found(BrightnessModel(), FakeDataset().test("bolt"), engine="ray", ray_address="127.0.0.1:1")
