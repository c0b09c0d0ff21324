"""One attempt at one address: what is missing of a `.part` file is asked for and appended.

Resuming follows RFC 9110 (sections 13.1.5, 14): `Range` for the missing bytes, `If-Range` with the ETag or date of
the first answer, so that a file that changed meanwhile comes whole. A host that ignores `Range` sends the whole file.
"""

import errno
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.disk import lacking_room
from models.weights.cache import mirrored
from models.weights.failures import Failure, TransferError

PIECE = 1 << 18
"""Room that a download leaves on the disk."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a host: seconds without a byte, tries without progress, the least speed (bytes/s)."""

    timeout_s: float = 30.0
    tries: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    least_speed: float = 1000.0
    speed_window_s: float = 60.0


def transfer(address: str, part: Path, size: int | None, sure: bool, patience: Patience, show: bool) -> None:
    """Bring `part` to the whole file behind `address`, continuing what it holds.

    `size` is that of the whole file in bytes, if known; `sure` says that its digest is checked later, so that a part
    from another address may be continued.

    Raises:
        TransferError: no answer, a refusal, an answer that ends early or comes too slowly, another size, no room.
    """
    note = Note(part)
    held = note.usable_bytes(address, size, sure)
    if size is not None and held == size:
        return
    if size is not None:
        ask_for_room(part.parent, size - held)
    headers = {"User-Agent": "vandkit", "Accept-Encoding": "identity", **note.conditions(address, held)}
    request = urllib.request.Request(mirrored(address), headers=headers)
    with _named_failures(part), _opener().open(request, timeout=patience.timeout_s) as response:
        start, total = _span(response, held, part)
        if size is not None and total is not None and total != size:
            raise TransferError(Failure.WRONG_SIZE, f"expected {size:,} bytes, the host offers {total:,}")
        if total is not None:
            ask_for_room(part.parent, total - start)
        note.write(address, response.headers)
        _append(response, part, start, total, patience, show)


def ask_for_room(folder: Path, num_bytes: int) -> None:
    """Raise TransferError unless the disk of `folder` has room for so many bytes and some to spare."""
    if wrong := lacking_room(folder, num_bytes):
        raise TransferError(Failure.NO_ROOM, wrong)


class Note:
    """What is known of a `.part` file: the address it came from and how that address marks this version."""

    def __init__(self, part: Path) -> None:
        self.part, self.path = part, part.with_name(part.name + ".json")

    def usable_bytes(self, address: str, size: int | None, sure: bool) -> int:
        """How many bytes can be continued at this address; a part that cannot is deleted."""
        held = self.part.stat().st_size if self.part.is_file() else 0
        known = self._read()
        same_version = known.get("address") == address and bool(known.get("version"))
        if held and ((size is not None and held > size) or not (sure or same_version)):
            self.discard()
            return 0
        return held

    def conditions(self, address: str, held: int) -> dict[str, str]:
        """The headers that ask for the missing bytes of the same version."""
        if not held:
            return {}
        known = self._read()
        version = known.get("version") if known.get("address") == address else None
        return {"Range": f"bytes={held}-", **({"If-Range": version} if version else {})}

    def write(self, address: str, headers: Message) -> None:
        """Note where the part comes from and the strong ETag or the date by which to ask for the rest."""
        etag = headers.get("ETag", "")
        version = headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
        self.path.write_text(json.dumps({"address": address, "version": version}), encoding="utf-8")

    def discard(self) -> None:
        """Delete the part and its note."""
        self.part.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _span(response: Any, held: int, part: Path) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file or None) of an answer."""
    length = response.headers.get("Content-Length")
    if getattr(response, "status", None) != 206:
        return 0, int(length) if length else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != held:
        Note(part).discard()
        raise TransferError(Failure.ENDED_EARLY, "the host sent another range than was asked for; starting over")
    return held, None if match[2] == "*" else int(match[2])


def _append(response: Any, part: Path, start: int, total: int | None, patience: Patience, show: bool) -> None:
    label = part.name.removesuffix(".part")
    bar = tqdm(desc=label, initial=start, total=total, unit="B", unit_scale=True, disable=None if show else True)
    with bar, part.open("ab" if start else "wb", buffering=0) as file:
        clock, counted, done = time.monotonic(), 0, start
        while piece := response.read1(PIECE):
            file.write(piece)
            bar.update(len(piece))
            done, counted = done + len(piece), counted + len(piece)
            passed = time.monotonic() - clock
            if passed >= patience.speed_window_s:
                if counted < patience.least_speed * passed and (total is None or done < total):
                    speed = f"{counted / passed:,.0f} bytes a second over {passed:.0f} s"
                    raise TransferError(Failure.SLOW, f"{speed}, at {done:,} bytes")
                clock, counted = time.monotonic(), 0
    if total is not None and done < total:
        raise TransferError(Failure.ENDED_EARLY, f"{done:,} of {total:,} bytes arrived")


def _opener() -> urllib.request.OpenerDirector:
    """Honours the proxy variables as they are now; follows redirects, but never from https to http."""
    return urllib.request.build_opener(_SafeRedirects())


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise TransferError(Failure.REFUSED, f"it redirects from https to {newurl}, which anybody could alter")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _named_failures(part: Path) -> Iterator[None]:
    """Turn what urllib and sockets raise into a `TransferError`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _of_status(error, part) from error
    except urllib.error.URLError as error:
        raise _of_reason(error.reason) from error
    except TimeoutError as error:
        raise TransferError(Failure.SLOW, "nothing arrived for the whole time-out") from error
    except (ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise TransferError(Failure.ENDED_EARLY, str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransferError(Failure.NO_ROOM, f"{part.parent}: {error.strerror}") from error
        raise


def _of_status(error: urllib.error.HTTPError, part: Path) -> TransferError:
    reason = f"HTTP {error.code} {error.reason}"
    if error.code in (404, 410):
        return TransferError(Failure.NOT_FOUND, reason)
    if error.code == 416:  # the part has all the bytes that the host has, or more
        Note(part).discard()
        return TransferError(Failure.ENDED_EARLY, f"{reason}: the part does not fit the file; starting over")
    if error.code in (408, 425, 429) or error.code >= 500:
        wait = error.headers.get("Retry-After") or ""
        return TransferError(Failure.SERVER, reason, float(wait) if wait.isdigit() else 0.0)
    return TransferError(Failure.REFUSED, reason)


def _of_reason(reason: object) -> TransferError:
    if isinstance(reason, TimeoutError):
        return TransferError(Failure.SLOW, "no answer within the time-out")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return TransferError(Failure.NO_TRUST, reason.verify_message)
    if isinstance(reason, FileNotFoundError):
        return TransferError(Failure.NOT_FOUND, str(reason))
    return TransferError(Failure.UNREACHABLE, str(reason))
