"""Adapter checkpoints: ours (safetensors with a header) and the files of the APRIL-GAN authors (.pth)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models.clip.backbone import ClipBackbone
from models.clip_adapter.adapter import ADAPTER_FORMAT, Adapter, AdapterHeader, LinearAdapter
from models.clip_adapter.comparisons import COMPARISONS
from models.clip_adapter.context_adapter import ContextAdapter
from models.errors import ModelInputError
from models.frozen import seeded
from models.tensor_file import TORCH_SUFFIXES, from_metadata, read_tensors, to_metadata, write_tensors
from models.weights.catalogue import find_weights
from models.weights.state import read_state

PUBLISHED_KEY = "trainable_linearlayer"


def save_adapter(path: str | os.PathLike[str], adapter: Adapter, header: AdapterHeader) -> None:
    """Write the adapter and what is to be known of it as one safetensors file."""
    write_tensors(path, adapter.state_dict(), to_metadata(replace(header, kind=adapter.kind)))


def load_adapter(path: str | os.PathLike[str]) -> tuple[Adapter, AdapterHeader | None]:
    """Read an adapter, on the CPU, in evaluation mode, from a path or a name of the weights catalogue.

    The header is None for the authors' files, which have none; ours is also kept as `adapter.header`.

    Raises:
        ModelInputError: no such file, not an adapter, truncated, or not what it was when it was written.
    """
    file = find_weights(path)
    if file.suffix in TORCH_SUFFIXES:
        state, header = read_state(file, "the tensors of an adapter", (PUBLISHED_KEY,)), None
    else:
        state, metadata = read_tensors(file)
        header = _read_header(metadata, file)
    adapter: Adapter
    if header and header.kind == ContextAdapter.kind:
        adapter = _context_from_state(state, file)
    else:
        adapter = _linear_from_state(state, file)
    if not all(tensor.isfinite().all() for tensor in adapter.state_dict().values()):
        raise ModelInputError(f"expected finite numbers in {file}, got nan or infinite ones; train or fetch it again")
    adapter.header = header
    adapter.trained_on = header.trained_on if header else ()
    return adapter.eval(), header


def trained_adapter(path: str | os.PathLike[str], trained_on: Sequence[str] = ()) -> Adapter:
    """The adapter alone, as a model is built from; `trained_on` says for a file without header what it learnt from.

    Raises:
        ModelInputError: as `load_adapter`, and where `trained_on` contradicts the file's own header.
    """
    adapter, header = load_adapter(path)
    if trained_on and header and set(trained_on) != set(header.trained_on):
        raise ModelInputError(
            f"expected the adapter {path} to be trained on {', '.join(trained_on)}, but its header says "
            f"{', '.join(header.trained_on)}; leave trained_on empty for a file with a header"
        )
    if not header:
        adapter.trained_on = tuple(trained_on)
    return adapter


def check_adapter_fits(adapter: Adapter, backbone: ClipBackbone) -> None:
    """Refuse an adapter that was made for other tokens than these.

    Raises:
        ModelInputError: other widths; or the adapter's header says another backbone, stages, activation or weights.
    """
    if not isinstance(backbone, ClipBackbone) or not isinstance(adapter, Adapter):
        raise ModelInputError(
            f"expected a ClipBackbone and an adapter, got {type(backbone).__name__} and {type(adapter).__name__}; "
            "choose weights that have both, for example weights=tiny"
        )
    got: dict[str, Any] = {"stage widths": adapter.stage_widths, "embed_dim": adapter.embed_dim}
    expected: dict[str, Any] = {"stage widths": backbone.stage_widths, "embed_dim": backbone.embed_dim}
    if header := adapter.header:
        got |= {"backbone": header.backbone, "stages": header.stages, "activation": header.activation}
        expected |= {"backbone": backbone.name, "stages": backbone.stages, "activation": backbone.activation}
        if header.backbone_fingerprint:
            got["weights"], expected["weights"] = header.backbone_fingerprint, backbone.fingerprint
    if wrong := [key for key in expected if got[key] != expected[key]]:
        raise ModelInputError(
            "expected an adapter made for the backbone it is used with; "
            + "; ".join(f"{key}: the backbone has {expected[key]}, the adapter {got[key]}" for key in wrong)
            + "; choose the adapter that belongs to these weights, or set the backbone's name, stages and activation "
            "to the adapter's"
        )


def _read_header(metadata: Mapping[str, str], file: Path) -> AdapterHeader:
    if metadata.get("format") != ADAPTER_FORMAT:
        raise ModelInputError(
            f"expected {file} to be an adapter checkpoint (format {ADAPTER_FORMAT!r} in its header), got "
            f"{metadata.get('format', 'no format')!r}; name the adapter's file, not that of the encoder"
        )
    if metadata.get("deviation") == "true":
        raise ModelInputError(
            f"expected {file} to be an adapter of tokens, got one that an older version trained with deviation=true; "
            "train it again"
        )
    return from_metadata(AdapterHeader, metadata, file)


def _linear_from_state(state: Mapping[str, Tensor], file: Path) -> LinearAdapter:
    """The adapter whose sizes the tensors have: `fc.{n}.weight` (D, C_n) and `fc.{n}.bias` (D,), n from 0."""
    num_stages = max(1, len({name.split(".")[1] for name in state if name.startswith("fc.")}))
    wanted = {f"fc.{n}.{part}" for n in range(num_stages) for part in ("weight", "bias")}
    if set(state) != wanted:
        missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
        raise ModelInputError(
            f"expected {file} to hold the tensors fc.0.weight, fc.0.bias, fc.1.weight and so on, without a gap (the "
            f"published APRIL-GAN adapters have them under {PUBLISHED_KEY!r}); missing: "
            f"{', '.join(missing[:6]) or 'none'}, found besides: {', '.join(extra[:6]) or 'none'}; name a file of "
            "adapters, not of a whole CLIP"
        )
    weights = [state[f"fc.{n}.weight"] for n in range(num_stages)]
    shapes = [tuple(weight.shape) for weight in weights]
    biases = [tuple(state[f"fc.{n}.bias"].shape) for n in range(num_stages)]
    if any(len(shape) != 2 for shape in shapes) or set(biases) != {(shapes[0][0],)} or len({s[0] for s in shapes}) != 1:
        raise ModelInputError(
            f"expected {file} to hold weights (D, C) and biases (D,) of one D, got weights {shapes} and biases {biases}"
        )
    with seeded(0):
        adapter = LinearAdapter([shape[1] for shape in shapes], shapes[0][0])
    adapter.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return adapter


def _context_from_state(state: Mapping[str, Tensor], file: Path) -> ContextAdapter:
    """The context adapter whose sizes the tensors have.

    Raises:
        ModelInputError: tensors are missing, too many, or of sizes that do not fit together.
    """
    try:
        read = [state[f"read.{n}.weight"].shape for n in range(sum(name.startswith("read.") for name in state) // 2)]
        compared = sum(name.startswith("compare.") for name in state) // 2
        widths = [(columns - COMPARISONS * (n < compared)) // 2 for n, (_, columns) in enumerate(read)]
        with seeded(0):
            adapter = ContextAdapter(widths, len(state["out.weight"]), hidden=read[0][0])
        adapter.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelInputError(
            f"expected {file} to hold the tensors of a context adapter, got others ({reason}); train it again, or name "
            "another file"
        ) from error
    return adapter
