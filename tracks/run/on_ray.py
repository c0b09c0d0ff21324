"""Batches judged on Ray: a pool of actors that decode images and hold the model, one machine or a cluster.

Ray Data plans, retries and moves things (P. Moritz et al., arXiv 1712.05889; Ray's documentation of `map_batches`). A
batch holds the same images as in a single process and comes back in the same order, so the numbers are the same; what
a lost worker was busy with is done again; a batch waits for the one before it to be taken, so memory does not grow with
the number of images.
"""

import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from models.base import AnomalyModel, Prediction
from models.errors import ModelInputError
from tracks.datasets.notices import met_notices, notice
from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError
from tracks.run.cost import Stopwatch

if TYPE_CHECKING:
    from tracks.run.runner import Loaded, RunnerOptions

ACTOR_CORES = 0.2
"""Reserved of a core for all actors, however many they are. They compute with all the threads they are given; Ray only
counts."""
BATCHES_IN_TASK, TASKS = 8, 64
"""An actor takes so many batches at once, since each time costs Ray some 0.1 s of processor time, once there are so
many tasks."""
CONNECT_SECONDS = 10

Row = dict[str, Any]
"""Of a data set of Ray: one batch, pickled; Ray would make a table of anything else."""


def predicted_on_ray(
    model: AnomalyModel, batches: Sequence[Sequence[Sample]], category: str, options: "RunnerOptions"
) -> Iterator[tuple[list["Loaded"], Prediction | None, float]]:
    """For each batch, in order: its images (without their pixels), the prediction on the processor, the seconds.

    Raises:
        TrackInputError: no Ray here; no cluster at the address; an image that cannot be read (options are strict).
        ModelInputError: images that do not suit the model.
    """
    if not batches:
        return
    ray = start(options.ray_address)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    number = options.actors or 1
    accelerators = {"num_gpus": 1} if options.device.startswith("cuda") else {}
    threads = max(1, torch.get_num_threads() // number)
    cores = int(ray.cluster_resources().get("CPU", 1))
    here = replace(options, engine="local", workers=max(options.workers, cores // number))
    whole = ray.put(model)
    blocks = max(len(batches) // BATCHES_IN_TASK, min(len(batches), TASKS))
    batches_of_rows = ray.data.from_items(
        [{"samples": ray.cloudpickle.dumps(batch)} for batch in batches], override_num_blocks=blocks
    )
    scored = batches_of_rows.map_batches(
        _Predictor,
        fn_constructor_args=(whole, category, here, threads),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=number),
        num_cpus=round(ACTOR_CORES / number, 3),
        **accelerators,
    )
    for batch, row in zip(batches, scored.iter_rows(), strict=False):  # an error takes the place of all that follow it
        images, met, found = ray.cloudpickle.loads(row["scored"])
        for kind, path in met:
            notice(kind, path)
        if isinstance(found, Exception):
            raise found
        yield [replace(loaded, sample=sample) for loaded, sample in zip(images, batch, strict=True)], *found


def start(address: str | None) -> Any:
    """Ray, started on this machine unless it runs already, or joined where `address` says.

    Raises:
        TrackInputError: it is not installed, or nobody answers there.
    """
    check_installed()
    import ray
    import ray.data

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: beside other programs workers would starve
    if not ray.is_initialized():
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise TrackInputError(f"expected a running Ray cluster at {address!r}, got: {reason}") from error
    return ray


def check_installed() -> None:
    """Raise a TrackInputError where there is no Ray; cheap enough to ask before anything is done."""
    if find_spec("ray") is None:
        raise TrackInputError(
            'expected Ray for engine=ray, got none installed; `pip install "vandkit[ray]"`, or leave the engine out'
        )


def _reach(address: str | None) -> None:
    """Fail at once where nobody listens; Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


class _Predictor:
    """Holds the model, fitted as the run's own process left it, and does with batches what a single process does."""

    def __init__(self, model: Any, category: str, options: "RunnerOptions", threads: int):
        import ray

        torch.set_num_threads(threads)
        self._model: AnomalyModel = ray.get(model).to(options.device).eval()
        self._category, self._options = category, options

    def __call__(self, rows: Row) -> Iterator[Row]:
        from ray import cloudpickle

        from tracks.run.runner import predicted

        batches = [cloudpickle.loads(samples) for samples in rows["samples"]]
        # The run knows its samples; and torch pickles each tensor as a file, so one stands for all pixels.
        nothing: Any = None
        sent = torch.empty(0)
        try:
            for images, *found in predicted(self._model, batches, self._category, self._options, Stopwatch()):
                bare = [replace(each, sample=nothing, image=None if each.image is None else sent) for each in images]
                yield {"scored": [pickle.dumps((bare, met_notices(), found))]}
        except (TrackInputError, ModelInputError) as error:
            yield {"scored": [pickle.dumps(([], met_notices(), error))]}
