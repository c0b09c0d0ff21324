"""`python -m tracks.datasets.write_meta_json visa ROOT [--out FILE]`: write the meta.json of a data set."""

import argparse
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tracks.command.names import unknown
from tracks.datasets.meta_json import META, write_meta_json
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


def build(name: str, root: str | Path) -> Dataset:
    """The data set that conf/data/<name>.yaml describes, all of it, with every setting but the root at its default.

    Raises:
        TrackInputError: no such configuration, or what the reader finds amiss in `root`.
    """
    files = {path.stem: path for path in CONF.glob("*.yaml") if "root: ???" in path.read_text(encoding="utf-8")}
    if name not in files:
        raise unknown("data set", name, sorted(files))
    settings: dict[str, Any] = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    module, _, reader = settings["_target_"].rpartition(".")
    given = {
        key: value for key, value in settings.items() if key not in ("_target_", "_convert_", "root", "categories")
    }
    dataset: Dataset = getattr(importlib.import_module(module), reader)(root, **given)
    return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file and say where it stands."""
    parser = argparse.ArgumentParser(prog="python -m tracks.datasets.write_meta_json", description=main.__doc__)
    parser.add_argument("name", help="a file of conf/data, for example visa")
    parser.add_argument("root", help="the folder of the data set")
    parser.add_argument("--out", help=f"the file to write (default: {META} in the folder)")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        path = write_meta_json(build(options.name, options.root), options.root, options.out)
    except TrackInputError as error:
        parser.exit(2, f"error: {error}\n")
    print(path)


if __name__ == "__main__":
    main()
