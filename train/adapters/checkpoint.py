"""The state of a training between two steps, on disk: what makes it resumable to the same weights."""

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.disk import alone, write_atomically
from tracks.errors import TrackInputError
from tracks.run.fingerprint import device_name, versions
from tracks.run.log_file import RUN_LOG
from tracks.run.store import LOCK_FILE
from train.adapters.token_cache import CACHE_FOLDER, release
from train.checkpoint import load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)
STATE_FILE = "state.pt"
LOG_FILE = "log.csv"
SETTINGS_FILE = "run.json"
CONFIG_FILE = "config.yaml"
ADAPTER_FILE = "adapter.safetensors"
PICTURE_FILE = "loss.png"

NO_LONGER_SET = (("deviation", False),)
"""What a run.json of an earlier version says of options that are gone, where it says nothing else than is done now."""

Row = dict[str, Any]


@dataclass
class TrainingState:
    """How far a training has come.

    The order of the images and what is drawn for each follow from (seed, epoch), so the place in the epoch and the
    random state of torch are all that chance needs.
    """

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps finished of the epoch begun."""
    loss_sum: float = 0.0
    """Sum of loss x images over those steps."""
    seconds: float = 0.0
    """Time spent on them."""
    history: list[Row] = field(default_factory=list)
    """A row per finished epoch."""
    best: dict[str, Tensor] | None = None
    """The adapter of the best epoch so far, where one is selected by validation."""
    best_epoch: int = 0


class StateFile:
    """The state file of a run folder; replaced as a whole, so a kill leaves the earlier one."""

    def __init__(self, folder: Path):
        self.path = folder / STATE_FILE
        self.saved_at = (0, 0)
        """Epochs and further steps that the file holds."""
        self._made_with: dict[str, str] = {}

    def save(self, state: TrainingState, adapter: nn.Module, optimizer: Optimizer) -> None:
        """Write all that a continuation needs."""
        facts = {"state": asdict(state), "random": torch.get_rng_state(), "made_with": self._made_with}
        save_checkpoint(self.path, {"adapter": adapter, "optimizer": optimizer}, **facts)
        self.saved_at = (state.epoch, state.step)

    def restore(self, adapter: nn.Module, optimizer: Optimizer, device: str) -> TrainingState:
        """Put adapter, optimizer and random state where they were; a fresh state where no file is.

        Warns where another device or other versions made it: rounding, and so the weights, then follow both.

        Raises:
            TrackInputError: the file does not read, or is of another adapter.
        """
        self._made_with = {"device": device_name(device), **versions()}
        content = load_checkpoint(self.path, {"adapter": adapter, "optimizer": optimizer}, "begin anew with fresh=true")
        if content is None:
            return TrainingState()
        torch.set_rng_state(content["random"].cpu())
        state = TrainingState(**content["state"])
        self.saved_at = (state.epoch, state.step)
        made_with = content.get("made_with", self._made_with)
        for key in [key for key, value in self._made_with.items() if made_with.get(key) != value]:
            log.warning(
                "%s: begun with %s %s, continued with %s: not the weights that either alone would make",
                self.path.parent, key, made_with.get(key), self._made_with[key],
            )  # fmt: skip
        return state


def own_folder(folder: Path) -> AbstractContextManager[None]:
    """A run folder to oneself while the block lasts; one that `open_run` will refuse is not touched."""
    foreign = folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS_FILE).is_file()
    return nullcontext() if foreign else alone(folder / LOCK_FILE, f"the training in {folder}")


def open_run(folder: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Make `folder` the run folder of these settings, or find that it is; `fresh` discards what was trained there.

    Raises:
        TrackInputError: it holds a training of other settings, or files that are no training.
    """
    path = folder / SETTINGS_FILE
    found = _read_json(path) if path.is_file() else None
    if found is None and folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise TrackInputError(
            f"expected a new folder or that of an earlier training, got {folder}, which holds other files; choose "
            "another folder with OUT=..."
        )
    if found is not None and fresh and "trained_on" in found:
        _discard(folder)
        found = None
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2).encode())
    else:
        _refuse_other_settings(folder, found, json.loads(json.dumps(settings)))


def _discard(folder: Path) -> None:
    """Delete what a training writes and nothing else."""
    for name in (SETTINGS_FILE, STATE_FILE, LOG_FILE, PICTURE_FILE, ADAPTER_FILE, CONFIG_FILE, RUN_LOG):
        (folder / name).unlink(missing_ok=True)
    for cache in [path for path in folder.glob(f"{CACHE_FOLDER}/*") if path.is_dir()]:
        release(cache, folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise TrackInputError(f"expected JSON in {path}, got {error}; delete the run folder and run again") from error


def _refuse_other_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = {key: value for key, value in found.items() if (key, value) not in NO_LONGER_SET}
    different = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if different:
        listed = "; ".join(f"{key} there {found.get(key)}, here {wanted.get(key)}" for key in different)
        raise TrackInputError(
            f"expected the same training in {folder}, got one of other settings ({listed}); choose another folder "
            "with OUT=..., or begin anew with fresh=true"
        )
