"""The error a model raises for bad input, the check of arguments, and the hint "did you mean ...?"."""

import difflib
from collections.abc import Iterable
from typing import TypeVar

Value = TypeVar("Value")


class ModelInputError(ValueError):
    """Bad input to a model: a weights file, an image batch, an argument.

    The message is one paragraph that says what was expected, what was got and the remedy.
    """


def checked(name: str, value: Value, good: bool, expected: str) -> Value:
    """The value of an argument.

    Raises:
        ModelInputError: it is not good; says what it is expected to be.
    """
    if not good:
        raise ModelInputError(f"expected {name} to be {expected}, got {value!r}")
    return value


def checked_type(name: str, value: Value, kind: type | tuple[type, ...], expected: str) -> Value:
    """The value of an argument.

    Raises:
        ModelInputError: it is of none of these classes; says of which it is.
    """
    checked(name, type(value).__name__, isinstance(value, kind), expected)
    return value


def closest_name(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name most like `name`, whatever its case, or None if none is at least so like it (1: the same)."""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[close[0]] if close else None


def hint(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The end of a message about a name that nobody knows: "; did you mean ...?", or nothing."""
    near = closest_name(name, known, likeness)
    return f"; did you mean {near}?" if near else ""
