"""Imports of other libraries' heavy parts that nothing here needs: open_clip, timm and torchvision come without them.

* open_clip imports transformers for text towers of Hugging Face's, which `models.clip.weights` refuses. It is
  imported as if transformers were not installed; who wants those towers too imports open_clip, or
  transformers, before this package.
* torchvision and timm import torch's compiler, and with it sympy and triton, for a question that region pooling asks
  when it is called, and to mark functions that are not to be compiled. The question is asked and the mark is
  set all the same, once those functions are called.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


def import_lean() -> None:
    """Import torchvision, timm and open_clip without what nothing here needs; what somebody imported before stays."""
    compiler, questions = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    compiler.disable = _disable  # type: ignore[attr-defined]
    questions.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    if COMPILER not in sys.modules:
        with _in_place({COMPILER: compiler, questions.__name__: questions}):
            import timm  # noqa: F401
            import torchvision  # noqa: F401
    if not {"open_clip", "transformers"} & set(sys.modules):
        with _in_place({"transformers": None}):
            import open_clip  # noqa: F401


def _disable(function: Callable[..., Any], recursive: bool = True, **_: Any) -> Any:
    return torch._disable_dynamo(function, recursive)  # torch's own, which waits for the call


def _is_compile_supported(device_type: Any) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


@contextmanager
def _in_place(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """While imports run, modules that stand in for others; None is one that is not installed."""
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
