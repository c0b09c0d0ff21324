"""Where fetched files lie, and whether fetching is allowed.

`VANDKIT_CACHE` names the folder of everything that is fetched; `VANDKIT_WEIGHTS` that of the weights alone.
`VANDKIT_OFFLINE=1` or `HF_HUB_OFFLINE=1` forbids every download. `HF_ENDPOINT` names a mirror of Hugging Face;
`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured by the library that fetches.
"""

import os
import re
import sys
from pathlib import Path

OFFLINE_VARIABLES = ("VANDKIT_OFFLINE", "HF_HUB_OFFLINE")
HUB = "https://huggingface.co"
HUB_FILE = re.compile(rf"{re.escape(HUB)}/(?!datasets/|spaces/)([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
"""An address of Hugging Face: repository, revision, file."""


def cache_folder() -> Path:
    """The folder of everything that is fetched: VANDKIT_CACHE, or where this operating system keeps caches."""
    if chosen := os.environ.get("VANDKIT_CACHE"):
        return Path(chosen).expanduser()
    system = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local"}
    cache = system.get(sys.platform) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "vandkit"


def weights_folder() -> Path:
    """The folder of fetched weights: VANDKIT_WEIGHTS, or `weights` in the cache folder."""
    chosen = os.environ.get("VANDKIT_WEIGHTS")
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


def hugging_face_copy(address: str) -> Path | None:
    """The file of such an address in Hugging Face's own cache, or None. Its content is not checked here."""
    if (match := HUB_FILE.fullmatch(address)) is None:
        return None
    from huggingface_hub import (
        try_to_load_from_cache,  # not before models/__init__.py has said whether it may go online
    )

    repository, revision, file = match.groups()
    place = os.environ.get("HF_HUB_CACHE")
    copies = (try_to_load_from_cache(repository, file, place, each) for each in (revision, "main"))
    return next((Path(copy) for copy in copies if isinstance(copy, str)), None)
