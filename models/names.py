"""The known name that a misspelt one was meant to be: the one place where names are compared."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name most like `name`, whatever its case, or None if none is at least so like it (1: the same)."""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[close[0]] if close else None


def hint(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The end of a message about a name that nobody knows: "; did you mean ...?", or nothing."""
    near = nearest(name, known, likeness)
    return f"; did you mean {near}?" if near else ""
