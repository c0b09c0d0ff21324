"""What can go wrong with a download: a name for each kind, and what to do about it."""

from enum import StrEnum

from models.errors import ModelInputError


class Failure(StrEnum):
    """The kinds of failure, as they stand in messages."""

    OFFLINE = "offline"
    NO_ROOM = "no room on the disk"
    NOT_FOUND = "not found"
    REFUSED = "access refused"
    UNREACHABLE = "unreachable"
    NO_TRUST = "no trusted certificate"
    SERVER = "server error"
    SLOW = "too slow"
    ENDED_EARLY = "ended early"
    WRONG_SIZE = "wrong size"
    WRONG_CONTENT = "wrong content"


RETRIED = frozenset({Failure.UNREACHABLE, Failure.SERVER, Failure.SLOW, Failure.ENDED_EARLY})
"""Kinds that may pass by themselves; after any other the next address is tried at once."""

REMEDIES = {
    Failure.OFFLINE: "allow downloads by unsetting it",
    Failure.NO_ROOM: "free some space, or choose a folder on another disk with VANDKIT_CACHE=...",
    Failure.NOT_FOUND: "the address has moved: look for the file at its source",
    Failure.REFUSED: "the host wants a login or an accepted licence: fetch it with a browser",
    Failure.UNREACHABLE: "check the connection (behind a proxy set HTTPS_PROXY, for a mirror of Hugging Face "
    "HF_ENDPOINT) and try again",
    Failure.NO_TRUST: "check the clock of this machine, or name your proxy's certificates with SSL_CERT_FILE=...",
    Failure.SERVER: "try again later",
    Failure.SLOW: "try again on a better connection; what has arrived is kept and continued",
    Failure.ENDED_EARLY: "try again; what has arrived is kept and continued",
    Failure.WRONG_SIZE: "the host serves another file than the one recorded: do not use it",
    Failure.WRONG_CONTENT: "the host, or somebody between, serves another file than the one recorded: do not use it",
}


class DownloadError(ModelInputError):
    """A download that did not succeed; `failure` is its kind."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class TransferError(Exception):
    """One attempt at one address that failed; `wait_s` is how long the host asked to wait."""

    def __init__(self, failure: Failure, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.failure, self.wait_s = failure, wait_s
