"""Labels are read from the values that the computation uses: turn any setting of a model, and its label turns."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch

from models.baselines.anomaly_dino import AnomalyDINO
from models.baselines.anomaly_dino_batch import AnomalyDINOBatch
from models.baselines.clipseg import ClipSeg
from models.baselines.ensemble import Ensemble
from models.baselines.musc import MuSc
from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.baselines.spade import SPADE
from models.baselines.subspace_ad import SubspaceAD, SubspaceADBatch
from models.baselines.superadd import SuperADD
from models.baselines.trivial import Constant, Random
from models.baselines.utad import UTAD
from models.baselines.winclip import WinCLIP
from models.clip_adapter.adapter import random_adapter
from models.clip_adapter.context_adapter import ContextAdapter
from models.clip_adapter.model import ClipAdapter
from models.saa.generator.clip_boxes import ClipBoxGenerator
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.language import PromptBook
from models.saa.model import SAA
from models.saa.refiner.sam.refiner import SamRefiner
from models.saa.rules import Rules
from models.saa.saliency.features import ClipFeatures
from models.saa.saliency.prompt import Saliency
from models.vector_adapter.model import VectorAdapter
from tests.support.baseline_stand_ins import small_clipseg, small_patchcore
from tests.support.clip_stand_ins import PROMPTS, small_backbone
from tests.support.saa_stand_ins import BOOK, BoxRefiner, ColourFeatures, GridGenerator
from tests.support.sam_stand_ins import small_sam
from tests.support.vector_stand_ins import vectors_for

DECIDE_NO_NUMBER = {
    "max_elements", "memory_mb", "windows_at_once", "captions_at_once", "boxes_at_once",  # memory alone
    "image_threshold", "threshold_source",  # stand beside the verdicts
}  # fmt: skip
VIT, RESNET, OTHER = small_backbone("vit"), small_backbone("resnet"), small_backbone("vit", precision="bfloat16")
TIMM = small_backbone("timm")
WORDS = replace(PROMPTS, defects=("dent",))
BOOKS = (BOOK, PromptBook(source=BOOK.source, general=("dirt on {}",)))


def adapter_of(backbone, **options):
    return random_adapter(backbone.stage_widths, backbone.embed_dim, **options)


def trained_on(vectors, name):
    vectors.trained_on = (name,)
    return vectors


def saliency(**options) -> Saliency:
    return Saliency(ColourFeatures(), **{"size": 32, "several_size": 64, **options})


class NamedDetector(torch.nn.Identity):
    """A network of which nothing but its kind is asked."""

    kind = "GroundingDINO"


@dataclass(frozen=True)
class Turned:
    """What is built: `given` with one of `other` put in its place at a time."""

    build: Callable[..., Any]
    given: Mapping[str, Any]
    other: Mapping[str, Any] = field(default_factory=dict)


PATCHES = {"stages": [1, 2], "sigma": 2.0, "own_window": 0.3, "max_references": 3}
TURNED = {
    "constant": Turned(Constant, {}, {"value": 0.25, "map_size": 32}),
    "random": Turned(Random, {}, {"seed": 1, "map_size": 32}),
    "clip_adapter": Turned(
        ClipAdapter,
        {"backbone": VIT, "adapter": adapter_of(VIT), "prompts": PROMPTS, "gaussian_weight": 0.5,
            "neighbourhood_weight": 0.5},
        {
            "backbone": OTHER, "adapter": ContextAdapter(VIT.stage_widths, VIT.embed_dim, hidden=8), "prompts": WORDS,
            "memory_stages": [2, 4], "memory_weight": 0.5, "gaussian_weight": 0.25, "gaussian_stages": [1, 2],
            "memory_score_weight": 0.25, "memory_score_map": "memory", "calibration_exponent": 3.0, "flipped": True,
            "turns": 0.25, "own_window": 0.3, "max_references": 3, "neighbourhood_weight": 0.25,
            "neighbourhood_stages": [1, 2], "vectors": vectors_for(VIT), "rarity_weight": 4.0, "detail_weight": 2.0,
        },
    ),
    "clip_adapter, the shipped way": Turned(
        ClipAdapter,
        {
            "backbone": TIMM, "adapter": ContextAdapter(TIMM.stage_widths, TIMM.embed_dim, hidden=8),
            "prompts": PROMPTS, "memory_weight": 0.0, "memory_score_map": "memory",
            "gaussian_weight": 0.6, "gaussian_stages": [1, 2], "memory_score_weight": 0.3,
            "neighbourhood_weight": 0.4, "neighbourhood_stages": [1, 2], "vectors": vectors_for(TIMM),
            "rarity_weight": 8.0, "rarity_score_weight": 1.0, "rarity_stages": [1, 2], "texture_weight": 0.8,
            "own_texture_weight": 0.5, "own_texture_even": 4.0,
        },
        {
            "adapter": adapter_of(TIMM), "memory_stages": [1], "memory_weight": 1.0, "memory_score_map": "combined",
            "memory_score_weight": 0.25, "calibration_exponent": 3.0, "gaussian_weight": 0.25, "gaussian_stages": [1],
            "flipped": True, "turns": 0.25, "neighbourhood_weight": 0.25, "neighbourhood_stages": [1],
            "vectors": None, "vectors_share": 0.5, "vectors_scale": 2.0, "rarity_weight": 4.0, "rarity_stages": [1],
            "rarity_score_weight": 2.0, "rarity_usual": [0.3, 0.6], "texture_weight": 0.4, "own_texture_weight": 0.0,
            "own_texture_even": 2.0, "own_texture_usual": 6.0, "detail_weight": 2.0,
        },
    ),
    "winclip": Turned(
        WinCLIP, {"backbone": VIT, "prompts": PROMPTS},
        {
            "backbone": OTHER, "prompts": WORDS, "window_sides": [2], "temperature": 0.1, "own_window": 0.3,
            "max_references": 3,
        },
    ),
    "patchcore": Turned(
        PatchCore, {"backbone": VIT},
        {
            **PATCHES, "backbone": RESNET, "patch_size": 5, "stage_dim": 20, "target_dim": 30, "coreset": 0.5,
            "pos_radius": 1, "num_neighbours": 3,
        },
    ),
    "anomaly_dino": Turned(
        AnomalyDINO, {"backbone": RESNET},
        {
            "backbone": VIT, "side": 128, "stage": 2, "rotations": "none", "masking": "never", "pos_radius": 1,
            "map_size": 40, "own_window": 0.3, "max_references": 3,
        },
    ),
    "anomaly_dino_batch": Turned(
        AnomalyDINOBatch, {"backbone": RESNET},
        {"backbone": VIT, "side": 128, "stage": 2, "masking": "never", "share": 0.01, "map_size": 40},
    ),
    "padim": Turned(
        PaDiM, {"backbone": RESNET, "num_channels": 40},
        {
            "backbone": VIT, "stages": [1, 2], "num_channels": 30, "seed": 1, "regularisation": 0.1, "sigma": 2.0,
            "max_references": 3,
        },
    ),
    "spade": Turned(SPADE, {"backbone": VIT}, {**PATCHES, "backbone": RESNET, "num_images": 3, "num_patches": 2}),
    "subspace_ad": Turned(
        SubspaceAD, {"backbone": VIT},
        {
            "backbone": RESNET, "stages": [1, 2], "aggregation": "concat", "variance": 0.9, "rotations": 2,
            "unrotated": [], "seed": 1, "sigma": 2.0, "top_share": 0.1,
        },
    ),
    "subspace_ad_batch": Turned(
        SubspaceADBatch, {"backbone": VIT},
        {
            "backbone": RESNET, "stages": [1, 2], "aggregation": "concat", "variance": 0.9, "sigma": 2.0,
            "top_share": 0.1,
        },
    ),
    "superadd": Turned(
        SuperADD, {"backbone": VIT},
        {
            "backbone": RESNET, "stages": [1, 2], "scale": 0.5, "tile": 320, "overlap": 64, "brightness": 0.1,
            "bank_size": 10, "quantile": 0.9, "factor": 2.0, "top_share": 0.1, "map_size": 40, "seed": 1,
            "own_window": 0.3, "max_references": 3,
        },
    ),
    "vector_adapter": Turned(
        VectorAdapter, {"backbone": VIT, "adapter": vectors_for(VIT)},
        {
            "backbone": OTHER, "adapter": trained_on(vectors_for(VIT), "mvtec"), "map_share": 0.25,
            "memory_weight": 0.5, "memory_score_weight": 0.25, "calibration_exponent": 3.0, "own_window": 0.3,
            "max_references": 3,
        },
    ),
    "utad": Turned(
        UTAD, {"saliency_map": saliency()},
        {"saliency_map": saliency(scale=0.25), "map_size": 40, "sigma": 1.0, "max_side": 100},
    ),
    "musc": Turned(
        MuSc, {"backbone": VIT, "subsets": 2},
        {
            "backbone": OTHER, "stages": [1, 2], "degrees": [1, 3], "share": 0.5, "neighbours": [1, 8, 9],
            "normalise": False, "subsets": 3, "seed": 1, "match_precision": "bfloat16",
        },
    ),
    "clipseg": Turned(
        ClipSeg, {"net": small_clipseg(), "prompts": BOOK},
        {"net": small_clipseg().requires_grad_(False), "prompts": BOOKS[1], "language": "general"},
    ),
    "ensemble": Turned(
        Ensemble, {"members": {"constant": Constant(), "patchcore": small_patchcore()}},
        {
            "members": {"constant": Constant(value=0.1), "patchcore": small_patchcore()}, "shares": {"constant": 2.0},
            "map_exponent": 3.0, "score_exponent": 3.0, "map_size": 40, "max_side": 100,
        },
    ),
    "saa": Turned(
        SAA,
        {"generator": GridGenerator(), "refiner": BoxRefiner(), "saliency_map": saliency(), "prompts": BOOK},
        {
            "generator": ClipBoxGenerator(VIT, adapter_of(VIT)), "refiner": SamRefiner(small_sam()),
            "saliency_map": saliency(scale=0.25), "prompts": BOOKS[1], "rules": "released",
            "switches": {"exponent": 2.0}, "language": "general", "property": False, "saliency": False,
            "confidence": False, "merge_overlap": 0.5, "dense_saliency": 0.1, "score_saliency": 0.5,
            "few_shot_exponent": 2.0, "map_size": 40, "max_references": 3,
        },
    ),
    "saliency": Turned(
        Saliency, {"net": ClipFeatures(RESNET, antialias=False), "size": 32, "several_size": 64},
        {
            "net": ClipFeatures(VIT), "opencv_resize": True, "rule": "released", "num_neighbours": 10,
            "neighbours": "farthest", "scale": 0.25, "size": 64, "several_size": 96, "normalise_stages": True,
            "enlarge": False,
        },
    ),
    "features of a CLIP": Turned(
        ClipFeatures, {"backbone": VIT}, {"backbone": OTHER, "stages": [1, 2], "antialias": False}
    ),
    "boxes of the small CLIP": Turned(
        ClipBoxGenerator, {"backbone": VIT, "adapter": adapter_of(VIT)},
        {
            "backbone": OTHER, "adapter": ContextAdapter(VIT.stage_widths, VIT.embed_dim, hidden=8),
            "scales": [1], "levels": [0.3], "box_overlap": 0.5, "min_score": 0.2, "grid": 64,
            "outline_level": 0.7,
        },
    ),
    "boxes of GroundingDINO": Turned(
        GroundingDinoGenerator, {"network": NamedDetector(), "reader": None},
        {
            "weights": "mine", "box_threshold": 0.2, "text_threshold": 0.2, "score": "phrase_tokens",
            "short_side": 400, "long_side": 1000, "precision": "bfloat16",
        },
    ),
    "outlines of SAM": Turned(
        SamRefiner, {"sam": small_sam()}, {"name": "vit_x", "weights": "mine", "precision": "bfloat16"}
    ),
}  # fmt: skip
ELSEWHERE = {
    "clip_adapter": {
        "vectors_share", "vectors_scale", "rarity_stages", "rarity_usual", "rarity_score_weight", "texture_weight",
        "own_texture_weight", "own_texture_even", "own_texture_usual",
    },
    "clip_adapter, the shipped way": {"backbone", "prompts", "own_window", "max_references"},
    "saliency": {"own_window"},  # in the label of the model that has references
    "boxes of GroundingDINO": {"network", "reader"},  # their files are the label `weights`
    "outlines of SAM": {"sam"},
    "clipseg": {"net"},
}  # fmt: skip
"""Settings that another case turns, or whose label is another setting."""
CASES = [(name, key) for name, turned in TURNED.items() for key in turned.other if key not in ELSEWHERE.get(name, ())]


@pytest.mark.parametrize(("name", "key"), CASES, ids=lambda value: str(value))
def test_a_setting_that_is_turned_turns_the_label(name, key):
    turned = TURNED[name]
    before = turned.build(**turned.given).protocol
    after = turned.build(**{**turned.given, key: turned.other[key]}).protocol
    assert before != after, f"{key}={turned.other[key]} is labelled as {turned.given.get(key, 'the default')} is"


@pytest.mark.parametrize("name", TURNED)
def test_no_setting_is_forgotten_here(name):
    known = set(inspect.signature(TURNED[name].build).parameters)
    assert known - DECIDE_NO_NUMBER - ELSEWHERE.get(name, set()) <= set(TURNED[name].other), name


@pytest.mark.parametrize("switch", [each.name for each in fields(Rules) if each.name != "name"])
def test_a_switch_of_saa_that_is_turned_turns_the_label(switch):
    paper, released = Rules.paper(), getattr(Rules.released(), switch)
    assert getattr(paper, switch) != released, "the two protocols differ in every switch"
    label = Rules.named("paper", {switch: released}).label
    assert label == f"paper with {switch}={released}"


def test_the_shipped_image_score_is_labelled_with_the_exponent_it_has():
    turned = TURNED["clip_adapter, the shipped way"]
    model = turned.build(**turned.given)
    assert model.calibration_exponent == 4
    score = model.protocol["image_score"]
    assert "0.3 m^4 / (m^4 + mu^4)" in score
    assert "stages 1 2 3" in score
    assert "d^2 / (d^2 + mu^2)" in model.protocol["few_shot_map"]
