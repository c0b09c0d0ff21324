"""A file from the first address that serves it whole: resumed, retried, checked, and only then put in its place.

huggingface_hub's `http_get` resumes and retries. (pooch begins again, and from release 1 on `hf_hub_download` in the
next run: of a 5 GB archive that breaks off at 4 GB nothing is left.) While a file arrives it is `<name>.part`;
content of another digest than recorded is deleted.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from models.disk import alone, lacking_room
from models.errors import ModelInputError
from models.weights.cache import HUB, HUB_FILE, offline_by
from models.weights.digests import Expected, remember

WebError: type[Exception] = [kind for kind in HfHubHTTPError.__mro__ if kind.__module__ != "builtins"][-1]
"""What the library under huggingface_hub raises: requests' before its release 1, from then on httpx's or httpx2's."""
BROKEN_OFF = ("ChunkedEncodingError", "RemoteProtocolError")
"""Of which of these kinds it is where a connection ends before its content, by the libraries' own names."""
TRIES = 5
"""How often an address may break off without having brought anything."""
WEB_PAGES = (b"<!doctype html", b"<html")


class Failure(StrEnum):
    """What can go wrong with a download, as it stands in messages."""

    OFFLINE = "offline"
    NO_ROOM = "no room on the disk"
    NOT_FOUND = "not found"
    REFUSED = "access refused"
    UNREACHABLE = "unreachable"
    NO_TRUST = "no trusted certificate"
    SERVER = "server error"
    SLOW = "too slow"
    ENDED_EARLY = "ended early"
    WRONG_CONTENT = "wrong content"


REMEDIES = {
    Failure.OFFLINE: "allow downloads by unsetting it",
    Failure.NO_ROOM: "free some space, or choose a folder on another disk with VANDKIT_CACHE=...",
    Failure.NOT_FOUND: "the address has moved: look for the file at its source",
    Failure.REFUSED: "the host wants a login or an accepted licence: fetch it with a browser",
    Failure.UNREACHABLE: "check the connection (behind a proxy set HTTPS_PROXY, for a mirror of Hugging Face "
    "HF_ENDPOINT) and try again",
    Failure.NO_TRUST: "check the clock of this machine, or name your proxy's certificates with REQUESTS_CA_BUNDLE=... "
    "(SSL_CERT_FILE=... from huggingface_hub 1 on)",
    Failure.SERVER: "try again later",
    Failure.SLOW: "try again on a better connection; what has arrived is kept and continued",
    Failure.ENDED_EARLY: "try again; what has arrived is kept and continued",
    Failure.WRONG_CONTENT: "the host, or somebody between, serves another file than the one recorded: do not use it",
}


class DownloadError(ModelInputError):
    """A download that did not succeed; `failure` is its kind."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its addresses in order of preference, its place, and what is known of its content."""

    name: str
    addresses: tuple[str, ...]
    path: Path
    expected: Expected

    @property
    def by_hand(self) -> str:
        """The last resort: where to put the file and how to tell the right one."""
        size, sha256 = self.expected.size, self.expected.sha256
        known = (f"{size:,} bytes" if size else "", f"sha256 {sha256}" if sha256 else "")
        marks = ", ".join(filter(None, known))
        return f"or put the file at {self.path} by hand" + (f" ({marks})" if marks else "")


def download(wanted: Wanted) -> Path:
    """Fetch a file that is not in its place yet; returns its path.

    Raises:
        DownloadError: offline, no room, or no address that serves the recorded content; says which and what to do.
    """
    if variable := offline_by():
        raise _failed(wanted, Failure.OFFLINE, f"to fetch {wanted.name}, got {variable}, which forbids downloads")
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    with alone(wanted.path.with_name(wanted.path.name + ".lock"), f"the download of {wanted.name}"):
        if not wanted.path.is_file():
            _from_any_address(wanted)
    return wanted.path


def arrived_bytes(path: Path) -> int:
    """How much of a file has arrived so far."""
    part = _part(path)
    return part.stat().st_size if part.is_file() else 0


def _part(path: Path) -> Path:
    """The file of what has arrived."""
    return path.with_name(path.name + ".part")


def _from_any_address(wanted: Wanted) -> None:
    if wrong := lacking_room(wanted.path.parent, max(0, (wanted.expected.size or 0) - arrived_bytes(wanted.path))):
        raise _failed(wanted, Failure.NO_ROOM, f"room for {wanted.name}, got {Failure.NO_ROOM}: {wrong}")
    tried = []
    for address in wanted.addresses:
        try:
            with _named(address):
                return _from_address(address, wanted)
        except DownloadError as error:
            tried.append(error)
            if error.failure is Failure.NO_ROOM:
                break
    kind = next((error.failure for error in tried if error.failure is Failure.WRONG_CONTENT), tried[-1].failure)
    kept = f" ({held:,} bytes are kept)" if (held := arrived_bytes(wanted.path)) else ""
    got = "; ".join(str(error) for error in tried)
    raise _failed(wanted, kind, f"an address of {wanted.name} to answer with the recorded file, got from {got}{kept}")


def _failed(wanted: Wanted, failure: Failure, what: str) -> DownloadError:
    return DownloadError(failure, f"expected {what}; {REMEDIES[failure]}, {wanted.by_hand}")


def _from_address(address: str, wanted: Wanted, again: bool = True) -> None:
    """Bring the whole file from one address, and put it in its place if it is the recorded one.

    Wrong content that came in pieces is asked for once more: a host that ignores ranges sends a piece twice.
    """
    part = _part(wanted.path)
    if not wanted.expected.digest:
        part.unlink(missing_ok=True)  # nothing tells whether two pieces belong together
    resumed = _fetch(address, wanted)
    if wrong := wanted.expected.difference(part):
        with part.open("rb") as file:
            page = "; what came is a web page" if file.read(256).lstrip().lower().startswith(WEB_PAGES) else ""
        part.unlink()
        if resumed and again:
            return _from_address(address, wanted, again=False)
        what = f"expected {wrong[0]}, got {wrong[1]}{page}; deleted"
        raise DownloadError(Failure.WRONG_CONTENT, f"{address}: {Failure.WRONG_CONTENT}, {what}")
    part.replace(wanted.path)
    if wanted.expected.digest:
        remember(wanted.path, wanted.expected.digest)
    return None


def _fetch(address: str, wanted: Wanted) -> bool:
    """The whole file, not checked yet; a connection that breaks off is taken up again as long as it brings anything.

    Returns whether it came in pieces, of this call or of an earlier one.
    """
    headers = {"Accept-Encoding": "identity"}
    if HUB_FILE.fullmatch(address):
        headers |= build_hf_headers()  # who has logged in may have accepted a licence
        address = address.replace(HUB, os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB, 1)
    tries, resumed = TRIES, arrived_bytes(wanted.path) > 0
    while wanted.expected.size is None or arrived_bytes(wanted.path) < wanted.expected.size:
        held = arrived_bytes(wanted.path)
        try:
            with _part(wanted.path).open("ab") as file:
                http_get(address, file, resume_size=file.tell(), headers=headers)
            return resumed
        except WebError as error:
            resumed = resumed or arrived_bytes(wanted.path) > 0
            tries = TRIES if arrived_bytes(wanted.path) > held else tries - 1
            if type(error).__name__ not in BROKEN_OFF or not tries:
                raise
    return resumed


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Turn what huggingface_hub, what is under it and the disk raise into a DownloadError that names the address."""
    try:
        yield
    except (WebError, OSError) as error:
        failure = _failure_of(error)
        if failure is None:
            raise
        raise DownloadError(failure, f"{address}: {failure}, {' '.join(str(error).split())[:300]}") from error


def _failure_of(error: BaseException) -> Failure | None:
    """The kind of an error; None for one of the program or of a path."""
    if (response := getattr(error, "response", None)) is not None:
        code = response.status_code
        if code in (404, 410):
            return Failure.NOT_FOUND
        return Failure.SERVER if code in (408, 416, 425, 429) or code >= 500 else Failure.REFUSED
    kind, said = type(error).__name__, str(error)
    if kind == "SSLError" or "CERTIFICATE_VERIFY_FAILED" in said:
        return Failure.NO_TRUST
    if "Timeout" in kind or "timed out" in said:
        return Failure.SLOW
    if kind in BROKEN_OFF:
        return Failure.ENDED_EARLY
    if isinstance(error, WebError):
        return Failure.UNREACHABLE
    return Failure.NO_ROOM if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) else None
