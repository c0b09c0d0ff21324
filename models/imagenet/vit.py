"""A vision transformer of timm as a source of patch tokens at any resolution, with the face of `ClipBackbone`.

DINOv2 with and without registers, DINOv3, and the image towers of SigLIP2 and CLIP, by timm's names for them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import eva, vision_transformer
from torch import Tensor

from models.errors import ModelInputError
from models.features import ImageFeatures, increasing_stages
from models.frozen import Frozen, autocast, check_precision, random_seed, seeded
from models.imagenet.backbone import HUB
from models.images import Preprocess, check_sides
from models.weights.catalogue import announce, find_weights
from models.weights.state import read_state

FREE = ("apache-2.0", "mit", "bsd-3-clause")
"""Licences, as timm writes them, that ask nothing of whoever only runs the weights."""


class VitBackbone(Frozen):
    """Patch tokens of chosen blocks of a frozen ViT, class token and registers dropped.

    The image's embedding is the class token of the last block after the final norm; of a net without one (SigLIP), what
    its own pooling gives.

    Args:
        net: a ViT of timm without a head, made with `dynamic_img_size`.
        name: the architecture.
        image_size: side of the square that `preprocess` makes; `encode_image` takes any multiples of the patch.
        stages: blocks whose tokens to give, counted from 1; None for the last.
        final_norm: whether the net's final norm is applied to the tokens of each of them.
        precision: "float32", or "bfloat16" or "float16" for autocast.
        weights: the label of the weights.
    """

    is_convolutional = False

    def __init__(
        self, net: Any, *, name: str, image_size: int, stages: Sequence[int] | None = None,
        final_norm: bool = False, precision: str = "float32", weights: str = "unnamed",
    ):  # fmt: skip
        super().__init__()
        self.net = net.requires_grad_(False)
        self.name = name
        self.weights = weights
        self.stride = int(net.patch_embed.patch_size[0])
        self.image_size = check_side(image_size, self.stride)
        self.num_stages = len(net.blocks)
        self.stages = increasing_stages(stages or [self.num_stages], self.num_stages, name)
        self.final_norm = bool(final_norm)
        self.precision = check_precision(precision)
        pixels = net.pretrained_cfg
        self.preprocess = Preprocess(image_size, tuple(pixels["mean"]), tuple(pixels["std"]))
        self.eval()

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each chosen block: those of all."""
        return (int(self.net.embed_dim),) * len(self.stages)

    @torch.no_grad()
    def encode_image(self, images: Tensor, *, deepest: int | None = None) -> ImageFeatures:
        """One pass over (B, 3, H, W) preprocessed images, H and W multiples of the patch.

        With `deepest`, later blocks are neither computed nor given, and the embedding is of that block.

        Raises:
            ModelInputError: images of another shape.
        """
        check_sides(images, self.stride)
        wanted = [stage for stage in self.stages if stage <= (deepest or self.num_stages)]
        indices = [*(stage - 1 for stage in wanted), (deepest or self.num_stages) - 1]
        with autocast(images.device, self.precision):
            last, tokens = self.net.forward_intermediates(
                images, indices=sorted(set(indices)), norm=self.final_norm, stop_early=True, output_fmt="NLC"
            )
            embedding = last[:, 0] if self.net.cls_token is not None else self.net.forward_head(last, pre_logits=True)
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        stages = tuple(each.float().contiguous() for each in tokens[: len(wanted)])
        return ImageFeatures(embedding.float(), stages, (grid,) * len(stages))


def load_vit(
    name: str, *, weights: str, image_size: int | None = None, stages: Sequence[int] | None = None,
    final_norm: bool = False, precision: str = "float32", net: dict[str, Any] | None = None,
) -> VitBackbone:  # fmt: skip
    """Build a ViT of timm and load its weights, on the CPU.

    Args:
        name: timm's name: vit_small_patch14_dinov2, vit_large_patch14_reg4_dinov2, vit_base_patch16_dinov3,
            vit_base_patch16_siglip_224, vit_large_patch14_clip_quickgelu_336 and their like.
        weights: a path (timm's layout, or the authors' own of DINOv2 and CLIP), a name of the weights catalogue,
            "random:SEED", or "timm" to let timm download its own (then `name` may have a tag: .lvd1689m, .v2_webli).
        image_size: side of the square input; None for that of the weights.
        stages: blocks to give, counted from 1; None for the last.
        final_norm: whether the final norm is applied to their tokens.
        precision: "float32", "bfloat16" or "float16".
        net: further arguments of the architecture (depth, embed_dim ...), for small nets of one's own.

    Raises:
        ModelInputError: an unknown name; a missing, damaged or foreign file.
    """
    seed = random_seed(weights)
    path = find_weights(weights) if seed is None and weights != HUB else None
    with seeded(seed or 0):
        built = _built(name, weights == HUB, net or {})
    if path is not None:
        _load(built, path, name)
    if "dinov2" in name and built.reg_token is None:
        built._pos_embed = MethodType(_dinov2_positions, built)
    return VitBackbone(
        built, name=name, image_size=image_size or int(built.pretrained_cfg["input_size"][1]), stages=stages,
        final_norm=final_norm, precision=precision, weights=weights,
    )  # fmt: skip


def check_side(image_size: int, stride: int) -> int:
    """The size of a square, if the patches fit into it.

    Raises:
        ModelInputError: they do not.
    """
    if image_size < stride or image_size % stride:
        lower = max(stride, image_size // stride * stride)
        raise ModelInputError(
            f"expected an image size that is a multiple of {stride} pixels, got {image_size}; use {lower} or "
            f"{lower + stride}"
        )
    return image_size


def _built(name: str, pretrained: bool, settings: dict[str, Any]) -> Any:
    try:
        net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **settings)
        if not isinstance(net, vision_transformer.VisionTransformer | eva.Eva):
            raise TypeError(f"it is a {type(net).__name__}")
    except Exception as error:  # unknown names, nets of another kind and failed downloads each raise their own kind
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelInputError(
            f"expected timm to build the ViT {name!r}, got: {reason}; use vit_small_patch14_dinov2 or another of "
            "timm.list_models('vit_*'), and check the connection if the weights are timm's own (or give the path of a "
            "file)"
        ) from error
    about: Any = net.pretrained_cfg
    licence = str(about.get("license") or "an unstated licence")
    if pretrained and licence not in FREE:
        announce(name, f"{licence}, which restricts their use")
    return net


def _load(net: Any, path: Path, name: str) -> None:
    """Take a file of timm's or the authors' layout; position grids of another size are resized."""
    state = read_state(path, f"the weights of {name}")
    layout = eva if isinstance(net, eva.Eva) else vision_transformer
    try:
        found = layout.checkpoint_filter_fn(dict(state), net)
        wanted = net.state_dict()
        net.load_state_dict({key: found[key] for key in wanted})
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelInputError(
            f"expected {path} to hold the weights of {name}, got a file that does not fit ({reason}); name the "
            "architecture that belongs to the file, or fetch the file again"
        ) from error


def _dinov2_positions(net: Any, x: Tensor) -> Tensor:
    """Patches (B, h, w, C) to tokens with positions, the grid resized as the authors of DINOv2 without registers do.

    Bicubic without antialiasing, by a scale of (h + 0.1) / side rather than to (h, w); timm's own antialiases. (With
    registers the authors do as timm does.)
    """
    batch, height, width, channels = x.shape
    own = net.pos_embed.float()
    side = math.isqrt(own.shape[1] - 1)
    patches = own[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    if (height, width) != (side, side):
        scale = ((height + 0.1) / side, (width + 0.1) / side)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    positions = torch.cat([own[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
    return torch.cat([net.cls_token.expand(batch, -1, -1), x.view(batch, -1, channels)], dim=1) + positions.to(x.dtype)
