"""The settings of `predict`: what is refused, what makes two calls the same run, and where its folder is."""

import copy
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from models.disk import write_atomically
from tracks.command.paths import folder_name
from tracks.datasets.photos import common_folder, given_paths
from tracks.datasets.region import Region
from tracks.datasets.remote import address_of
from tracks.datasets.video import CAMERA, record
from tracks.decide.kept import NO_MAPS
from tracks.decide.threshold_folder import FOLDER
from tracks.errors import TrackInputError
from tracks.run.build import check_run_settings, run_names
from tracks.run.fingerprint import settings_digest
from tracks.run.store import SETTINGS_FILE, read_settings

DEFAULT_CATEGORY = "object"
MAPS = ("model", "full", NO_MAPS)
ONLY_DECIDE = ("threshold", "false_alarm_rate")
"""Settings of which no score depends; the run.json of earlier versions has them."""


def adopt(folder: Path, settings: Mapping[str, Any]) -> None:
    """Take over the folder of an earlier version, which held the threshold to be a part of what a run is."""
    path = folder / SETTINGS_FILE
    if path.is_file():
        found = read_settings(path)
        if {key: value for key, value in found.items() if key not in ONLY_DECIDE} == settings != found:
            write_atomically(path, json.dumps(settings, indent=2))


def check_settings(cfg: DictConfig) -> None:
    """Refuse values that no type can refuse."""
    if not cfg.images:
        raise TrackInputError(
            "expected a folder of photos, got none; name it, for example `make predict IMAGES=my_photos`, with "
            "REFERENCES=folder if you have photos of good parts"
        )
    check_run_settings(cfg)
    if cfg.maps not in MAPS:
        raise TrackInputError(f"expected maps to be one of {', '.join(MAPS)}, got {cfg.maps!r}")
    if cfg.bit_depth is not None and not 8 <= cfg.bit_depth <= 16:
        raise TrackInputError(f"expected bit_depth from 8 to 16, or null to guess it, got {cfg.bit_depth}")
    if cfg.every < 1 or (cfg.frames is not None and cfg.frames < 1):
        raise TrackInputError(f"expected every and frames from 1 on, got every={cfg.every}, frames={cfg.frames}")
    number = isinstance(cfg.threshold, int | float) and not isinstance(cfg.threshold, bool)
    if cfg.threshold not in (None, FOLDER) and not (number and math.isfinite(cfg.threshold)):
        raise TrackInputError(
            f"expected threshold to be a finite number, {FOLDER} or null, got {cfg.threshold!r}; without one it comes "
            "from REFERENCES, or from the weights"
        )


def recorded(cfg: DictConfig) -> DictConfig:
    """The settings with the folder of the pictures that a camera takes now in place of `images=camera:0`."""
    camera = CAMERA.fullmatch(cfg.images) if isinstance(cfg.images, str) else None
    if camera is None:
        return cfg
    if cfg.frames is None:
        raise TrackInputError(f"expected how many pictures {cfg.images} is to take, got none; for example frames=20")
    folder = Path(cfg.outputs).expanduser() / "camera" / time.strftime("%Y-%m-%d_%H-%M-%S")
    mine = copy.deepcopy(cfg)
    mine.images, mine.every, mine.frames = str(record(int(camera[1]), folder, cfg.every, cfg.frames)), 1, None
    print(f"{cfg.images}: {cfg.frames} pictures in {folder}; images={folder} judges them again")
    return mine


def describe(cfg: DictConfig) -> dict[str, Any]:
    """The settings that make two calls the same run, as they stand in run.json."""
    images = [address_of(path) or str(path.resolve()) for path in given_paths(cfg.images or [])]
    good = str(Path(cfg.references).expanduser().resolve()) if cfg.references else ""
    folders = {"images": images[0] if len(images) == 1 else images, "references": good}
    words = {"category": str(cfg.category or DEFAULT_CATEGORY), "defects": list(cfg.prompts.defects)}
    names = {"model": "", "weights": ""} | ({} if cfg.get("product") else run_names())
    rules = {key: cfg[key] for key in ("recursive", "tiles", "bit_depth")}
    if cfg.get("own_references"):
        rules["own_references"] = cfg.get("own_references")
    arguments = {"config": OmegaConf.to_container(cfg.model, resolve=True)}
    if cfg.get("product"):
        folders["product"] = str(Path(cfg.product).expanduser().resolve())
    region = region_of(cfg)
    seen: dict[str, Any] = {} if region is None else {"roi": region.settings}
    if (cfg.every, cfg.frames) != (1, None):
        seen |= {"every": cfg.every, "frames": cfg.frames}
    return {"track": "predict", **folders, **words, **names, **rules, **seen, **arguments}


def region_of(cfg: DictConfig) -> Region | None:
    """The region of interest, if the settings name one."""
    if not cfg.get("roi"):
        return None
    given: Any = OmegaConf.to_container(cfg.roi) if OmegaConf.is_list(cfg.roi) else str(cfg.roi)
    return Region(given)


def output_folder(cfg: DictConfig, settings: dict[str, Any]) -> Path:
    """OUT, or a folder named after the photos and the settings."""
    name = f"{common_folder(given_paths(settings['images'])).name}-{settings_digest(settings)}"
    return Path(cfg.out or Path(cfg.outputs) / "predict" / folder_name(name)).expanduser()
