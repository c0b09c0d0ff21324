"""A network of transformers' own classes: from a folder as transformers keeps it, from a weights file, or random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from models.errors import ModelInputError
from models.frozen import random_seed, seeded
from models.weights.catalogue import find_weights
from models.weights.state import read_state

Net = TypeVar("Net", bound=nn.Module)
CONTAINS = {"sam3_video": ("sam3_tracker", "sam3")}
"""The model_type of a published folder, and those of the parts in it that are read here."""


def load_pretrained(
    build: Callable[[Any], Net], config: Any, weights: str, what: str, stir: Callable[[Net], None] = lambda net: None
) -> Net:
    """The network, on the CPU in float32 and in evaluation mode, its weights frozen; nothing is fetched.

    Args:
        build: makes the network of a configuration: one of transformers' classes, or `from_config` of an Auto class.
        config: of the published architecture; a folder brings its own, of the same `model_type`.
        weights: a folder with config.json and model.safetensors; a file of the architecture by path or catalogue
            name; or "random:SEED".
        what: the name of the model in an error.
        stir: called on random weights, to give every part a say where transformers starts it at zero.

    Raises:
        ModelInputError: no such file or folder, or one that holds something else.
    """
    if (seed := random_seed(weights)) is not None:
        with seeded(seed), torch.no_grad():
            net = build(config)
            stir(net)
        return net.requires_grad_(False).eval()
    folder = Path(weights).expanduser()
    place = folder if folder.is_dir() else find_weights(weights)
    try:
        return _read(build, config, place).requires_grad_(False).eval()
    except ModelInputError:
        raise
    except Exception as error:  # transformers raises many kinds for what is not its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelInputError(
            f"expected {place} to hold {what} as transformers keeps it, got: {reason}; fetch it again, name the "
            "architecture that belongs to it, or a folder with its config.json and model.safetensors"
        ) from error


def _read(build: Callable[[Any], Net], config: Any, place: Path) -> Net:
    """From a folder, or from a file by `config`; no tensor may be missing."""
    with torch.device("meta"):
        kind: Any = type(build(config))
    loading = {"output_loading_info": True, "dtype": torch.float32}
    if place.is_dir():
        found = json.loads((place / "config.json").read_text(encoding="utf-8")).get("model_type")
        if config.model_type not in CONTAINS.get(found, (found,)):
            raise ValueError(f"a config.json of model_type {found!r}, not {config.model_type!r}")
        net, report = kind.from_pretrained(place, local_files_only=True, **loading)
    else:
        state = read_state(place, "tensors by their names")
        net, report = kind.from_pretrained(None, config=config, state_dict=state, **loading)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"without {missing[0]} and {len(missing) - 1} more tensors")
    return net
