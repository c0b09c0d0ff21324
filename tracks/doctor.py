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

from tracks.checkup.checks import (
    Row,
    check_counts,
    check_files,
    check_pictures,
    check_references,
    count,
    duplicates,
    look_at,
)
from tracks.checkup.files import Found, find_files, from_reader, united
from tracks.checkup.machine import check_folders, check_torch, check_weights
from tracks.command.cli import command, run_main
from tracks.datasets.files import existing_folder
from tracks.datasets.registry import registry
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError

EXIT_PROBLEM = 1


def examine_data(
    root: Path, name: str, mask_above: float, workers: int, reader: Dataset | TrackInputError
) -> list[Row]:
    """The rows on a data set: its files, its counts, and what its reader says of it."""
    found, listed = find_files(root), Found()
    if not isinstance(reader, TrackInputError):
        try:
            listed = from_reader(reader)
        except TrackInputError as error:  # some masks are only read when the images are asked for
            reader = error
    is_read = not isinstance(reader, TrackInputError)
    counts = count(found.pictures or listed.pictures)
    if is_read:
        found = united(listed, found)
    seen = look_at(found.pictures, mask_above, workers)
    rows = [_reader_row(reader), *check_files(found, seen, is_read)]
    if is_read:
        rows += [check_pictures(listed, seen), check_references(listed.references)]
    is_own = (
        not isinstance(reader, TrackInputError) and reader.name != name
    )  # data in MVTec layout that are not MVTec AD
    return [*rows, *duplicates(seen), check_counts(counts, None if is_own else registry().get(name))]


def _reader_row(reader: Dataset | TrackInputError) -> Row:
    if isinstance(reader, TrackInputError):
        return Row("reader", "problem", str(reader))
    return Row("reader", "ok", f"{reader.name}: {len(reader.categories)} categories can be read")


def table(rows: Sequence[Row]) -> str:
    """The rows in columns."""
    width = max(len(row.check) for row in rows)
    return "\n".join(f"{row.check:{width}}  {row.state:7}  {row.seen}" for row in rows)


def _reader(data: Any, root: Path) -> Dataset | TrackInputError:
    """The data set as a run would read it, or what it says."""
    try:
        dataset: Dataset = instantiate(data, root=str(root))
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, TrackInputError):
            return cause
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
    return examine_data(root, data_name(), mask_above, cfg.workers, _reader(cfg.data, root))


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
