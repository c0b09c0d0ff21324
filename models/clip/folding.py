"""A frozen EfficientNet with fewer operations: convolution, batch norm and activation as one."""

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.frozen import in_one_graph

ONE_CALL = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
"""Whether torch does convolution and ReLU6 in one pass over the CPU's memory: a third less time for the whole net."""


class FoldedConv(nn.Module):
    """A convolution with the batch norm after it in its weights, and the ReLU6 after that.

    Takes (B, C, H, W), best in channels-last memory. Padding is the convolution's own, TensorFlow's "same" included:
    where that adds a row more at the bottom than at the top, the kernel gets a row of zeros instead of a padded copy.
    """

    def __init__(self, conv: nn.Conv2d, norm: BatchNormAct2d):
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        self.padding = None if isinstance(conv, Conv2dSame) else [int(p) for p in conv.padding]
        self.act = norm.act

    def forward(self, x: Tensor) -> Tensor:
        """One pass in float32 on the CPU without gradients; otherwise torch's own convolution, then the activation."""
        weight: Tensor = self.weight
        padding = self.padding
        if padding is None:
            same = [self._same(x.shape[2 + axis], axis) for axis in (0, 1)]
            (top, bottom), (left, right) = same
            if in_one_graph():
                x, padding = F.pad(x, (left, right, top, bottom)), [0, 0]
            else:
                padding = [bottom, right]
                weight = F.pad(weight, (right - left, 0, bottom - top, 0))
        plain = isinstance(self.act, nn.Identity)
        quick = ONE_CALL and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
        if quick and (plain or isinstance(self.act, nn.ReLU6)) and not torch.is_grad_enabled() and not _elsewhere():
            then = ("none", [], "") if plain else ("hardtanh", [0.0, 6.0], "")
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, padding, self.stride, self.dilation, self.groups, *then
            )
        return self.act(F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups))

    def _same(self, size: int, axis: int) -> tuple[int, int]:
        """Zeros before and after one axis of `size`."""
        reach = (self.weight.shape[2 + axis] - 1) * self.dilation[axis] + 1
        total = max(0, (-(-size // self.stride[axis]) - 1) * self.stride[axis] + reach - size)
        return total // 2, total - total // 2


def fold_batch_norms(net: EfficientNet) -> None:
    """Let each convolution do what the batch norm and the activation after it do in evaluation mode; in place."""
    before: tuple[str, nn.Conv2d] | None = None
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name, module
        elif isinstance(module, BatchNormAct2d):
            assert before is not None
            net.set_submodule(before[0], FoldedConv(before[1], module))
            net.set_submodule(name, nn.Identity())


def _elsewhere() -> bool:
    """Whether the one pass would not be this CPU's own, in float32."""
    return torch.is_autocast_enabled("cpu") or in_one_graph()
