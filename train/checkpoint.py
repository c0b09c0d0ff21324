"""A training between two steps, on disk: one file, replaced as a whole, so that a kill leaves the earlier one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from models.disk import replaced
from tracks.errors import TrackInputError


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put it back, on the device where each tensor lies now."""


def save_checkpoint(path: Path, parts: Mapping[str, Stateful], **facts: Any) -> None:
    """Write the states of all parts and plain facts, each under its name."""
    with replaced(path) as file:
        torch.save({**{name: part.state_dict() for name, part in parts.items()}, **facts}, file)


def load_checkpoint(path: Path, parts: Mapping[str, Stateful], remedy: str, **wanted: str) -> dict[str, Any] | None:
    """Put all parts where they were; returns the whole content, None where no file is or a `wanted` fact is another.

    Raises:
        TrackInputError: the file does not read, or is of other parts; ends in the remedy.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if any(content.get(name) != value for name, value in wanted.items()):
            return None
        for name, part in parts.items():
            part.load_state_dict(content[name])
    except Exception as error:
        raise TrackInputError(
            f"expected a training state in {path}, got a file that does not read ({str(error).splitlines()[0]}); "
            f"{remedy}"
        ) from error
    return content
