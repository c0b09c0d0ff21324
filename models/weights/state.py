"""The tensors of a weights file, whoever wrote it: safetensors or PyTorch's, plain or nested; nothing in it is run."""

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.errors import ModelInputError

NESTS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Keys under which training scripts keep the tensors beside epochs, optimisers and settings."""
PREFIX = "module."
"""What DataParallel puts before every name."""
TEXT_BYTES = 200


def read_state(file: Path, what: str, nests: Sequence[str] = ()) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU; from the innermost of the keys `nests` and `NESTS` that hold them.

    `what` says in an error what was expected of the file.

    Raises:
        ModelInputError: a file that cannot be read, or that holds no named tensors.
    """
    try:
        content = _content(file)
    except Exception as error:  # torch and safetensors raise nearly anything on a file that is not one of their own
        raise ModelInputError(
            f"expected {file} to hold {what}, but it cannot be read ({_reason(file, error)}); fetch it again"
        ) from error
    try:
        tensors = _named_tensors(content, (*nests, *NESTS))
    except ValueError as error:
        raise ModelInputError(
            f"expected {file} to hold {what}, got {error}; name a file that holds tensors by their names (a state_dict)"
        ) from error
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if _is_torchscript(file):  # how OpenAI publishes
        return torch.jit.load(file, map_location="cpu").state_dict()
    with warnings.catch_warnings(action="ignore"):  # of old pickles, which are read or refused all the same
        return torch.load(file, map_location="cpu", weights_only=True)


def _named_tensors(content: Any, nests: Sequence[str]) -> dict[str, Tensor]:
    """What of a file's content is a tensor by name.

    Raises:
        ValueError: nothing is; says what there is instead.
    """
    if not isinstance(content, Mapping):
        raise ValueError("one tensor without a name" if isinstance(content, Tensor) else f"a {type(content).__name__}")
    for key in nests:
        if isinstance(content.get(key), Mapping):
            return _named_tensors(content[key], nests)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        return tensors
    keys = ", ".join(str(key) for key in list(content)[:5])
    raise ValueError(f"a dictionary of {f'the keys {keys}' if keys else 'nothing'}, none of them a tensor")


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _reason(file: Path, error: Exception) -> str:
    """Why a file cannot be read, as far as it shows; torch's own words are advice on how to run what is in it."""
    with file.open("rb") as opened:
        head = opened.read(TEXT_BYTES)
    if not head:
        return "it is empty"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, which stands for the file: git lfs pull brings it"
    if _is_text(head):
        return f"it is text: {head[:40].decode(errors='replace').splitlines()[0]!r}"
    if "Unsupported" in str(error) or "GLOBAL" in str(error):
        return "it holds Python objects that are no tensors, and what would make them is never run"
    return "it is truncated or damaged, or of another kind"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t" for character in text)
