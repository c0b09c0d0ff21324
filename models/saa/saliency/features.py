"""Features for the saliency prompt (SAA+ Eq. 5): what a frozen net sees at each patch of an image."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.backbone import ClipBackbone, fused_attention
from models.features import increasing_stages
from models.frozen import Frozen, autocast
from models.imagenet.backbone import load_net
from models.images import IMAGENET_MEAN, IMAGENET_STD, normalised, resized

DEEPEST = 3
"""Stage of WideResNet50 up to which features are taken."""


class FeatureNet(Protocol):
    """A frozen net that reads images."""

    def features(self, images: Tensor, size: int) -> Tensor:
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


class WideResNetFeatures(Frozen):
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
    def features(self, images: Tensor, size: int) -> Tensor:
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
    net = load_net("wide_resnet50_2", weights, DEEPEST)
    return WideResNetFeatures(net, weights=weights, antialias=antialias)


class ClipFeatures(nn.Module):
    """Joined stages of a frozen CLIP's image tower: no third net. Not the published SAA+, which takes a WideResNet50.

    A convolutional net reads images at any size; a ViT always at its own, whatever is asked for.

    Args:
        backbone: the CLIP; may be shared with other parts of a model.
        stages: layers of a convolutional net or blocks of a ViT, counted from 1, increasing; by default the backbone's.
        antialias: whether resizing averages over what it leaves out.
    """

    def __init__(self, backbone: ClipBackbone, stages: Sequence[int] | None = None, *, antialias: bool = True):
        super().__init__()
        chosen = backbone.stages if stages is None else stages
        self.backbone = backbone
        self.stages = increasing_stages(chosen, backbone.num_stages, backbone.name)
        self.antialias = antialias

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.backbone.widths(self.stages)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with these features."""
        backbone = self.backbone
        own_size = "" if backbone.is_convolutional else f", always at {backbone.image_size} px"
        resized_by = "bilinear, averaging" if self.antialias else "bilinear"
        return {
            "saliency_features": f"CLIP {backbone.name}, stages {' '.join(map(str, self.stages))} joined at the "
            f"first's size, resized {resized_by}{own_size}",
            "saliency_weights": backbone.weights,
            "saliency_precision": backbone.precision,
        }

    @torch.no_grad()
    def features(self, images: Tensor, size: int) -> Tensor:
        """(B, 3, h, w) uint8 RGB to (B, sum C_n, h', w') float32."""
        backbone, statistics = self.backbone, self.backbone.preprocess
        images = images.to(next(backbone.parameters()).device)
        pixels = resized(images, size if backbone.is_convolutional else backbone.image_size, antialias=self.antialias)
        pixels = normalised(pixels, statistics.mean, statistics.std)
        with fused_attention(), autocast(images.device, backbone.precision):
            return joined(self._stages(pixels))

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        convolutional = self.backbone.is_convolutional
        output = self.backbone.clip.visual.forward_intermediates(
            pixels,
            indices=[stage if convolutional else stage - 1 for stage in self.stages],  # there index 0 is the stem
            stop_early=not convolutional,  # a ResNet of open_clip 3.3 stops early unless told to
            intermediates_only=True,
            output_fmt="NCHW",
        )
        return output["image_intermediates"]


def joined(stages: Sequence[Tensor]) -> Tensor:
    """(B, C_n, h_n, w_n) stages to (B, sum C_n, h_1, w_1), each at the size of the first by its nearest value."""
    size = stages[0].shape[2:]
    return torch.cat([F.interpolate(stage.float(), size, mode="nearest") for stage in stages], dim=1)
