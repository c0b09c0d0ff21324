"""A model as a file of ONNX, OpenVINO or TorchScript."""

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.base import State
from models.one_graph import OneGraph, varying
from tracks.errors import TrackInputError

FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch"}
"""And the runtime of each."""
PRECISIONS = ("float32", "float16", "int8", "int8_weights")
"""Those below float32 of OpenVINO alone; int8 is calibrated on the references, int8_weights needs none."""
OUTPUTS = ("maps", "scores")


def check_format(kind: str, precision: str, references: int) -> None:
    """Refuse what cannot be written, and name the packages that are missing for what can.

    Raises:
        TrackInputError: a format or a precision that there is not, or not together; a missing package.
    """
    if kind not in FORMATS:
        raise TrackInputError(f"expected format to be one of {', '.join(FORMATS)}, got {kind!r}")
    if precision not in PRECISIONS or (precision != "float32" and kind != "openvino"):
        raise TrackInputError(
            f"expected precision to be float32 for format={kind}, or one of {', '.join(PRECISIONS)} with "
            f"format=openvino, got {precision!r}"
        )
    if precision == "int8" and not references:
        raise TrackInputError(
            "expected a product for precision=int8, which is calibrated on the references, got none; give "
            "product=file, or use precision=int8_weights"
        )
    needed = [] if kind == "torchscript" else ["onnx", "onnxscript", FORMATS[kind]]
    for name in [*needed, *(["nncf"] if precision.startswith("int8") else [])]:
        _extra(name)


def write_network(
    graph: OneGraph, images: Tensor, state: State, folder: Path, kind: str, precision: str = "float32",
    calibration: Sequence[Tensor] = (),
) -> str:  # fmt: skip
    """Write a graph, traced on images (B >= 2, 3, S, S) and a state, into a folder; returns the file's name.

    `calibration` are images (3, S, S) that show which values int8 has to hold.
    """
    graph = graph.eval()
    with torch.no_grad():
        graph(images, state)  # what is cached by size is then no part of the graph's making
    if kind == "torchscript":
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # on sizes that are constants, which all but the batch are
            torch.jit.trace(graph, (images, state), check_trace=False).save(str(folder / "model.pt"))
        return "model.pt"
    _write_onnx(graph, images, state, folder / "model.onnx")
    if kind == "onnx":
        return "model.onnx"
    _write_openvino(folder / "model.onnx", state, precision, calibration)
    (folder / "model.onnx").unlink()
    return "model.xml"


def _write_onnx(graph: OneGraph, images: Tensor, state: State, path: Path) -> None:
    """By torch's exporter of `torch.export` programs; batch and number of references stay open."""
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {name: {d: dynamic for d in varying(name) if each.shape[d] > 1} for name, each in state.items()}
    with warnings.catch_warnings(), _one_precision(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, on its own parts
        program = torch.export.export(
            graph, (images, state), dynamic_shapes={"images": {0: dynamic}, "state": sizes}, strict=False
        )
        written = torch.onnx.export(
            program, dynamo=True, input_names=["images", *state], output_names=list(OUTPUTS), verbose=False
        )
    assert written is not None
    written.save(str(path), external_data=False)


def _write_openvino(onnx: Path, state: State, precision: str, calibration: Sequence[Tensor]) -> None:
    openvino = _extra("openvino")
    model = openvino.Core().read_model(onnx)
    known = {name for each in model.inputs for name in each.names}
    if precision.startswith("int8"):
        nncf = _extra("nncf")
        # The network alone: comparisons with references, and what is made of them, keep their digits.
        kept = nncf.IgnoredScope(
            types=["MatMul", "Multiply", "Add", "Subtract", "Divide", "Interpolate"], validate=False
        )
        if precision == "int8_weights":
            model = nncf.compress_weights(model, ignored_scope=kept)
        else:
            given = {name: tensor.numpy() for name, tensor in state.items() if name in known}
            model = nncf.quantize(
                model,
                nncf.Dataset(list(calibration), lambda image: {"images": image[None].numpy(), **given}),
                subset_size=len(calibration),
                ignored_scope=kept,
            )
    openvino.save_model(model, onnx.with_suffix(".xml"), compress_to_fp16=precision == "float16")


@contextlib.contextmanager
def _one_precision() -> Iterator[None]:
    """`torch.export` asks cuDNN for one answer to whether it rounds to TF32."""
    backend: Any = torch.backends.cudnn
    before, backend.conv.fp32_precision = backend.conv.fp32_precision, backend.rnn.fp32_precision
    try:
        yield
    finally:
        backend.conv.fp32_precision = before


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrackInputError(
            f"expected the package {name} for this format, which is not installed; `pip install 'vandkit[export]'`"
        ) from error
