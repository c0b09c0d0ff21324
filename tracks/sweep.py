"""Entry point of `make sweep`: a Hydra multirun over the tracks that ends in one table.

Each cell is an ordinary run in its own content-named folder, so a cell that was finished before
is found there and only scored again; a cell that fails is named in the table and stops no other.
"""

import json
import logging
import sys
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.tables import over_seeds, sweep_table
from models.disk import write_atomically
from tracks.command.cli import EXIT_BAD_INPUT, command, explain, run_main
from tracks.decide.decision import percent, pooled
from tracks.run.run_folder import link_latest
from tracks.run.track import run_track

log = logging.getLogger(__name__)
CELL_FILE = "cell.json"
HAS_A_COLUMN = ("model", "weights", "data", "shots", "seed", "categories")
"""What the table shows anyway, or is joined into one row."""


@command("sweep")
def main(cfg: DictConfig) -> None:
    """Run one cell; what became of it goes into the cell's folder."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    words = list(HydraConfig.get().overrides.task)
    overrides = " ".join(words)
    try:
        cell: dict[str, Any] = run_track(cfg, "few_shot" if cfg.shots else "zero_shot")
    except Exception as error:
        message = explain(error)
        if message is None:
            traceback.print_exc()
        cell = {"error": message or repr(error)}
        print(f"error in {overrides}: {cell['error']}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / CELL_FILE, json.dumps({**cell, "overrides": overrides, "words": words}, indent=2).encode()
    )


class SweepTable(Callback):
    """Writes and prints the table when all cells are done, in the process that started the sweep."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Read every cell's result; exit code 2 if any failed."""
        folder = Path(config.hydra.sweep.dir)
        cells = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{CELL_FILE}"), key=_cell_number)]
        finished = [cell for cell in with_swept(cells) if "error" not in cell]
        rows = [
            {**over_seeds(group), "swept": group[0]["swept"] | decided(group)} for group in gather(finished) if group
        ]
        table = sweep_table(rows)
        write_atomically(folder / "table.md", table)
        write_atomically(folder / "table.json", json.dumps(rows, indent=2).encode())
        link_latest(folder.parent, folder)
        print(f"\n{table}\n{len(finished)} of {len(cells)} cells finished; files: {folder}: table.md, table.json")
        failed = [cell for cell in cells if "error" in cell]
        for cell in failed:
            print(f"error in {cell['overrides']}: {cell['error']}", file=sys.stderr)
        if failed:
            sys.exit(EXIT_BAD_INPUT)


def with_swept(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells, each with the settings, as they were given, that are not the same in all of them: its row's name."""
    given = [dict(word.lstrip("+").partition("=")[::2] for word in cell["words"]) for cell in cells]
    keys = [key for key in dict.fromkeys(key for words in given for key in words) if key not in HAS_A_COLUMN]
    axes = [key for key in keys if len({words.get(key) for words in given}) > 1]
    return [
        {**cell, "swept": {key: words[key] for key in axes if key in words}}
        for cell, words in zip(cells, given, strict=True)
    ]


def decided(group: list[dict[str, Any]]) -> dict[str, str]:
    """What the thresholds decided, all seeds pooled, where a sweep asks for several false alarm rates."""
    if "false_alarm_rate" not in group[0]["swept"]:
        return {}
    entries = {f"{i} {name}": each for i, run in enumerate(group) for name, each in run["decided"].items()}
    total = pooled(entries)
    return {"false alarms": percent(total["false_alarm_rate"]), "recall": percent(total["recall"])}


def gather(cells: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group cells that differ by seed alone; cells that differ by category are joined into one result first."""
    joined: dict[tuple, dict[str, Any]] = {}
    for cell in cells:
        key = (*_row_key(cell), cell["seed"])
        result = joined.setdefault(key, {**cell, "categories": {}, "decided": {}})
        result["categories"] = {**result["categories"], **cell["categories"]}
        result["decided"] = {**result["decided"], **cell["decision"]["categories"]}
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for key, result in joined.items():
        groups[key[:-1]].append(result)
    return [_complete(group) for group in groups.values()]


def _complete(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds that have every category any seed has; the others cannot be averaged with them."""
    wanted = {name for run in group for name in run["categories"]}
    complete = [run for run in group if set(run["categories"]) == wanted]
    for run in group:
        if run not in complete:
            log.warning("seed %s lacks %s and is left out", run["seed"], ", ".join(wanted - set(run["categories"])))
    return complete


def _row_key(cell: dict[str, Any]) -> tuple:
    """What a row of the table stands for; runs of unlike protocols or swept settings never share one."""
    unlike = json.dumps([cell["protocol"], cell["swept"]], sort_keys=True)
    return cell["track"], cell["model"], cell["weights"], cell["data"], cell["shots"], unlike


def _cell_number(path: Path) -> int:
    return int(path.parent.name.rpartition("-")[2])


if __name__ == "__main__":
    run_main(main)
