"""An ImageNet classifier of timm as a source of patch tokens, with the face of `ClipBackbone`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import FeatureListNet
from torch import Tensor, nn

from models.errors import ModelInputError
from models.features import ImageFeatures, increasing_stages
from models.frozen import Frozen, random_seed, seeded
from models.images import IMAGENET_MEAN, IMAGENET_STD, Preprocess, check_sides
from models.weights.catalogue import find_weights
from models.weights.state import read_state

STRIDES = (4, 8, 16, 32)
"""Of the stages 1 to 4."""
HUB = "timm"
"""In place of a weights file: let timm download its own default weights."""


class TimmBackbone(Frozen):
    """The chosen stages of a frozen net, and the mean over patches of its last stage as the image's embedding.

    Args:
        net: made by timm with `features_only=True`, its outputs being the stages 1 to 4.
        name: the architecture.
        image_size: side of the square that `preprocess` makes. The whole image goes in; there is no centre crop.
        stages: the stages to give, counted from 1 (stride 4).
        weights: the label of the weights.
    """

    is_convolutional = True
    stride = STRIDES[-1]
    precision = "float32"

    def __init__(
        self, net: nn.Module, *, name: str, image_size: int = 224, stages: Sequence[int] = (1, 2, 3, 4),
        weights: str = "unnamed",
    ):  # fmt: skip
        super().__init__()
        if image_size < STRIDES[-1] or image_size % STRIDES[-1]:
            raise ModelInputError(
                f"expected an image size that is a multiple of {STRIDES[-1]} pixels, got {image_size}"
            )
        self.net = net.requires_grad_(False)
        self.name = name
        self.weights = weights
        self.stages = increasing_stages(stages, len(STRIDES), name)
        self.image_size = image_size
        self.preprocess = Preprocess(image_size, IMAGENET_MEAN, IMAGENET_STD)
        self.eval()

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each chosen stage."""
        channels: Any = self.net.feature_info.channels()  # type: ignore[operator, union-attr]
        return tuple(channels[stage - 1] for stage in self.stages)

    @torch.no_grad()
    def encode_image(self, images: Tensor, *, deepest: int = 4) -> ImageFeatures:
        """One pass over (B, 3, H, W) preprocessed images, H and W multiples of 32.

        With `deepest` below 4, later stages are neither computed nor given, and the embedding is the mean over the
        patches of that stage.

        Raises:
            ModelInputError: images of another shape.
        """
        check_sides(images, self.stride)
        maps = self._maps(images, deepest)
        chosen = [maps[stage - 1] for stage in self.stages if stage <= deepest]
        grids = tuple((int(each.shape[2]), int(each.shape[3])) for each in chosen)
        stages = tuple(each.flatten(2).transpose(1, 2).float().contiguous() for each in chosen)
        return ImageFeatures(F.adaptive_avg_pool2d(maps[-1], 1).flatten(1).float(), stages, grids)

    def _maps(self, images: Tensor, deepest: int) -> list[Tensor]:
        """Stages 1 to `deepest`, each (B, C, h, w)."""
        if deepest >= 4 or not isinstance(self.net, FeatureListNet):
            maps: list[Tensor] = self.net(images)
            return maps[:deepest]
        found: list[Tensor] = []
        x = images
        for name, module in self.net.items():
            if len(found) == deepest:
                break
            x = module(x)
            if name in self.net.return_layers:
                found.append(x)
        return found


def load_timm_backbone(
    name: str, *, weights: str, image_size: int = 224, stages: Sequence[int] = (1, 2, 3, 4)
) -> TimmBackbone:
    """Build a ResNet of timm and load its weights, on the CPU.

    Args:
        name: timm's name of the architecture: wide_resnet50_2, resnet18, or another with stages of stride 4 to 32.
        weights: a path, a name of the weights catalogue, "random:SEED", or "timm" to let timm download its own.
        image_size: side of the input in pixels; 224 as published.
        stages: the stages to give.

    Raises:
        ModelInputError: an unknown name; a missing, damaged or foreign file.
    """
    net = load_net(name, weights)
    return TimmBackbone(net, name=name, image_size=image_size, stages=stages, weights=weights)


def load_net(name: str, weights: str, deepest: int = 4) -> FeatureListNet:
    """The stages 1 to `deepest` of a classifier of timm, on the CPU; the rest of it is dropped. Arguments as above.

    Raises:
        ModelInputError: an unknown name; a missing, damaged or foreign file.
    """
    seed = random_seed(weights)
    path = find_weights(weights) if seed is None and weights != HUB else None
    # What a file fills is not initialised in vain (1.3 s of a WideResNet50); ResNets have no buffers but the file's.
    storage = torch.device("meta" if path is not None and "resnet" in name else "cpu")
    with seeded(seed or 0), storage:
        net = _built(name, weights == HUB, deepest)
    if path is not None:
        _load(net, path, name)
    return net


def _built(name: str, pretrained: bool, deepest: int) -> FeatureListNet:
    try:
        outputs = tuple(range(1, deepest + 1))
        net: Any = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=outputs)
        strides = tuple(net.feature_info.reduction())
    except Exception as error:  # unknown names, nets without stages and failed downloads each raise their own kind
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelInputError(
            f"expected timm to build the stages of {name!r}, got: {reason}; use wide_resnet50_2 or resnet18, and check "
            "the connection if the weights are timm's own (or give the path of a file)"
        ) from error
    if strides != STRIDES[:deepest]:
        raise ModelInputError(
            f"expected a net with stages of stride 4, 8, 16 and 32, got {name!r} with {list(strides)}"
        )
    built: FeatureListNet = net
    return built


def _load(net: nn.Module, path: Path, name: str) -> None:
    """Take what the net has from a classifier's file; its head and later stages are not needed."""
    state = read_state(path, f"the weights of {name}")
    try:
        counter = torch.zeros((), dtype=torch.long)  # of batches seen in training, in some files only
        wanted = net.state_dict()
        missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
        if missing:
            raise KeyError(f"{missing[0]} and {len(missing) - 1} more tensors are missing")
        net.load_state_dict({key: state[key] if key in state else counter.clone() for key in wanted}, assign=True)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInputError(
            f"expected {path} to hold the weights of {name}, got a file that does not fit ({reason}); name the "
            "architecture that belongs to the file, or fetch the file again"
        ) from error
