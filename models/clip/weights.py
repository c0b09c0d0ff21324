"""A CLIP from its architecture and its weights, by open_clip's own classes: configurations, files, position grids."""

import hashlib
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
from open_clip.model import resize_pos_embed
from torch import Tensor

from models.errors import ModelInputError, closest_name, hint
from models.tensor_file import (
    TORCH_SUFFIXES,
    from_metadata,
    read_metadata,
    read_tensors,
    to_metadata,
    write_tensors,
)
from models.weights.catalogue import catalogue, find_weights, weights_path
from models.weights.state import read_state

CLIP_FORMAT = "vandkit-clip-1"
ACTIVATIONS = ("gelu", "quick_gelu")
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
_UNSUPPORTED = ("custom_text", "multimodal_cfg", "hf_model_name", "hf_tokenizer_name")


@dataclass(frozen=True)
class ClipHeader:
    """What a CLIP file of ours says of itself: how it was trained is how it is used unless told otherwise."""

    backbone: str
    stages: tuple[int, ...]
    image_size: int
    activation: str
    trained_on: tuple[str, ...]
    format: str = CLIP_FORMAT
    commit: str = ""
    notes: str = ""


def save_clip(
    path: str | os.PathLike[str], model_state: Mapping[str, Tensor], config: Mapping[str, Any], header: ClipHeader
) -> None:
    """Write the weights of an `open_clip.CLIP` as safetensors and its configuration as JSON beside it.

    Matrices and kernels are stored as float16, vectors (biases, norms, running statistics) as they
    are; everything is float32 again when it is loaded.
    """
    path = Path(path)
    state = {name: tensor.half() if tensor.ndim >= 2 else tensor for name, tensor in model_state.items()}
    write_tensors(path, state, to_metadata(header))
    path.with_suffix(".json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(name: str) -> tuple[str, dict[str, Any]]:
    """An architecture's plain name and open_clip configuration.

    `name` is one that open_clip knows, a path to a JSON of the same form, or its catalogue name.

    Raises:
        ModelInputError: an unknown name, or an architecture with other towers than CLIP's own.
    """
    config: dict[str, Any] | None
    entry = catalogue().get(name)
    if name.endswith(".json") or (entry and entry.path.suffix == ".json"):
        file = weights_path(name) if entry else find_weights(name)
        name, config = file.stem, _read_json(file)
    else:
        config = open_clip.get_model_config(name)
    if config is None:
        near = closest_name(name, open_clip.list_models(), likeness=0.4)
        raise ModelInputError(
            f"expected an architecture that open_clip knows, or the path of a configuration .json, got {name!r}; "
            + (f"did you mean {near!r}?" if near else "ViT-L-14-336 is the published one")
        )
    keys = {**config, **config["vision_cfg"], **config["text_cfg"]}
    if found := [key for key in _UNSUPPORTED if keys.get(key)]:
        raise ModelInputError(
            f"expected an architecture with CLIP's own text transformer and a ViT, a ResNet or a timm net before it, "
            f"got {name!r}, which has {found[0]}; ViT-L-14-336, ViT-B-16 or RN50 are of the right kind"
        )
    return name.removesuffix("-quickgelu"), config


def build_clip(config: Mapping[str, Any], *, image_size: int, activation: str) -> open_clip.CLIP:
    """An `open_clip.CLIP` with random weights; `activation` goes to both towers, whatever the configuration says."""
    if activation not in ACTIVATIONS:
        raise ModelInputError(f"expected activation to be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    arguments = deepcopy(dict(config))
    side = patch_side(arguments)
    if image_size % side:
        lower = image_size // side * side
        raise ModelInputError(
            f"expected an image size that is a multiple of {side} pixels, got {image_size}; use {lower or side} or "
            f"{lower + side}"
        )
    arguments["vision_cfg"]["image_size"] = image_size
    arguments["quick_gelu"] = activation == "quick_gelu"
    for key in ("custom_text", "preprocess_cfg"):
        arguments.pop(key, None)
    return open_clip.CLIP(**arguments)


def patch_side(config: Mapping[str, Any]) -> int:
    """Pixels along one side of a token of the last stage: the patch of a ViT, 32 for a convolutional net."""
    vision = config["vision_cfg"]
    convolutional = vision.get("timm_model_name") or isinstance(vision["layers"], list | tuple)
    return 32 if convolutional else int(vision["patch_size"])


def weights_file(name: str, weights: str) -> Path:
    """The file behind a catalogue name, a path, or a tag of open_clip (which downloads it where it is not cached)."""
    tag = open_clip.get_pretrained_cfg(name, weights)
    if weights in catalogue() or not tag:
        if weights not in catalogue() and not Path(weights).expanduser().is_file():
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise ModelInputError(
                f"expected weights for {name} as the path of a file, a name of the weights catalogue "
                f"({', '.join(catalogue())}), a tag of open_clip ({', '.join(tags) or 'none for this one'}) or "
                f"random:SEED, got {weights!r}{hint(weights, [*catalogue(), *tags])}"
            )
        return find_weights(weights)
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # hub clients raise whatever their transport raises
        raise ModelInputError(
            f"expected open_clip to fetch the weights {weights!r} of {name}, got: {str(error).partition(chr(10))[0]}; "
            "check the connection, or give the path of a downloaded file"
        ) from error


def pixel_statistics(name: str, weights: str, config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that the weights expect.

    Of the configuration's `preprocess_cfg`, else of open_clip's tag, else OpenAI's.
    """
    tag = config.get("preprocess_cfg") or open_clip.get_pretrained_cfg(name, weights)
    return tuple(tag.get("mean", open_clip.OPENAI_DATASET_MEAN)), tuple(tag.get("std", open_clip.OPENAI_DATASET_STD))


def read_clip_header(file: Path) -> ClipHeader | None:
    """The header of a CLIP file of ours, None for anybody else's."""
    if file.suffix != ".safetensors":
        return None
    metadata = read_metadata(file)
    return from_metadata(ClipHeader, metadata, file) if metadata.get("format") == CLIP_FORMAT else None


def load_weights(model: open_clip.CLIP, file: Path, name: str) -> None:
    """Load a file into a built CLIP, float32, the position grid resized to the model's (bicubic, antialiased).

    Raises:
        ModelInputError: a file that cannot be read or belongs to another architecture.
    """
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in _read_state(file).items()}
    try:
        _resize_positions(state, model)
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelInputError(
            f"expected {file} to hold the weights of {name}, got those of another architecture ({reason} ...); name "
            "the architecture that belongs to the file"
        ) from error


def fingerprint(model: open_clip.CLIP) -> str:
    """Twelve hexadecimal digits of the weights, the same for every image size (position grids are left out)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "positional_embedding" not in name:
            digest.update(name.encode() + parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read_state(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_tensors(file)[0]
    if file.suffix not in (*TORCH_SUFFIXES, ".bin"):
        raise ModelInputError(f"expected weights as .safetensors, .pt, .pth or .bin, got {file}")
    state = read_state(file, "the tensors of a CLIP")
    return {key: tensor for key, tensor in state.items() if key not in _NOT_WEIGHTS}


def _resize_positions(state: dict[str, Tensor], model: open_clip.CLIP) -> None:
    """open_clip's own resizing; it knows the grid of a ViT only, so a ResNet's attention pool is shown to it as one."""
    if not hasattr(model.visual, "attnpool"):
        resize_pos_embed(state, model)
        return
    key, side = "visual.attnpool.positional_embedding", model.visual.image_size // 32
    as_vit = {"visual.positional_embedding": state[key]}
    resize_pos_embed(as_vit, SimpleNamespace(visual=SimpleNamespace(grid_size=(side, side))))
    state[key] = as_vit["visual.positional_embedding"]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise ValueError("no embed_dim, vision_cfg and text_cfg in it")
    except (ValueError, TypeError) as error:
        raise ModelInputError(
            f"expected {file} to be an open_clip configuration with embed_dim, vision_cfg and text_cfg, got: {error}; "
            "compare it with models/weights/tiny/tiny_clip.json"
        ) from error
    return dict(config)
