"""Features for the saliency prompt (SAA+ Eq. 5): what a frozen net sees at each place of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelInputError
from models.seeded import seeded
from models.weights.registry import find_weights
from models.weights.state import read_state

RANDOM_PREFIX = "random:"
HUB = "timm"
"""In place of a weights file: let timm download its own default weights."""
STAGES = (1, 2, 3)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Size = int | tuple[int, int]
"""Side of a square, or (height, width)."""


class FeatureNet(Protocol):
    """A frozen net that reads images."""

    def features(self, images: Tensor, size: Size) -> Tensor:
        """(B, 3, h, w) uint8 RGB to (B, C, h', w') float32: the stages, raw, joined at the size of the first.

        Images are resized to `size` first, whatever their shape.
        """
        ...

    @property
    def stage_widths(self) -> Sequence[int]:
        """Channels of each stage, which add up to C."""
        ...

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this net must carry."""
        ...


class WideResNetFeatures(nn.Module):
    """WideResNet50 up to its third stage: strides 4, 8, 16 and 256, 512, 1024 channels.

    Args:
        net: timm's `wide_resnet50_2` made with `features_only=True, out_indices=(1, 2, 3)`.
        weights: the label of the weights.
        antialias: whether resizing averages over what it leaves out. The published code's does not.
    """

    def __init__(self, net: nn.Module, *, weights: str = "unnamed", antialias: bool = False):
        super().__init__()
        self.net = net.requires_grad_(False)
        self.weights = weights
        self.antialias = antialias
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.net.feature_info.channels())  # type: ignore[operator, union-attr]

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with these features."""
        resized = "bilinear, averaging" if self.antialias else "bilinear"
        return {
            "saliency_features": f"wide_resnet50_2, stages 1 2 3 joined at the first's size, resized {resized}",
            "saliency_weights": self.weights,
        }

    @torch.no_grad()
    def features(self, images: Tensor, size: Size) -> Tensor:
        """(B, 3, h, w) uint8 RGB to (B, 1792, size/4, size/4) float32."""
        images = images.to(next(self.net.parameters()).device)
        pixels = normalised(resized(images, size, antialias=self.antialias), IMAGENET_MEAN, IMAGENET_STD)
        return joined(self.net(pixels))


def load_wide_resnet(weights: str, *, antialias: bool = False) -> WideResNetFeatures:
    """WideResNet50 features on the CPU.

    Args:
        weights: a path, a name of the weights catalogue (wide_resnet50_2), "random:SEED", or "timm" to let timm
            download its own.
        antialias: as for `WideResNetFeatures`.

    Raises:
        ModelInputError: a missing, damaged or foreign file.
    """
    if weights.startswith(RANDOM_PREFIX) and not weights.removeprefix(RANDOM_PREFIX).isdigit():
        raise ModelInputError(f"expected random weights with a whole number as seed, like random:0, got {weights!r}")
    seed = int(weights.removeprefix(RANDOM_PREFIX)) if weights.startswith(RANDOM_PREFIX) else 0
    path = None if weights == HUB or weights.startswith(RANDOM_PREFIX) else find_weights(weights)
    storage = torch.device("meta" if path else "cpu")  # what a file fills is not initialised in vain
    with seeded(seed), storage:
        net = timm.create_model("wide_resnet50_2", pretrained=weights == HUB, features_only=True, out_indices=STAGES)
    if path is not None:
        _load(net, str(path))
    return WideResNetFeatures(net, weights=weights, antialias=antialias)


def _load(net: nn.Module, path: str) -> None:
    """Take what the net has from a classifier's file, whose last stage and head are not needed."""
    state = read_state(Path(path), "the weights of wide_resnet50_2")
    try:
        wanted = net.state_dict()
        missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
        if missing:
            raise KeyError(f"{missing[0]} and {len(missing) - 1} more tensors are missing")
        counter = torch.zeros((), dtype=torch.long)  # of batches seen in training, in some files only
        net.load_state_dict({name: state.get(name, counter) for name in wanted}, assign=True)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInputError(
            f"expected {path} to hold the weights of wide_resnet50_2, got a file that does not fit ({reason}); name "
            "another file, or fetch wide_resnet50_2 of the weights catalogue"
        ) from error


def resized(images: Tensor, size: Size, *, antialias: bool) -> Tensor:
    """(B, 3, h, w) uint8 to the size, bilinear: float32 of whole numbers 0 to 255, as an 8 bit resize gives them."""
    target = (size, size) if isinstance(size, int) else size
    pixels = images.float()
    if pixels.shape[2:] != target:
        pixels = F.interpolate(pixels, target, mode="bilinear", align_corners=False, antialias=antialias)
    return pixels.round().clamp(0, 255)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, h, w) of 0 to 255, to 0 to 1, less the mean and over the deviation of each channel."""
    middle, deviation = pixels.new_tensor(mean).view(3, 1, 1), pixels.new_tensor(std).view(3, 1, 1)
    return (pixels / 255 - middle) / deviation


def joined(stages: Sequence[Tensor]) -> Tensor:
    """(B, C_n, h_n, w_n) stages to (B, sum C_n, h_1, w_1), each at the size of the first by its nearest value."""
    size = stages[0].shape[2:]
    return torch.cat([F.interpolate(stage.float(), size, mode="nearest") for stage in stages], dim=1)
