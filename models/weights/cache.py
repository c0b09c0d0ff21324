"""Where fetched files lie, whether fetching is allowed, and which host answers for Hugging Face.

`VANDKIT_CACHE` names the folder of everything that is fetched; `VANDKIT_WEIGHTS` that of the weights alone.
`VANDKIT_OFFLINE=1` or `HF_HUB_OFFLINE=1` forbids every download. `HF_ENDPOINT` names a mirror of Hugging Face;
`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured by urllib itself.
"""

import os
import re
import sys
from pathlib import Path

CACHE_VARIABLE = "VANDKIT_CACHE"
WEIGHTS_VARIABLE = "VANDKIT_WEIGHTS"
OFFLINE_VARIABLES = ("VANDKIT_OFFLINE", "HF_HUB_OFFLINE")
HUGGING_FACE = "https://huggingface.co"
_HUB_FILE = re.compile(rf"{HUGGING_FACE}/(?!datasets/|spaces/)([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def cache_folder() -> Path:
    """The folder of everything that is fetched: VANDKIT_CACHE, or where this operating system keeps caches."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else _system_cache() / "vandkit"


def weights_folder() -> Path:
    """The folder of fetched weights: VANDKIT_WEIGHTS, or `weights` in the cache folder."""
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen).expanduser() if chosen else cache_folder() / "weights"


def archives_folder() -> Path:
    """The folder of downloaded archives of data sets: `archives` in the cache folder."""
    return cache_folder() / "archives"


def offline_by() -> str | None:
    """The setting that forbids downloads, as a user would write it, or None where they are allowed."""
    for variable in OFFLINE_VARIABLES:
        value = os.environ.get(variable, "")
        if value.strip().lower() in ("1", "on", "yes", "true"):
            return f"{variable}={value}"
    return None


def mirrored(address: str) -> str:
    """The address with Hugging Face's host replaced by HF_ENDPOINT, where that is set."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint and address.startswith(HUGGING_FACE + "/"):
        return endpoint + address.removeprefix(HUGGING_FACE)
    return address


def hugging_face_copy(address: str) -> Path | None:
    """The file of such an address in Hugging Face's own cache, or None. Its content is not checked here.

    Layout: `models--<owner>--<name>/snapshots/<commit>/<file>`, with `refs/<branch>` naming a commit
    (huggingface.co/docs/huggingface_hub/guides/manage-cache).
    """
    match = _HUB_FILE.fullmatch(address)
    if match is None:
        return None
    repository, revision, file = match.groups()
    folder = _hugging_face_cache() / f"models--{repository.replace('/', '--')}"
    commits = [revision]
    for branch in (revision, "main"):
        reference = folder / "refs" / branch
        if reference.is_file():
            commits.append(reference.read_text(encoding="utf-8").strip())
    copies = (folder / "snapshots" / commit / file for commit in commits if commit)
    return next((copy for copy in copies if copy.is_file()), None)


def _hugging_face_cache() -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(variable):
            return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(home or cache / "huggingface").expanduser() / "hub"


def _system_cache() -> Path:
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
