"""`vandkit weights` (make weights): list weight files, fetch one, several or a group, check what is here."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from models.disk import lacking_room
from models.errors import ModelInputError, hint
from models.interrupted import INTERRUPTED, begun
from models.weights.catalogue import WeightFile, catalogue, copy_elsewhere, fetch, record, verify
from models.weights.digests import forget
from models.weights.download import REMEDIES, Failure, arrived_bytes


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


def fetch_all(entries: Sequence[WeightFile]) -> list[str]:
    """Fetch what is missing, the room for all of it asked first; a line for each file that failed.

    Raises:
        ModelInputError: the disk has no room for all that is missing.
    """
    missing = [entry for entry in entries if not entry.path.is_file() and not copy_elsewhere(entry)]
    if missing:
        folder = missing[0].path.parent
        folder.mkdir(parents=True, exist_ok=True)
        needed = sum(max(0, (entry.size or 0) - arrived_bytes(entry.path)) for entry in missing)
        if wrong := lacking_room(folder, needed):
            raise ModelInputError(f"{wrong}; {REMEDIES[Failure.NO_ROOM]}")
    failed = []
    for entry in entries:
        try:
            print(f"{entry.name}: {fetch(entry.name)}  [{entry.licence}, {entry.source}]")
        except ModelInputError as error:
            failed.append(f"{entry.name}: {error}")
    return failed


def listing(entries: Iterable[WeightFile]) -> str:
    """One line for each file: name, state, size, licence, what it is."""
    lines = []
    for entry in entries:
        size = f"{entry.expected.size / 1e6:,.1f} MB" if entry.expected.size else "-"
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
        return 128 + 13  # of SIGPIPE, which Windows does not name
    except OSError as error:
        if error.filename is None:
            raise
        failed = [f"expected to be able to use {error.filename}, got: {error.strerror}; choose another VANDKIT_CACHE"]
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 2 if failed else 0


def _run(arguments: Sequence[str] | None) -> list[str]:
    """What the arguments ask for; a line for each file that is missing, damaged or not to be had."""
    parser = argparse.ArgumentParser(prog="vandkit weights", description=__doc__)
    parser.add_argument("names", nargs="*", help="files or groups to fetch, for example official")
    parser.add_argument("--list", action="store_true", help="list all files and what state they are in (the default)")
    parser.add_argument("--check", action="store_true", help="fetch nothing; hash anew, say what is missing or damaged")
    parser.add_argument("--forget", metavar="NAME", help="drop the digest of a file that is trusted on first use")
    parser.add_argument("--record", metavar="PREFIX", help="note size and sha256 of the shipped files so named")
    options = parser.parse_args(arguments)
    if options.forget:
        print("forgotten" if forget(options.forget) else f"no digest of {options.forget} was trusted on first use")
    elif options.record:
        print("recorded:", ", ".join(record(options.record)) or "nothing (no shipped file is so named)")
    elif options.list or not options.names:
        print(listing(chosen(options.names) if options.names else catalogue().values()))
    elif options.check:
        states = {entry.name: state(entry, again=True) for entry in chosen(options.names)}
        return [f"{name}: {mark}" for name, mark in states.items() if mark not in ("here", "in Hugging Face's cache")]
    else:
        return fetch_all(chosen(options.names))
    return []


if __name__ == "__main__":
    sys.exit(main())
