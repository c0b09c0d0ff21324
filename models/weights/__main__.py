"""`python -m models.weights`: list weight files, fetch one, several or a group, check what is here."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence

from models.errors import ModelInputError, hint
from models.interrupted import INTERRUPTED, begun
from models.weights.failures import DownloadError, TransferError
from models.weights.learnt import forget
from models.weights.registry import WeightFile, catalogue, copy_elsewhere, fetch, verify
from models.weights.transfer import Patience, ask_for_room


def chosen(names: Sequence[str]) -> list[WeightFile]:
    """The catalogue entries behind names and names of groups, each once, in the order given.

    Raises:
        ModelInputError: a name that is neither, or a file that ships and is not fetched.
    """
    entries = catalogue()
    groups = sorted({group for entry in entries.values() for group in entry.groups})
    found: dict[str, WeightFile] = {}
    for name in names:
        members = [entry for entry in entries.values() if name == entry.name or name in entry.groups]
        if not members or not all(entry.url for entry in members):
            fetchable = [entry.name for entry in entries.values() if entry.url]
            near = "" if members else hint(name, [*groups, *fetchable])
            raise ModelInputError(
                f"expected weights that can be fetched, got {name!r}{near}; there are the "
                f"groups {', '.join(groups)} and the files {', '.join(fetchable)}"
            )
        found.update({entry.name: entry for entry in members})
    return list(found.values())


def state(entry: WeightFile, again: bool = False) -> str:
    """How a file stands: "here", "not here", "in Hugging Face's cache" or "damaged: ..." with its reason.

    `again` hashes what was verified before.
    """
    if entry.path.is_file():
        try:
            verify(entry, entry.path, again)
        except ModelInputError as error:
            return f"damaged: {error}"
        return "here"
    return "in Hugging Face's cache" if copy_elsewhere(entry) else "not here"


def fetch_all(entries: Iterable[WeightFile], patience: Patience | None = None, show: bool = True) -> list[str]:
    """Fetch what is missing, the room for all of it asked first; a line for each file that failed.

    Raises:
        DownloadError: the disk has no room for all that is missing.
    """
    missing = [entry for entry in entries if not entry.path.is_file() and not copy_elsewhere(entry)]
    _ask_for_room(missing)
    failed = []
    for entry in entries:
        try:
            print(f"{entry.name}: {fetch(entry.name, patience, show)}  [{entry.licence}, {entry.source}]")
        except ModelInputError as error:
            failed.append(f"{entry.name}: {error}")
    return failed


def _ask_for_room(missing: Sequence[WeightFile]) -> None:
    if not missing:
        return
    folder = missing[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    held = sum(part.stat().st_size for part in folder.glob("*.part"))
    try:
        ask_for_room(folder, max(0, sum(entry.size or 0 for entry in missing) - held))
    except TransferError as error:
        raise DownloadError(
            error.failure, f"{error}; free some space, or choose a folder on another disk with VANDKIT_CACHE=..."
        ) from error


def listing(entries: Iterable[WeightFile]) -> str:
    """One line for each file: name, state, size, licence, what it is."""
    lines = []
    for entry in entries:
        size = f"{entry.known.size / 1e6:,.1f} MB" if entry.known.size else "-"
        mark = state(entry).partition(":")[0]
        lines.append(f"{entry.name:30} {mark:24} {size:>12}  {entry.licence:11} {entry.what}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """List weight files, fetch them, or check those that are here; 0 if all is well, 2 if anything failed."""
    begun()
    try:
        failed = _run(arguments)
        sys.stdout.flush()
    except ModelInputError as error:
        failed = [str(error)]
    except KeyboardInterrupt:
        failed = [INTERRUPTED]
    except BrokenPipeError:  # nobody reads the list any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None:
            raise
        failed = [f"expected to be able to use {error.filename}, got: {error.strerror}; choose another VANDKIT_CACHE"]
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 2 if failed else 0


def _run(arguments: Sequence[str] | None) -> list[str]:
    """What the arguments ask for; a line for each file that is missing, damaged or not to be had."""
    parser = argparse.ArgumentParser(prog="python -m models.weights", description=__doc__)
    parser.add_argument("names", nargs="*", help="files or groups to fetch, for example official")
    parser.add_argument("--list", action="store_true", help="list all files and what state they are in (the default)")
    parser.add_argument("--check", action="store_true", help="fetch nothing; hash anew, say what is missing or damaged")
    parser.add_argument("--forget", metavar="NAME", help="drop the digest learnt on first use of a file")
    options = parser.parse_args(arguments)
    if options.forget:
        print("forgotten" if forget(options.forget) else f"nothing was learnt of {options.forget}")
        return []
    if options.list or not options.names:
        print(listing(chosen(options.names) if options.names else catalogue().values()))
        return []
    entries = chosen(options.names)
    return _wrong(entries) if options.check else fetch_all(entries)


def _wrong(entries: Iterable[WeightFile]) -> list[str]:
    states = {entry.name: state(entry, again=True) for entry in entries}
    return [f"{name}: {mark}" for name, mark in states.items() if mark not in ("here", "in Hugging Face's cache")]


if __name__ == "__main__":
    sys.exit(main())
