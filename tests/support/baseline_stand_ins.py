"""Every baseline on a small encoder with random weights, for the contract and for tests of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from models.base import AnomalyModel
from models.baselines.anomaly_dino import AnomalyDINO
from models.baselines.clipseg import ClipSeg, ClipSegNet, load_clipseg
from models.baselines.ensemble import Ensemble
from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.baselines.spade import SPADE
from models.baselines.subspace_ad import SubspaceAD
from models.baselines.superadd import SuperADD
from models.baselines.trivial import Random
from models.baselines.utad import UTAD
from models.baselines.winclip import WinCLIP
from models.clip.backbone import ClipBackbone
from models.imagenet.backbone import TimmBackbone, load_timm_backbone
from models.imagenet.vit import VitBackbone, load_vit
from models.saa.saliency.prompt import Saliency
from tests.support.clip_stand_ins import PROMPTS, small_backbone, small_model
from tests.support.saa_stand_ins import BOOK, ColourFeatures

SMALL_PATCHES = {"stage_dim": 20, "target_dim": 30}


def small_resnet(image_size: int = 64) -> TimmBackbone:
    """A ResNet10 whose norms all do something."""
    backbone = load_timm_backbone("resnet10t", weights="random:0", image_size=image_size)
    generator = torch.Generator().manual_seed(1)
    for tensor in backbone.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
    return backbone


SMALL_VITS = {
    "vit_small_patch14_dinov2": {"img_size": 56},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56},
    "vit_small_patch16_dinov3": {"img_size": 64},
    "vit_base_patch16_siglip_224": {"img_size": 64},
    "vit_large_patch14_clip_quickgelu_336": {"img_size": 56},
}


def small_vit(
    name: str = "vit_small_patch14_dinov2", *, weights: str = "", seed: int = 0, image_size: int | None = None,
    **settings: Any,
) -> VitBackbone:  # fmt: skip
    """A ViT of three narrow blocks whose norms, layer scales and positions all do something."""
    sizes = SMALL_VITS.get(name, {"img_size": 56})
    net = {"depth": 3, "embed_dim": 24, "num_heads": 2, **sizes}
    size = image_size or sizes["img_size"]
    backbone = load_vit(name, weights=weights or f"random:{seed}", image_size=size, net=net, **settings)
    if not weights:
        generator = torch.Generator().manual_seed(seed)
        for tensor in backbone.state_dict().values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    return backbone


def lively_clip_resnet() -> ClipBackbone:
    """The small ResNet CLIP, its norms without offsets: else its last layers look the same everywhere."""
    backbone = small_backbone("resnet")
    for name, tensor in backbone.clip.visual.state_dict().items():
        if "attnpool" not in name and name.endswith(("bias", "running_mean")):
            tensor.zero_()
        if name.endswith("running_var"):
            tensor.mul_(0.1)
    return backbone


def small_patchcore(kind: str = "vit", **options: Any) -> PatchCore:
    return PatchCore(small_backbone(kind), **{**SMALL_PATCHES, **options})


TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 24,
}  # fmt: skip
SMALL_CLIPSEG = {
    "text_config": {**TOWER, "vocab_size": 49408},
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
    "projection_dim": 24,
    "reduce_dim": 16,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "extract_layers": [0, 1, 2],
    "use_complex_transposed_convolution": False,
}


def small_clipseg() -> ClipSegNet:
    """CLIPSeg of three layers whose decoder heeds what it is told."""
    net = load_clipseg("random:0", image_size=48, config=SMALL_CLIPSEG)
    generator = torch.Generator().manual_seed(1)
    for tensor in net.net.decoder.state_dict().values():
        tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    return net


def small_utad() -> UTAD:
    return UTAD(Saliency(ColourFeatures(), size=32, num_neighbours=10), map_size=40, sigma=1.0)


def small_ensemble() -> Ensemble:
    members = {"clip_adapter": small_model("vit"), "patchcore": small_patchcore(), "utad": small_utad()}
    return Ensemble(members, shares={"utad": 0.5}, map_size=40)


BASELINES: dict[str, Callable[[], AnomalyModel]] = {
    "random": partial(Random, map_size=32),
    "patchcore_vit": small_patchcore,
    "patchcore_coreset": partial(small_patchcore, "resnet", coreset=0.2, stage_dim=None, target_dim=None, patch_size=1),
    "anomaly_dino": lambda: AnomalyDINO(small_vit(final_norm=True), map_size=40),
    "anomaly_dino_conv": lambda: AnomalyDINO(
        small_resnet(), stage=2, rotations="none", masking="never", pos_radius=1, map_size=40
    ),
    "padim": lambda: PaDiM(small_backbone("resnet"), num_channels=40),
    "spade": lambda: SPADE(small_backbone("vit"), num_patches=2),
    "spade_timm": lambda: SPADE(small_resnet()),
    "subspace_ad": lambda: SubspaceAD(small_backbone("vit"), rotations=2),
    "subspace_ad_plain": lambda: SubspaceAD(small_backbone("vit"), rotations=0, aggregation="concat"),
    "superadd": lambda: SuperADD(
        small_vit("vit_small_patch16_dinov3", stages=[1, 2]), scale=0.8, tile=48, overlap=16, map_size=40
    ),
    "superadd_conv": lambda: SuperADD(small_resnet(), scale=2.0, tile=96, overlap=32, brightness=0.0, map_size=40),
    "winclip_vit": lambda: WinCLIP(small_backbone("vit"), PROMPTS),
    "winclip_resnet": lambda: WinCLIP(lively_clip_resnet(), PROMPTS, windows_at_once=3),
    "utad": small_utad,
    "clipseg": lambda: ClipSeg(small_clipseg(), BOOK),
    "ensemble": small_ensemble,
}
