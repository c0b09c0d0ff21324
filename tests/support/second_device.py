"""A device that this machine lacks: its tensors lie on the processor, but meet others' only as those of a GPU would.

Within `second_device()` all that PyTorch does goes through `_run`, which does it on the processor and complains as CUDA
does where tensors of two devices meet. Rounding is the processor's; precision, memory and speed of a GPU are not shown.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
TAKES_BOTH = {aten.copy_.default, aten._to_copy.default}
INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
"""Where indices may lie on the processor though what they pick from does not, but not the other way round."""


class _Elsewhere(Tensor):
    """A tensor of the second device; `held` is what it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Elsewhere":
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor):
        self.held = held

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.held!r} elsewhere"

    def tolist(self) -> Any:
        """Its values, which PyTorch itself does not give of a class of one's own."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class second_device(TorchDispatchMode):
    """Within it there is a second device, `DEVICE`; for machines without a GPU."""

    def __enter__(self) -> Any:
        torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, where there is no GPU
        torch._C._set_only_lift_cpu_tensors(True)  # new ones are made on the processor and moved through here
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # by tensors of another class
        self._before = torch.cuda._lazy_init, torch.backends.cudnn.enabled
        torch.cuda._lazy_init, torch.backends.cudnn.enabled = lambda: None, False
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.cuda._lazy_init, torch.backends.cudnn.enabled = self._before
        return super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check(func, args, tensors)
    wanted = kwargs.get("device")
    there = wanted.type == DEVICE.type if wanted is not None else any(isinstance(each, _Elsewhere) for each in tensors)
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    given = {id(each.held): each for each in tensors if isinstance(each, _Elsewhere)}
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not there:
            return value
        return given.get(id(value)) if id(value) in given else _Elsewhere(value)

    return args[0] if func in TAKES_BOTH and func is not aten._to_copy.default else tree_map(placed, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Elsewhere) else value


def _check(func: Any, args: Any, tensors: Iterable[Tensor]) -> None:
    """Raise what CUDA raises where tensors of two devices meet; a number on the processor may meet any."""
    if func in TAKES_BOTH:
        return
    if func in INDEXED:
        tensors = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        if isinstance(args[0], _Elsewhere):
            tensors = [args[0], *(each for each in args[2:3] if isinstance(each, Tensor))]
    kinds = {isinstance(each, _Elsewhere) for each in tensors if each.ndim or isinstance(each, _Elsewhere)}
    if len(kinds) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two in {func}")
