"""Checkpoints of class vectors: safetensors with the header that adapters have, under a format of their own."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.clip.weights import fingerprint
from models.clip_adapter.adapter import AdapterHeader
from models.errors import ModelInputError
from models.features import PatchBackbone
from models.tensor_file import from_metadata, read_tensors, to_metadata, write_tensors
from models.vector_adapter.vectors import ClassVectors, random_vectors
from models.weights.catalogue import find_weights

VECTORS_FORMAT = "vandkit-vector-adapter-1"
NAME_OTHERS = (
    "model.adapter.path=FILE (clip_adapter: with weights.vectors=FILE, or model.vectors=null for maps without)"
)


def save_vectors(path: str | os.PathLike[str], vectors: ClassVectors, header: AdapterHeader) -> None:
    """Write the vectors and what is to be known of them as one safetensors file."""
    write_tensors(path, vectors.state_dict(), to_metadata(replace(header, format=VECTORS_FORMAT, kind=vectors.kind)))


def trained_vectors(path: str | os.PathLike[str] | None) -> ClassVectors:
    """Vectors on the CPU, in evaluation mode, from a path or a name of the weights catalogue; with their `header`.

    Raises:
        ModelInputError: none for these weights; no such file; not vectors, truncated, or changed since it was written.
    """
    if path is None:
        raise ModelInputError(
            "expected vectors that were trained on these weights, and none come with them; train some with `make train "
            f'ARGS="model=vector_adapter ..."` and name the file with {NAME_OTHERS}'
        )
    file = find_weights(path)
    state, metadata = read_tensors(file)
    if metadata.get("format") != VECTORS_FORMAT:
        raise ModelInputError(
            f"expected {file} to be a checkpoint of class vectors (format {VECTORS_FORMAT!r} in its header), got "
            f"{metadata.get('format', 'no format')!r}; name a file that `make train` with model=vector_adapter wrote"
        )
    vectors = _from_state(state, file)
    vectors.header = from_metadata(AdapterHeader, metadata, file)
    vectors.trained_on = vectors.header.trained_on
    return vectors.eval()


def made_for(backbone: PatchBackbone) -> dict[str, Any]:
    """What a header says of the encoder: name, stages, activation if it has a choice, and digits of its weights."""
    digits = getattr(backbone, "fingerprint", None)
    if digits is None:
        assert isinstance(backbone, nn.Module)
        digits = fingerprint(backbone)
    return {
        "backbone": backbone.name,
        "stages": backbone.stages,
        "activation": getattr(backbone, "activation", ""),
        "backbone_fingerprint": digits,
    }


def embedding_width(backbone: PatchBackbone) -> int:
    """Channels D of the image's embedding; where the encoder does not say, it is shown an empty image."""
    known = getattr(backbone, "embed_dim", None)
    if known is not None:
        return int(known)
    assert isinstance(backbone, nn.Module)
    weights = next(backbone.parameters())
    empty = torch.zeros(1, 3, backbone.image_size, backbone.image_size, device=weights.device)
    return int(backbone.encode_image(empty).embedding.shape[1])


def check_vectors_fit(vectors: ClassVectors, backbone: PatchBackbone) -> None:
    """Refuse vectors that were made for other tokens than these.

    Raises:
        ModelInputError: other widths; or the header says another encoder, stages, activation or weights.
    """
    if not isinstance(vectors, ClassVectors):
        raise ModelInputError(
            f"expected class vectors, got {type(vectors).__name__}; build them with `trained_vectors`, or name such a "
            "file with model.adapter.path=FILE"
        )
    expected: dict[str, Any] = {"stage widths": backbone.stage_widths, "embedding": embedding_width(backbone)}
    got: dict[str, Any] = {"stage widths": vectors.stage_widths, "embedding": vectors.embed_dim}
    if header := vectors.header:
        expected |= made_for(backbone)
        got |= {name: getattr(header, name) for name in made_for(backbone)}
    if wrong := [name for name in expected if got[name] != expected[name]]:
        raise ModelInputError(
            "expected vectors made for the encoder that they are used with; "
            + "; ".join(f"{name}: the encoder has {expected[name]}, the vectors {got[name]}" for name in wrong)
            + f"; name vectors that were trained on these weights with {NAME_OTHERS}"
        )


def _from_state(state: Mapping[str, Tensor], file: Path) -> ClassVectors:
    """Vectors of the sizes that the tensors have."""
    stages = sum(name.startswith("pixel.") for name in state)
    try:
        widths = [state[f"pixel.{n}"].shape[1] for n in range(stages)]
        vectors = random_vectors(widths, state["image"].shape[1])
        vectors.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelInputError(
            f"expected {file} to hold pixel.0 (2, C), pixel.1 and so on, image (2, D) and log_scales (2,), got others "
            f"({reason}); train it again, or name another file"
        ) from error
    if not all(tensor.isfinite().all() for tensor in vectors.state_dict().values()):
        raise ModelInputError(f"expected finite numbers in {file}, got nan or infinite ones; train or fetch it again")
    return vectors
