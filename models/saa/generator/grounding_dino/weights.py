"""GroundingDINO from files: an official checkpoint and BERT's vocabulary; or with seeded random weights."""

import os
from pathlib import Path
from typing import Literal

from models.errors import ModelInputError
from models.frozen import random_seed
from models.saa.generator.base import GroundingDinoGenerator
from models.saa.generator.grounding_dino.build import ARCHITECTURES, Architecture, build_network, random_network
from models.saa.generator.grounding_dino.captions import CaptionReader, load_reader, spelling_reader
from models.saa.generator.grounding_dino.network import GroundingDino
from models.weights.registry import catalogue, find_weights, weights_path
from models.weights.state import read_state

IGNORED = ("label_enc.", "bert.pooler.", "bert.embeddings.position_ids")
"""Entries of checkpoints that detection does not use: training's label noise, BERT's pooler, a constant."""


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
    joined_captions: bool = False,
    precision: str = "float32",
) -> GroundingDinoGenerator:
    """GroundingDINO from local files, on the CPU; nothing is fetched.

    Args:
        weights: the official checkpoint by path or catalogue name, or "random:SEED".
        text_encoder: the vocabulary of BERT-base-uncased: a folder with `vocab.txt`, the file, or a catalogue name
            (BERT's weights come with the checkpoint). None, with random weights only, spells all words.
        architecture: "swint_ogc"; "small", with random weights, for quick tests.
        box_threshold: this and what follows as for `GroundingDinoGenerator`.
        text_threshold: likewise.
        score: likewise.
        short_side: likewise.
        long_side: likewise.
        captions_at_once: likewise.
        joined_captions: likewise.
        precision: likewise.

    Raises:
        ModelInputError: a missing, damaged or foreign file, an unknown name, a setting out of range.
    """
    if architecture not in ARCHITECTURES:
        raise ModelInputError(f"expected architecture to be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    numbers = ARCHITECTURES[architecture]
    name = os.fspath(weights)
    reader = _reader(text_encoder, name)
    if len(reader) > numbers.vocabulary:
        raise ModelInputError(
            f"expected a vocabulary of at most {numbers.vocabulary:,} word pieces, got {len(reader):,} from "
            f"{text_encoder}; take the vocabulary of BERT-base-uncased"
        )
    seed = random_seed(name)
    network = load_network(find_weights(name), numbers) if seed is None else random_network(numbers, seed)
    return GroundingDinoGenerator(
        network, reader, weights=Path(name).name.removesuffix(".pth"), box_threshold=box_threshold,
        text_threshold=text_threshold, score=score, short_side=short_side, long_side=long_side,
        captions_at_once=captions_at_once, joined_captions=joined_captions, precision=precision,
    )  # fmt: skip


def _reader(text_encoder: str | os.PathLike[str] | None, weights: str) -> CaptionReader:
    if text_encoder is None:
        if random_seed(weights) is not None:
            return spelling_reader()
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
