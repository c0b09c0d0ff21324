"""What a user gets for a name nobody knows: the list of names that exist, and the nearest of them."""

from collections.abc import Iterable
from pathlib import Path

from models.errors import hint
from tracks.errors import TrackInputError

LISTED = 30
"""How many known names a message spells out."""


def unknown(kind: str, name: object, known: Iterable[str]) -> TrackInputError:
    """The error for a `name` that is none of the `known` ones of its `kind`; for the caller to raise."""
    known = list(known)
    return TrackInputError(f"expected {kind} to be one of {listed(known)}, got {str(name)!r}{hint(str(name), known)}")


def missing_path(kind: str, path: Path) -> TrackInputError:
    """The error for a path that does not exist: how far it goes, and the nearest name at that place."""
    place = next((parent for parent in path.absolute().parents if parent.is_dir()), path)
    part = path.absolute().relative_to(place).parts[0] if place != path else path.name
    beside = [child.name for child in place.iterdir()] if place.is_dir() else []
    return TrackInputError(
        f"expected {kind} at {path}, found nothing: {place} holds no {part!r}{hint(part, beside)}; "
        "give the path of an existing one"
    )


def listed(names: list[str]) -> str:
    """The names with commas; a long list is cut and counted."""
    if not names:
        return "(there are none)"
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
