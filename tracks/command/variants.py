"""What conf/variants.yaml names: set-ups on data sets, members of the ensemble, files with a few values changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"


def variants() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(group, name, content) of every entry, as a file conf/<group>/<name>.yaml would hold it."""
    read = yaml.safe_load((CONF / "variants.yaml").read_text(encoding="utf-8"))
    for set_up, sets in read["experiment"].items():
        for data, settings in sets.items():
            defaults = [set_up, {"override /data": data}, "_self_"]
            yield "experiment", f"{set_up}_{data}", {"defaults": defaults, **settings}
    for name, prompts in read["members"].items():
        defaults, own = [f"/model/{name}@{name}", "_self_"], {}
        if prompts:
            defaults, own = [*defaults, {f"/prompts@{name}.prompts": prompts}], {name: {"prompts": None}}
        yield "model/members", name, {"defaults": defaults, **own}
    for path, content in read["files"].items():
        yield *path.rsplit("/", 1), content


def choices(group: str) -> list[str]:
    """The names to choose from in a group of conf/: its files and their variants."""
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    return sorted(files | {name for place, name, _ in variants() if place == group})
