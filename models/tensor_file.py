"""Safetensors files with a header of ours: written whole or not at all, checked before they are believed."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.disk import replaced
from models.errors import ModelInputError

METADATA = "__metadata__"
DIGEST_KEY = "tensors_sha256"
TORCH_SUFFIXES = (".pth", ".pt")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
Header = TypeVar("Header")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and string metadata, with a digest of the tensors, in one atomic step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replaced(path) as part:
        save_file(state, part, {**metadata, DIGEST_KEY: tensors_digest(state)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors on the CPU and the metadata of a safetensors file.

    Raises:
        ModelInputError: not a safetensors file, truncated, or tensors that do not match the file's own digest.
    """
    metadata = read_metadata(path)
    try:
        state = load_file(path)
    except (SafetensorError, KeyError) as error:  # the latter: a type that torch has not
        raise ModelInputError(
            f"expected {path} to be a safetensors file, got one that cannot be read ({error}); copy or fetch it again"
        ) from error
    expected = metadata.get(DIGEST_KEY)
    if expected is not None and expected != tensors_digest(state):
        raise ModelInputError(
            f"expected the tensors of {path} to have the digest in its header, {expected}, got another: the file was "
            "changed or damaged after it was written; copy or fetch it again"
        )
    return state, metadata


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_metadata(header: Any) -> dict[str, str]:
    """A dataclass as string metadata: strings as they are, everything else as JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(header).items()}


def from_metadata(kind: type[Header], metadata: Mapping[str, str], path: Path) -> Header:
    """The dataclass that `to_metadata` wrote; keys it does not know are ignored.

    Raises:
        ModelInputError: a field without default is missing, or does not parse.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in metadata:
            if field.default is MISSING:
                raise ModelInputError(
                    f"expected the header of {path} to say {field.name!r}, found {', '.join(sorted(metadata)) or 'no'}"
                    " entries; the file was not written by this project or by another version of it: train it again"
                )
            continue
        text = metadata[field.name]
        try:
            value = text if field.type is str else json.loads(text)
            if not _fits(value, field.type):
                raise ValueError(f"not {field.type}")
        except ValueError as error:
            raise ModelInputError(
                f"expected {field.name!r} in the header of {path} to be JSON of its kind, got {text!r}; train or fetch "
                "it again"
            ) from error
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's kind: str, int, float, bool, None, a tuple or an alternative."""
    if arguments := get_args(kind):
        if get_origin(kind) is tuple:
            return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
        return any(_fits(value, argument) for argument in arguments)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata, after the sizes in the file's own table were compared with the size of the file.

    Raises:
        ModelInputError: not a safetensors file, or of another size than its own table says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, MAX_HEADER_BYTES))
    if not text.startswith(b"{") or length > MAX_HEADER_BYTES:
        raise ModelInputError(
            f"expected {path} to be a safetensors file, got {size:,} bytes that do not begin like one; give a "
            ".safetensors file, or a PyTorch checkpoint with its suffix .pth or .pt"
        )
    end = 8 + length
    table = {} if size < end else _table(text, path)
    end += max((entry["data_offsets"][1] for name, entry in table.items() if name != METADATA), default=0)
    if size != end:
        kind = "is truncated" if size < end else "has something appended"
        raise ModelInputError(
            f"expected {path} to have {end:,} bytes by its own header, got {size:,}: the file {kind}; copy or "
            "fetch it again"
        )
    return dict(table.get(METADATA, {}))


def _table(text: bytes, path: Path) -> dict[str, Any]:
    try:
        table = dict(json.loads(text))
        ends = [entry["data_offsets"][1] for name, entry in table.items() if name != METADATA]
        texts = list(dict(table.get(METADATA, {})).values())
        if not all(isinstance(end, int) for end in ends) or not all(isinstance(each, str) for each in texts):
            raise ValueError("an entry of another kind")
    except (ValueError, TypeError, LookupError) as error:
        raise ModelInputError(
            f"expected {path} to be a safetensors file, got one whose header does not parse; copy or fetch it again"
        ) from error
    return table
