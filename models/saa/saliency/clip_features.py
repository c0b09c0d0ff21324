"""The stages of a CLIP image tower as features for the saliency prompt: no third net, no further weights.

Not the published SAA+, which takes a WideResNet50.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip.backbone import ClipBackbone, fused_attention
from models.features import increasing_stages
from models.frozen import autocast
from models.images import Size, normalised, resized
from models.saa.saliency.features import joined


class ClipFeatures(nn.Module):
    """Joined stages of a frozen CLIP.

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
    def features(self, images: Tensor, size: Size) -> Tensor:
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
