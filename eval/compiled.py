"""Loops over pixels, compiled by numba where it works and run as plain Python where it does not.

A loop is compiled at its first call in a process that finds no copy of it on disk (a few seconds, once per
installation) and read from there afterwards. It releases Python's lock, so threads run it side by side. With
VANDKIT_PURE=1, or where numba cannot be imported, the same functions run uncompiled: equal results, far slower.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

log = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])


def _find_compiler() -> Any:
    if os.environ.get("VANDKIT_PURE", "") not in ("", "0"):
        return None
    try:
        import numba
    except Exception as error:  # numba refuses some numpy versions with errors of other kinds than ImportError
        log.warning("numba cannot be used here (%s): scoring gives the same numbers, but takes much longer", error)
        return None
    return numba


_NUMBA = _find_compiler()
COMPILED = _NUMBA is not None and not _NUMBA.config.DISABLE_JIT
"""Whether the loops are compiled here."""


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers, cached on disk if some folder for it can be written to."""
    if not COMPILED:
        return function
    try:
        return _NUMBA.njit(function, cache=True, nogil=True)
    except RuntimeError:  # numba found no folder for its cache
        return _NUMBA.njit(function, nogil=True)
