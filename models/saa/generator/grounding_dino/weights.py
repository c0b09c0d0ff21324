"""GroundingDINO from files: an official checkpoint and BERT's vocabulary; or with seeded random weights.

The modules are built by the package groundingdino-py.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from torch import nn

from models.errors import ModelInputError, checked
from models.frozen import random_seed, seeded
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import CaptionReader, load_reader, spelling_reader
from models.saa.generator.grounding_dino.network import GroundingDino
from models.weights.catalogue import catalogue, find_weights, weights_path
from models.weights.state import read_state

IGNORED = ("label_enc.", "bert.pooler.", "bert.embeddings.position_ids")
"""Entries of checkpoints that detection does not use: training's label noise, BERT's pooler, a constant."""


@dataclass(frozen=True)
class Architecture:
    """The numbers of a GroundingDINO with a Swin backbone; the defaults are Swin-T OGC's, with BERT base for text.

    Fixed: 4 feature levels, 4 points, 8 heads, 256 channels (the package allows no other width).
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 900
    feed_forward: int = 2048
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_feed_forward: int = 3072
    vocabulary: int = 30522


ARCHITECTURES = {
    "swint_ogc": Architecture(),
    "small": Architecture(
        embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=4, encoder_layers=2, decoder_layers=2,
        queries=60, feed_forward=64, text_width=32, text_layers=1, text_heads=2, text_feed_forward=64,
    ),
}  # fmt: skip
"""By name; "small" is for quick tests with random weights, no trained weights of it exist."""


def load_grounding_dino(
    weights: str | os.PathLike[str] = "groundingdino_swint_ogc",
    text_encoder: str | os.PathLike[str] | None = "bert_base_uncased_vocabulary",
    *,
    architecture: str = "swint_ogc",
    box_threshold: float = 0.1,
    text_threshold: float = 0.1,
    score: Literal["any_token", "phrase_tokens"] = "any_token",
    short_side: int = 800,
    long_side: int = 1333,
    captions_at_once: int | None = None,
    precision: str = "float32",
) -> GroundingDinoGenerator:
    """GroundingDINO from local files, on the CPU; nothing is fetched.

    Args:
        weights: the official checkpoint by path or catalogue name, or "random:SEED".
        text_encoder: the vocabulary of BERT-base-uncased: a folder with `vocab.txt`, the file, or a catalogue name
            (BERT's weights come with the checkpoint). None, with random weights only, spells all words.
        architecture: "swint_ogc"; "small", with random weights, for quick tests.
        box_threshold: this and all that follows as for `GroundingDinoGenerator`.
        text_threshold: likewise.
        score: likewise.
        short_side: likewise.
        long_side: likewise.
        captions_at_once: likewise.
        precision: likewise.

    Raises:
        ModelInputError: a missing, damaged or foreign file, an unknown name, a setting out of range.
    """
    checked("architecture", architecture, architecture in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}")
    numbers = ARCHITECTURES[architecture]
    name = os.fspath(weights)
    seed = random_seed(name)
    reader = caption_reader(text_encoder, name)
    if len(reader) > numbers.vocabulary:
        raise ModelInputError(
            f"expected a vocabulary of at most {numbers.vocabulary:,} word pieces, got {len(reader):,} from "
            f"{text_encoder}; take the vocabulary of BERT-base-uncased"
        )
    network = load_network(find_weights(name), numbers) if seed is None else random_network(numbers, seed)
    return GroundingDinoGenerator(
        network, reader, weights=Path(name).name.removesuffix(".pth"), box_threshold=box_threshold,
        text_threshold=text_threshold, score=score, short_side=short_side, long_side=long_side,
        captions_at_once=captions_at_once, precision=precision,
    )  # fmt: skip


def caption_reader(
    text_encoder: str | os.PathLike[str] | None, weights: str, *, as_bert: bool = False
) -> CaptionReader:
    """The reader of a vocabulary by path or catalogue name; None, with random weights only, spells all words.

    Raises:
        ModelInputError: no vocabulary, or none for weights that are not random.
    """
    if text_encoder is None:
        if random_seed(weights) is not None:
            return spelling_reader(as_bert=as_bert)
        raise ModelInputError(
            f"expected the text encoder that {weights} was trained with, got none; give the folder that holds the "
            "vocab.txt of BERT-base-uncased"
        )
    name = os.fspath(text_encoder)
    return load_reader(weights_path(name) if name in catalogue() else Path(name).expanduser())


def load_network(file: Path, architecture: Architecture) -> GroundingDino:
    """The network with the weights of a checkpoint of the package's own form, on the CPU in float32.

    Raises:
        ModelInputError: a file that cannot be read, or of another architecture.
    """
    state = read_state(file, "the weights of GroundingDINO")
    network = build_network(architecture)
    needed = network.state_dict()
    missing = [name for name in needed if name not in state]
    foreign = [name for name in state if name not in needed and not name.startswith(IGNORED)]
    other = [name for name in needed if name in state and needed[name].shape != state[name].shape]
    if missing or foreign or other:
        kinds = {"lacks": missing, "has besides": foreign, "has in another shape": other}
        found = "; ".join(f"{kind} {names[0]} and {len(names) - 1} more" for kind, names in kinds.items() if names)
        raise ModelInputError(
            f"expected {file} to hold the weights of GroundingDINO Swin-T (groundingdino_swint_ogc.pth), but it {found}"
            "; give the checkpoint that belongs to the architecture"
        )
    network.load_state_dict({name: state[name].to(needed[name].dtype) for name in needed}, assign=True)
    return network


def random_network(architecture: Architecture, seed: int) -> GroundingDino:
    """The network with random weights that depend on the seed alone. It detects nothing."""
    with seeded(seed):
        network = build_network(architecture)
        _stir(network)
    return network


def build_network(architecture: Architecture) -> GroundingDino:
    """The network as the package initialises its parts."""
    with _quiet_package():
        from groundingdino.models.GroundingDINO.transformer import build_transformer
        from groundingdino.models.GroundingDINO.utils import MLP
        from transformers import BertConfig, BertModel

        backbone = _backbone(architecture)
        transformer = build_transformer(transformer_settings(architecture))
        bert = BertModel(BertConfig(**bert_settings(architecture)), add_pooling_layer=False)
        width = transformer.d_model
        boxes = MLP(width, width, 4, 3)
    transformer.decoder.bbox_embed = nn.ModuleList([boxes] * architecture.decoder_layers)
    transformer.enc_out_bbox_embed = deepcopy(boxes)
    return GroundingDino(
        backbone=backbone, transformer=transformer, bert=bert, feat_map=nn.Linear(architecture.text_width, width),
        input_proj=_projections(architecture, width, transformer.num_feature_levels),
        bbox_embed=transformer.decoder.bbox_embed,
    )  # fmt: skip


def _backbone(architecture: Architecture) -> nn.Module:
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer

    swin = SwinTransformer(
        embed_dim=architecture.embed_dim, depths=list(architecture.depths), num_heads=list(architecture.heads),
        window_size=architecture.window, out_indices=(1, 2, 3), use_checkpoint=False,
    )  # fmt: skip
    return nn.Sequential(swin)  # the package's own pair: its position encoding has no weights


def _projections(architecture: Architecture, width: int, levels: int) -> nn.ModuleList:
    channels = [architecture.embed_dim * 2**stage for stage in (1, 2, 3)]
    layers: list[nn.Module] = [nn.Conv2d(number, width, kernel_size=1) for number in channels]
    for number in [channels[-1], *[width] * (levels - 4)]:
        layers.append(nn.Conv2d(number, width, kernel_size=3, stride=2, padding=1))
    return nn.ModuleList(nn.Sequential(layer, nn.GroupNorm(32, width)) for layer in layers)


def transformer_settings(architecture: Architecture) -> SimpleNamespace:
    """What the package's builder asks for: its GroundingDINO_SwinT_OGC configuration, without checkpointing."""
    return SimpleNamespace(
        hidden_dim=256, dropout=0.0, nheads=8, num_queries=architecture.queries,
        dim_feedforward=architecture.feed_forward, enc_layers=architecture.encoder_layers,
        dec_layers=architecture.decoder_layers, pre_norm=False, query_dim=4, transformer_activation="relu",
        num_patterns=0, num_feature_levels=4, enc_n_points=4, dec_n_points=4, two_stage_type="standard",
        embed_init_tgt=True, use_text_enhancer=True, use_fusion_layer=True, use_checkpoint=False,
        use_transformer_ckpt=False, use_text_cross_attention=True, text_dropout=0.0, fusion_dropout=0.0,
        fusion_droppath=0.1,
    )  # fmt: skip


def bert_settings(architecture: Architecture) -> dict[str, int]:
    """What `transformers.BertConfig` asks for."""
    return {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.text_width,
        "num_hidden_layers": architecture.text_layers,
        "num_attention_heads": architecture.text_heads,
        "intermediate_size": architecture.text_feed_forward,
    }


def _stir(network: GroundingDino) -> None:
    """Give every part a say: the package starts many weights at zero, so that whole branches would not show."""
    for name, parameter in network.named_parameters():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            nn.init.normal_(parameter, std=0.05)
        elif "gamma_" in name:
            nn.init.uniform_(parameter, 0.2, 0.5)
        elif "bbox_embed.layers.2.weight" in name or "bbox_embed.0.layers.2.weight" in name:
            nn.init.normal_(parameter, std=0.05)
        elif parameter.ndim == 1 and "sampling_offsets" not in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    last = network.transformer.encoder.text_layers[-1].norm2  # words of this length give scores around 0.1
    last.weight.mul_(0.1)
    last.bias.mul_(0.1)


@contextmanager
def _quiet_package() -> Iterator[None]:
    """Keep to ourselves what the package's imports and constructors warn of; it concerns its authors, not users."""
    with warnings.catch_warnings():
        for message, category in (
            ("Importing from timm.models.layers is deprecated", FutureWarning),
            ("torch.meshgrid: in an upcoming release", UserWarning),
            ("invalid escape sequence", DeprecationWarning),
            ("invalid escape sequence", SyntaxWarning),  # Python 3.12 and later
        ):
            warnings.filterwarnings("ignore", message=message, category=category)
        yield
