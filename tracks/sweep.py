"""Entry point of `make sweep`: a Hydra multirun over the tracks that ends in one table; so does `-m` on a track.

Each job is an ordinary run in its own content-named folder, so a job that was finished before is found there and only
scored again; a job that fails is named at the end and stops no other.
"""

import contextlib
import functools
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.table_text import csv_table
from eval.tables import RUN_KEYS, sweep_table
from models.disk import write_atomically
from tracks.command.cli import EXIT_BAD_INPUT, command, explain, run_main, stop
from tracks.command.names import unknown
from tracks.comparison.gather import METRIC_COLUMNS, gather, metric_cells
from tracks.comparison.plan import counted, score_line, time_left
from tracks.decide.decision import percent, pooled
from tracks.run.run_folder import link_latest
from tracks.run.track import run_track
from tracks.run.trackers import metrics_of

CELL_FILE = "cell.json"
"""In the folder of a job: the content of its results.json or its `error`, and the `words` that it was given."""
HAS_A_COLUMN = ("model", "weights", "data", "shots", "seed", "categories")
"""What the table shows anyway, or is joined into one row."""

PLUGIN = "hydra_plugins.hydra_optuna_sweeper"
Track = Callable[[DictConfig], dict[str, Any]]


def as_job(track: Track) -> Callable[[DictConfig], Any]:
    """Make a run of a track a job that a multirun can have: what became of it goes into its folder, whatever it was.

    Outside a multirun the track runs as it is.
    """

    @functools.wraps(track)
    def job(cfg: DictConfig) -> float:
        hydra = HydraConfig.get()
        if OmegaConf.is_missing(hydra.job, "num"):
            return to_maximise(track(cfg), cfg)
        words = list(hydra.overrides.task)
        label = " ".join(words)
        value = math.nan
        try:
            cell = track(cfg)
            value = to_maximise(cell, cfg)
        except Exception as error:
            message = explain(error)
            if message is None:
                traceback.print_exc()
            cell = {"error": message or repr(error)}
            print(f"error in {label}: {cell['error']}", file=sys.stderr)
        folder = Path(hydra.runtime.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        content = {**cell, "overrides": label, "words": words}
        write_atomically(folder / CELL_FILE, json.dumps(content, indent=2))
        return value

    return job


def to_maximise(cell: Mapping[str, Any], cfg: DictConfig) -> float:
    """What a sweeper that searches is told of a run; nan for a score that it has not.

    Raises:
        TrackInputError: a number that the results do not have.
    """
    known, name = metrics_of(cell), cfg.get("maximise", "score")
    if name not in known and name != "score":
        raise unknown("maximise", name, known)
    return known.get(name, math.nan)


@command("sweep")
@as_job
def main(cfg: DictConfig) -> dict[str, Any]:
    """Run one job."""
    return run_track(cfg, "few_shot" if cfg.shots else "zero_shot")


class SweepTable(Callback):
    """Says where a multirun stands, and writes and prints its table when all jobs are done."""

    def __init__(self) -> None:
        self.started, self.axes, self.total = 0.0, set[str](), 0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Count the jobs; 0 where the sweeper alone knows how many there will be."""
        words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        words += [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        swept = [each for each in OverridesParser.create().parse_overrides(words) if each.is_sweep_override()]
        if "OptunaSweeper" in config.hydra.sweeper.get("_target_", "") and find_spec(PLUGIN) is None:
            stop('expected the plugin hydra-optuna-sweeper for sweeper=optuna, got none; pip install "vandkit[optuna]"')
        self.started, self.axes = time.time(), {each.key_or_group for each in swept}
        with contextlib.suppress(HydraException):
            self.total = config.hydra.sweeper.get("n_trials") or math.prod(
                len(list(each.sweep_string_iterator())) for each in swept
            )

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Name the job that begins, here and in its warnings."""
        if self.started:
            label = self._label(config)
            print(f"\n{label}: running", flush=True)
            logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s: {label}: %(message)s", force=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Say what became of a job, and how long those that are left may take."""
        if self.started:
            folder = Path(config.hydra.sweep.dir)
            cell = json.loads((folder / config.hydra.sweep.subdir / CELL_FILE).read_text())
            done = len(list(folder.glob(f"*/{CELL_FILE}")))
            left = time_left(time.time() - self.started, done, self.total - done)
            said = "no result" if "error" in cell else score_line(cell["score"])
            print(f"{self._label(config)}: {said}{left}", flush=True)

    def _label(self, config: DictConfig) -> str:
        words = [word for word in config.hydra.overrides.task if word.lstrip("+").partition("=")[0] in self.axes]
        return f"{counted(config.hydra.job.num + 1, self.total)} {' '.join(words or config.hydra.overrides.task)}"

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Read every job's result; exit code 2 if any failed."""
        folder = Path(config.hydra.sweep.dir)
        paths = sorted(folder.glob(f"*/{CELL_FILE}"), key=lambda path: int(path.parent.name.rpartition("-")[2]))
        cells = [json.loads(path.read_text()) for path in paths]
        finished = [cell for cell in with_swept(cells) if "error" not in cell]
        rows = rows_of([cell for cell in finished if "shard" not in cell])
        table = sweep_table(rows)
        write_atomically(folder / "table.md", table)
        write_atomically(folder / "table.csv", to_csv(rows))
        write_atomically(folder / "table.json", json.dumps(rows, indent=2))
        link_latest(folder.parent, folder)
        notes = "".join(
            f"seed {row['seeds'][0]} alone: {row['alone_because']}\n" for row in rows if "alone_because" in row
        )
        files = f"files: {folder}: table.md, table.csv, table.json"
        print(f"\n{table}{notes}\n{len(finished)} of {len(cells)} cells finished; {files}")
        if (found := folder / "optimization_results.yaml").is_file():
            best = OmegaConf.load(found)
            at = " ".join(f"{key}={value}" for key, value in best.best_params.items())
            print(f"largest {config.maximise}: {best.best_value:.4f} with {at}")
        failed = [cell for cell in cells if "error" in cell]
        for cell in failed:
            print(f"error in {cell['overrides']}: {cell['error']}", file=sys.stderr)
        if failed:
            sys.exit(EXIT_BAD_INPUT)


def with_swept(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The jobs, each with the settings, as they were given, that are not the same in all of them: its row's name."""
    given = [dict(word.lstrip("+").partition("=")[::2] for word in cell["words"]) for cell in cells]
    keys = [key for key in dict.fromkeys(key for words in given for key in words) if key not in HAS_A_COLUMN]
    axes = [key for key in keys if len({words.get(key) for words in given}) > 1]
    return [
        {**cell, "swept": {key: words[key] for key in axes if key in words}}
        for cell, words in zip(cells, given, strict=True)
    ]


def rows_of(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each setting; runs of unlike protocols or swept settings never share one."""
    rows = gather(
        cells, lambda cell: json.dumps([cell[key] for key in (*RUN_KEYS, "protocol", "swept")], sort_keys=True)
    )
    return [{**row, "swept": group[0]["swept"] | _decided(group)} for row, group in rows]


def _decided(group: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the thresholds decided, all seeds pooled, where a sweep asks for several false alarm rates."""
    if "false_alarm_rate" not in group[0]["swept"]:
        return {}
    total = pooled({f"{i} {name}": each for i, run in enumerate(group) for name, each in run["decided"].items()})
    return {"false alarms": percent(total["false_alarm_rate"]), "recall": percent(total["recall"])}


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was run, every swept setting, then mean and deviation (`<id>_std`) of each metric as fractions."""
    axes = list(dict.fromkeys(key for row in rows for key in row["swept"]))
    lines = [
        [
            *(row.get(key) for key in RUN_KEYS), *(row["swept"].get(key) for key in axes),
            " ".join(map(str, row["seeds"])), " ".join(row["categories"]), *metric_cells(row["mean"]),
        ]
        for row in rows
    ]  # fmt: skip
    return csv_table([*RUN_KEYS, *axes, "seeds", "categories", *METRIC_COLUMNS], lines)


if __name__ == "__main__":
    run_main(main)
