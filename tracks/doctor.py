"""Entry point of `make doctor DATA=... ROOT=...`: what is wrong with data, weights or machine, in one table.

Exit code 0: nothing to mend; 1: the table names a problem; 2: it could not look (a folder that is not there).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tracks.checkup.data import Row, examine_data
from tracks.checkup.machine import check_folders, check_torch, check_weights
from tracks.command.cli import command, run_main
from tracks.datasets.files import existing_folder
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError

EXIT_PROBLEM = 1


def table(rows: Sequence[Row]) -> str:
    """The rows in columns."""
    width = max(len(row.check) for row in rows)
    return "\n".join(f"{row.check:{width}}  {row.state:7}  {row.seen}" for row in rows)


def _opened(data: Any, root: Path) -> Dataset:
    """The data set as a run would read it; TrackInputError as its constructor raises it."""
    try:
        dataset: Dataset = instantiate(data, root=str(root))
    except Exception as error:
        if isinstance(error.__cause__, TrackInputError):
            raise error.__cause__ from error
        raise
    return dataset


def data_root(cfg: DictConfig) -> Path:
    """The folder of the configured data set, whether or not it is there; TrackInputError if none was named."""
    if OmegaConf.is_missing(cfg.data, "root"):
        raise TrackInputError("expected the folder of the data set, got none; name it with ROOT=folder")
    return Path(cfg.data.root).expanduser()


def examine_configured(cfg: DictConfig, root: Path) -> list[Row]:
    """The rows on the data set of a configuration at `root`, read by the constructor that a run would use."""
    existing_folder("the data set's folder", root)
    mask_above = float(cfg.data.get("mask_above") or 0)
    return examine_data(root, data_name(), mask_above, cfg.workers, lambda: _opened(cfg.data, root))


def data_name() -> str:
    """The name that stands after DATA=, which is also the one in the registry of data sets; "" without one."""
    return HydraConfig.get().runtime.choices.get("data") or ""


def report(rows: Sequence[Row]) -> None:
    """Print the table; leave with exit code 1 if anything is to be mended."""
    print(table(rows))
    problems = sum(row.state == "problem" for row in rows)
    print(f"{problems or 'no'} {'problem' if problems == 1 else 'problems'}")
    if problems:
        sys.exit(EXIT_PROBLEM)


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Look at data (if a set is named), weights and machine."""
    on_disk = "root" in (cfg.get("data") or {}).keys()  # noqa: SIM118  (a missing value is not "in" the mapping)
    rows = examine_configured(cfg, data_root(cfg)) if on_disk else []
    rows += check_weights(list(cfg.weight_files))
    report([*rows, check_torch(), *check_folders(Path(cfg.outputs).expanduser())])


if __name__ == "__main__":
    run_main(main)
