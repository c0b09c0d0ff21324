"""Results for the trackers that people have: TensorBoard, MLflow, Weights & Biases; `tracker=NAME` switches one on.

Each gets metrics, the settings and the pictures and tables of a run folder when a run has finished; its package is
imported only where it is chosen (`pip install "vandkit[trackers]"`).
"""

import importlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tracks.errors import TrackInputError

FILES = (
    "results.md", "results.json", "results.csv", "config.yaml", "run.json", "report.html", "log.txt", "log.csv",
    "loss.png", "predictions.csv", "predictions.jsonl", "threshold.json", "index.html",
)  # fmt: skip
"""Of a run folder, where they are there; and the pictures of `overlays`."""


@dataclass(frozen=True)
class Record:
    """What a tracker is told of a finished run."""

    folder: Path
    settings: Mapping[str, Any]
    """By dotted names."""
    metrics: Mapping[str, float]
    """By names like "bottle/auroc_cls" and "mean/auroc_cls"."""
    curves: Sequence[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    """Of a training: metrics by epoch."""
    shown: Sequence[Path] | None = None
    """The overlays to show; None for all that a track drew."""

    @property
    def files(self) -> list[Path]:
        """The tables, settings and curves."""
        return [path for name in FILES if (path := self.folder / name).is_file()]

    @property
    def pictures(self) -> list[Path]:
        """The overlays that were drawn."""
        return sorted((self.folder / "overlays").rglob("*.png")) if self.shown is None else list(self.shown)


class Tracker:
    """None: what `tracker=none` builds."""

    def write(self, record: Record) -> None:
        """Tell the tracker of a finished run."""


class TensorBoard(Tracker):
    """Event files in a folder of the run's name, in place of those of an earlier time."""

    def __init__(self, folder: str):
        needed("tensorboard", "tensorboard")
        self.folder = Path(folder)

    def write(self, record: Record) -> None:
        """Scalars at step 0, curves by epoch, tables and settings as text, overlays as images."""
        from torch.utils.tensorboard import SummaryWriter

        place = self.folder / record.folder.name
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            for name, value in record.metrics.items():
                writer.add_scalar(name, value, 0)
            for epoch, row in record.curves:
                for name, value in row.items():
                    writer.add_scalar(f"training/{name}", value, epoch)
            writer.add_text("settings", table(record.settings))
            if (results := record.folder / "results.md").is_file():
                writer.add_text("results", results.read_text(encoding="utf-8"))
            for path in record.pictures:
                name = path.relative_to(record.folder).with_suffix("").as_posix()
                writer.add_image(name, np.asarray(PIL.Image.open(path).convert("RGB")), 0, dataformats="HWC")


class MLflow(Tracker):
    """A run of an experiment; each command that finishes is a run of its own.

    `uri` is a server or database of MLflow, or a folder, in which `mlflow.db` and `artifacts` are made.
    """

    def __init__(self, uri: str, experiment: str):
        needed("mlflow", "mlflow")
        self.folder = None if "://" in uri else Path(uri).absolute()
        self.uri = f"sqlite:///{self.folder}/mlflow.db" if self.folder else uri
        self.experiment = experiment

    def write(self, record: Record) -> None:
        """Metrics, settings as parameters, curves by epoch, files and overlays as artefacts."""
        from mlflow.tracking import MlflowClient

        place = None
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            place = (self.folder / "artifacts").as_uri()
        client = MlflowClient(self.uri)
        known = client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else client.create_experiment(self.experiment, place)
        run = client.create_run(experiment, run_name=record.folder.name).info.run_id
        try:
            client.set_tag(run, "folder", str(record.folder.absolute()))
            for key, setting in record.settings.items():
                client.log_param(run, named(key), str(setting)[:MLFLOW_LONGEST])
            for name, value in record.metrics.items():
                client.log_metric(run, named(name), value)
            for epoch, row in record.curves:
                for name, value in row.items():
                    client.log_metric(run, f"training/{name}", value, step=epoch)
            for path in (*record.files, *record.pictures):
                below = path.parent.relative_to(record.folder).as_posix()
                client.log_artifact(run, str(path), None if below == "." else below)
        except BaseException:
            client.set_terminated(run, "FAILED")
            raise
        client.set_terminated(run)


MLFLOW_LONGEST = 500
"""Characters that every version of MLflow takes as a parameter."""


def named(name: str) -> str:
    """A name that MLflow takes, which knows letters, digits and a few signs."""
    return re.sub(r"[^\w/. :-]", "_", name)


class WandB(Tracker):
    """A run of a project of Weights & Biases, offline unless `mode` says otherwise."""

    def __init__(self, folder: str, project: str, mode: str):
        needed("wandb", "wandb")
        self.folder, self.project, self.mode = Path(folder), project, mode

    def write(self, record: Record) -> None:
        """Metrics as the summary, curves by epoch, settings, files, overlays as images."""
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project, name=record.folder.name, dir=str(self.folder), config=dict(record.settings),
            mode=self.mode, settings=wandb.Settings(silent=True),
        )  # fmt: skip
        try:
            for epoch, row in record.curves:
                run.log({f"training/{name}": value for name, value in row.items()}, step=epoch)
            if record.pictures:
                run.log({"overlays": [wandb.Image(str(path), caption=path.stem) for path in record.pictures]})
            run.summary.update(dict(record.metrics))
            for path in record.files:
                run.save(str(path), base_path=str(record.folder), policy="now")
        finally:
            run.finish()


def needed(package: str, tracker: str) -> None:
    """Refuse a tracker whose package is not here, before anything is computed.

    Raises:
        TrackInputError: with the command that installs it.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise TrackInputError(
            f'expected the package {package} for tracker={tracker}, got: {error}; pip install "vandkit[trackers]", or '
            f"pip install {package}"
        ) from error


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
    return found


def metrics_of(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of results.json: those of each category, their mean, the track's score; no blanks."""
    groups = {**results["categories"], "mean": results["mean"]}
    named = {f"{group}/{name}": value for group, table in groups.items() for name, value in table.items()}
    named |= {"score": results["score"], "seconds": results.get("seconds")}
    return {name: float(value) for name, value in named.items() if is_number(value)}


def curves_of(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """The rows of a training, by epoch; no blanks."""
    rows = [(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"}) for row in history]
    return [(epoch, {name: float(value) for name, value in row.items() if is_number(value)}) for epoch, row in rows]


def is_number(value: object) -> bool:
    """Whether a cell of a table is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(settings: Mapping[str, Any]) -> str:
    """Settings as a Markdown table."""
    return "\n".join(["| setting | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in settings.items())])
