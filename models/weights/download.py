"""A file from the first address that serves it whole: resumed, retried, checked, and only then put in its place.

While it arrives it is `<name>.part`, with `<name>.part.json` beside it. A broken download keeps both and continues;
content of another digest than recorded is deleted and named.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from models.disk import alone
from models.weights.cache import offline_by
from models.weights.digest import git_blob_of, sha256_of
from models.weights.failures import REMEDIES, RETRIED, DownloadError, Failure, TransferError
from models.weights.transfer import Note, Patience, transfer

PROGRESS_BYTES = 1 << 20
"""A try that brings this much more begins the count of tries anew."""


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its addresses in order of preference, its place, and what is known of its content."""

    name: str
    addresses: tuple[str, ...]
    path: Path
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def by_hand(self) -> str:
        """The last resort: where to put the file and how to tell the right one."""
        known = [f"{self.size:,} bytes" if self.size else "", f"sha256 {self.sha256}" if self.sha256 else ""]
        marks = ", ".join(mark for mark in known if mark)
        return f"or put the file at {self.path} by hand" + (f" ({marks})" if marks else "")

    @property
    def is_checked(self) -> bool:
        """Whether a digest is known to check the content by."""
        return bool(self.sha256 or self.git_blob)


def download(wanted: Wanted, patience: Patience | None = None, show: bool = True) -> Path:
    """Fetch a file that is not in its place yet; returns its path.

    `patience` says how long to wait for a host; `show` draws a progress bar, if there is a terminal.

    Raises:
        DownloadError: offline, no room, or no address that serves the recorded content; says which and what to do.
    """
    if variable := offline_by():
        raise DownloadError(
            Failure.OFFLINE,
            f"expected to fetch {wanted.name}, got {variable}, which forbids downloads; {REMEDIES[Failure.OFFLINE]}, "
            f"{wanted.by_hand}",
        )
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    with alone(wanted.path.with_name(wanted.path.name + ".lock"), f"the download of {wanted.name}"):
        if not wanted.path.is_file():
            _from_any_address(wanted, patience or Patience(), show)
    return wanted.path


def _from_any_address(wanted: Wanted, patience: Patience, show: bool) -> None:
    errors: list[tuple[str, TransferError]] = []
    for address in wanted.addresses:
        try:
            _from_address(address, wanted, patience, show)
            return
        except TransferError as error:
            errors.append((address, error))
            if error.failure is Failure.NO_ROOM:
                break
    raise _explained(wanted, errors)


def _from_address(address: str, wanted: Wanted, patience: Patience, show: bool) -> None:
    """Try one address until it serves the whole, right file or stops getting on."""
    part = part_of(wanted.path)
    failed = 0
    while True:
        before = _size(part)
        try:
            transfer(address, part, wanted.size, wanted.is_checked, patience, show)
            _check(wanted, part, resumed=before > 0)
        except TransferError as error:
            failed = 1 if _size(part) - before >= PROGRESS_BYTES else failed + 1
            if error.failure not in RETRIED or failed >= patience.tries:
                raise
            wait = max(error.wait_s, patience.first_wait_s * 2 ** (failed - 1))
            time.sleep(min(wait, patience.longest_wait_s))
        else:
            part.replace(wanted.path)
            Note(part).discard()
            return


def part_of(path: Path) -> Path:
    """The file that holds what has arrived so far."""
    return path.with_name(path.name + ".part")


def _check(wanted: Wanted, part: Path, resumed: bool) -> None:
    """Size and digest of a whole part; a wrong one is deleted, and fetched anew if it was pieced together."""
    if wanted.size is not None and _size(part) != wanted.size:
        got = f"expected {wanted.size:,} bytes, got {_size(part):,}"
        failure = Failure.WRONG_SIZE
    elif wanted.sha256 and (digest := sha256_of(part)) != wanted.sha256:
        got, failure = f"expected the digest {wanted.sha256}, got {digest}", Failure.WRONG_CONTENT
    elif not wanted.sha256 and wanted.git_blob and (digest := git_blob_of(part)) != wanted.git_blob:
        got, failure = f"expected the digest {wanted.git_blob} (git's), got {digest}", Failure.WRONG_CONTENT
    else:
        return
    hint = "; what came is a web page" if _is_web_page(part) else ""
    Note(part).discard()
    if resumed:
        raise TransferError(Failure.ENDED_EARLY, f"the continued part came out wrong ({got}{hint}); starting over")
    raise TransferError(failure, f"{got}{hint}; {part.name} is deleted")


def _is_web_page(part: Path) -> bool:
    with part.open("rb") as file:
        head = file.read(256).lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html"))


def _explained(wanted: Wanted, errors: list[tuple[str, TransferError]]) -> DownloadError:
    tried = "; ".join(f"{address}: {error.failure}, {error}" for address, error in errors)
    last = next((error for _, error in errors if error.failure is Failure.WRONG_CONTENT), errors[-1][1])
    kept = _size(part_of(wanted.path))
    left = f" ({kept:,} bytes are kept)" if kept else ""
    return DownloadError(
        last.failure,
        f"expected an address of {wanted.name} to answer with the recorded file, got from {tried}{left}; "
        f"{REMEDIES[last.failure]}, {wanted.by_hand}",
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
