"""Small networks of transformers' own classes for SAA's parts, every tensor of them random."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForZeroShotObjectDetection,
    GroundingDinoConfig,
    MMGroundingDinoConfig,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2VisionConfig,
    SamHQConfig,
    SwinConfig,
)

from models.saa.generator import concepts, image_query, zero_shot_detector
from models.weights.pretrained import load_pretrained
from tests.support.sam_stand_ins import stir

DETECTORS = {"grounding_dino": GroundingDinoConfig, "mm_grounding_dino": MMGroundingDinoConfig}
REFINERS = ("sam2", "sam_hq", *(("sam3",) if hasattr(transformers, "Sam3TrackerModel") else ()))
"""Those that the installed transformers has: SAM 3 comes with its version 5."""


def detector_config(kind: str, vocabulary: int = 1200) -> Any:
    return DETECTORS[kind](
        backbone_config=SwinConfig(
            embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4, image_size=32,
            out_indices=[2, 3, 4],
        ),
        text_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
            "vocab_size": vocabulary,
        },
        d_model=64, encoder_layers=2, decoder_layers=2, num_queries=40, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip


def small_detector(kind: str, seed: int = 0) -> Any:
    build = AutoModelForZeroShotObjectDetection.from_config
    return load_pretrained(build, detector_config(kind), f"random:{seed}", kind, zero_shot_detector._stir)


def refiner_config(kind: str) -> Any:
    decoder = {"hidden_size": 32, "mlp_dim": 24, "num_attention_heads": 4, "iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 32, "image_size": 64, "mask_input_channels": 4}
    if kind == "sam3":
        return transformers.Sam3TrackerConfig(
            vision_config=_sam3_vision(), prompt_encoder_config={**prompts, "patch_size": 8},
            mask_decoder_config=decoder,
        )  # fmt: skip
    if kind == "sam_hq":
        return SamHQConfig(
            vision_config={
                "hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 64, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16,
                "mlp_dim": 32,
            },
            prompt_encoder_config={**prompts, "patch_size": 8}, mask_decoder_config={**decoder, "vit_dim": 16},
        )  # fmt: skip
    hiera = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], blocks_per_stage=[1, 1, 2, 1], window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def _sam3_vision() -> dict[str, Any]:
    vit = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1],
        "pretrain_image_size": 32,
    }  # fmt: skip
    return {
        "model_type": "sam3_vision_model", "backbone_config": vit, "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip


def concepts_config() -> Any:
    part = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_layers": 2}
    return transformers.Sam3Config(
        vision_config=_sam3_vision(),
        text_config={
            "vocab_size": 49408, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 16,
        },
        geometry_encoder_config=part, detr_encoder_config=part, detr_decoder_config={**part, "num_queries": 12},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )  # fmt: skip


def small_concepts(seed: int = 0) -> Any:
    return load_pretrained(transformers.Sam3Model, concepts_config(), f"random:{seed}", "sam3", concepts._stir)


def small_refiner(kind: str, seed: int = 0) -> Any:
    return load_pretrained(AutoModel.from_config, refiner_config(kind), f"random:{seed}", kind, _stirred)


def owlv2_config() -> Owlv2Config:
    return Owlv2Config(
        vision_config={
            "image_size": 64, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        text_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        projection_dim=32,
    )  # fmt: skip


def small_owlv2(seed: int = 0) -> Any:
    return load_pretrained(Owlv2ForObjectDetection, owlv2_config(), f"random:{seed}", "owlv2", image_query._stir)


def _stirred(net: nn.Module) -> None:
    """By as much as makes masks follow their boxes."""
    stir(net, int(torch.randint(1000, ())), amount=0.2)
