"""What a run works with: settings that make sense, a device, and the model of its configuration on it."""

from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from models.base import AnomalyModel
from models.frozen import keep_float32_whole
from models.own_references import OwnReferences
from models.tiles import WHOLE, Tiled, check_tiles
from models.weights.catalogue import refuse_missing
from tracks.command.names import unknown
from tracks.errors import TrackInputError
from tracks.run.on_ray import check_installed
from tracks.run.runner import ENGINES, LOCAL, RAY
from tracks.run.shard import read_shard
from tracks.run.trackers import Tracker


def check_run_settings(cfg: DictConfig) -> None:
    """Refuse values, of settings that every run has, that no type can refuse."""
    if not 0 < cfg.false_alarm_rate < 1:
        raise TrackInputError(f"expected false_alarm_rate between 0 and 1, got {cfg.false_alarm_rate}; try 0.05")
    if min(cfg.batch_size, cfg.workers) < 1:
        raise TrackInputError(f"expected batch_size and workers >= 1, got {cfg.batch_size} and {cfg.workers}")
    if cfg.get("engine", LOCAL) not in ENGINES:
        raise unknown("engine", cfg.engine, ENGINES)
    if cfg.get("engine") == RAY:
        check_installed()
    read_shard(cfg.get("shard"))
    check_own_references(cfg)
    if cfg.get("actors") is not None and cfg.actors < 1:
        raise TrackInputError(f"expected actors >= 1, or null, got {cfg.actors}")


def check_own_references(cfg: DictConfig) -> None:
    """Refuse references from the images themselves beside others."""
    others = [key for key in ("references", "product", "shots") if cfg.get(key)]
    if cfg.get("own_references") and others:
        raise TrackInputError(
            f"expected own_references={cfg.own_references} without other references, got {others[0]}={cfg[others[0]]} "
            "too; leave one of them out"
        )


def chosen_names() -> dict[str, str]:
    """The names of model and weights that the command line chose; nothing where no command line was read."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {key: chosen[key] for key in ("model", "weights") if key in chosen}


def run_names() -> dict[str, str]:
    """As `chosen_names`, for a run's name: adapters of one's own (`weights.adapter.path=FILE`) beside the weights.

    They are called by their file, or by the folder of their training.
    """
    names = chosen_names()
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for key, _, value in (word.lstrip("+").partition("=") for word in words):
        path = Path(value.strip("'\"")).expanduser()
        if key == "weights.adapter.path" and "weights" in names and path.is_file():
            own = path.resolve().parent.name if path.stem == "adapter" else path.stem
            names["weights"] += f"+{own}"
    return names


def pick_device(wanted: str) -> str:
    """A torch device name; "auto" is the GPU where there is one. From then on float32 means float32 on a GPU.

    Raises:
        TrackInputError: a device that this machine has not.
    """
    keep_float32_whole()
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise TrackInputError(
            f"expected a device that this machine has, got {wanted!r} ({reason}); use auto"
        ) from error
    return wanted


def engine(cfg: DictConfig) -> dict[str, Any]:
    """What `RunnerOptions` takes of the engine."""
    return {key: cfg[key] for key in ("engine", "ray_address", "actors") if key in cfg}


def chosen_tracker(cfg: DictConfig) -> Tracker:
    """That of `tracker=...`; none where a configuration knows no such thing."""
    return instantiate(cfg.tracker) if cfg.get("tracker") else Tracker()


def build_model(cfg: DictConfig, device: str) -> AnomalyModel:
    """The model of `cfg.model`, in evaluation mode, looking at tiles as `cfg.tiles` says.

    Without `cfg.tiles` as the weights say, for models with adapters; other models see whole images, as published.
    With `cfg.own_references` it takes references from the images that it is to judge.

    Raises:
        ModelInputError: weights that are not here, arguments that do not fit, tiles that this model cannot look at.
    """
    refuse_missing(OmegaConf.to_container(cfg.model, resolve=True))
    model: AnomalyModel = instantiate(cfg.model)
    tiles = cfg.get("tiles")
    if tiles is None:
        from models.clip_adapter.model import ClipAdapter  # not before a model is built
        from models.vector_adapter.model import VectorAdapter

        adapted = isinstance(model, ClipAdapter | VectorAdapter)
        tiles = OmegaConf.select(cfg, "weights.tiles", default=WHOLE) if adapted else WHOLE
    check_tiles(tiles)
    if tiles != WHOLE:
        model = Tiled(model, tiles)
    if count := cfg.get("own_references"):
        model = OwnReferences(model, count)
    return model.to(device).eval()
