"""The weight files that a configuration names and that are not here: all at once, with the command that brings them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.errors import ModelInputError
from models.weights.registry import WeightFile, catalogue, copy_elsewhere


def missing_files(config: Any) -> list[WeightFile]:
    """The fetched files of the catalogue that a plain container names anywhere in it and that are not here."""
    entries = catalogue()
    named = [entries[text] for text in dict.fromkeys(_texts(config)) if text in entries]
    return [entry for entry in named if entry.url and not entry.path.is_file() and not copy_elsewhere(entry)]


def refuse_missing(config: Any) -> None:
    """Say of all missing files at once where they were looked for and what fetches them.

    Raises:
        ModelInputError: at least one is missing.
    """
    missing = missing_files(config)
    if not missing:
        return
    names, folder = ", ".join(entry.name for entry in missing), missing[0].path.parent
    gigabytes = sum(entry.size or 0 for entry in missing) / 1e9
    raise ModelInputError(
        f"expected the weights {names} in {folder}, found no such file{'s' if len(missing) > 1 else ''}; "
        f"{how_to_fetch(missing)} ({gigabytes:.2f} GB), or name files of your own"
    )


def how_to_fetch(missing: Sequence[WeightFile]) -> str:
    """The command that fetches some files: by the smallest group that has them all, if there are several."""
    names = {entry.name for entry in missing}
    groups: dict[str, set[str]] = {}
    for entry in catalogue().values():
        for group in entry.groups:
            groups.setdefault(group, set()).add(entry.name)
    fitting = [group for group, members in groups.items() if names <= members]
    if len(names) > 1 and fitting:
        return f"`make weights WEIGHTS={min(fitting, key=lambda group: len(groups[group]))}` fetches them"
    if len(names) == 1:
        return f"`make weights WEIGHTS={missing[0].name}` fetches it"
    return f'`make weights WEIGHTS="{" ".join(entry.name for entry in missing)}"` fetches them'


def _texts(node: Any) -> Iterator[str]:
    """Every string below a plain container."""
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ():
        yield from _texts(child)
