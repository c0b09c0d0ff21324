"""Loops over pixels compiled by numba where it works, plain Python where it does not; and the sort that needs them.

A loop is compiled at its first call in a process that finds no copy of it on disk (a few seconds, once per
installation) and read from there afterwards. It releases Python's lock, so threads run it side by side. With
VANDKIT_PURE=1, or where numba cannot be imported, the same functions run uncompiled: equal results, far slower.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

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


def falling_order(values: np.ndarray) -> np.ndarray:
    """The positions (N,) int32 of finite floats (N,) from the highest to the lowest, equal ones in their own order.

    A radix sort, because comparing sorts take most of the time of a scorer otherwise.
    """
    if not COMPILED or values.dtype not in (np.float16, np.float32):
        return np.argsort(-values, kind="stable").astype(np.int32)
    unsigned = np.uint16 if values.dtype == np.float16 else np.uint32
    patterns = (values + values.dtype.type(0)).view(unsigned)  # adding zero turns -0.0 into 0.0
    is_negative = (patterns >> (8 * patterns.itemsize - 1)).astype(bool)
    rising = np.where(is_negative, patterns, patterns ^ unsigned(np.iinfo(unsigned).max >> 1))
    order = _by_digit(rising.astype(np.uint16), np.arange(values.size, dtype=np.int32))
    return order if unsigned == np.uint16 else _by_digit((rising >> unsigned(16)).astype(np.uint16)[order], order)


@compiled
def _by_digit(digits: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The positions (N,) int32 in rising order of their digits (N,) uint16, equal ones as they come."""
    ends = np.zeros(65537, dtype=np.int64)
    for i in range(digits.size):
        ends[np.int64(digits[i]) + 1] += 1
    for digit in range(65536):
        ends[digit + 1] += ends[digit]
    ordered = np.empty_like(positions)
    for i in range(digits.size):
        ordered[np.uint64(ends[digits[i]])] = positions[i]
        ends[digits[i]] += 1
    return ordered
