"""A model as one graph: the same as the model for any batch, whatever else it learnt; others are refused by name."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.clip_adapter.context_adapter import ContextAdapter
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.one_graph import OneGraph, state_of, varying
from tests.support.baseline_stand_ins import BASELINES
from tests.support.clip_stand_ins import PROMPTS, SIZES, random_images, small_backbone, small_model
from tests.support.vector_stand_ins import vectors_for


def small_context():
    backbone = small_backbone("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = ContextAdapter(backbone.stage_widths, backbone.embed_dim).eval()
    options = {"memory_weight": 0, "gaussian_weight": 0.5, "neighbourhood_weight": 0.5, "flipped": True}
    options |= {"texture_weight": 0.5, "own_texture_weight": 0.5, "own_texture_even": 2.0, "detail_weight": 2.0}
    return ClipAdapter(backbone, adapter, PROMPTS, vectors=vectors_for(backbone), **options).eval()


MODELS = {
    "clip_adapter": (partial(small_model, "vit", gaussian_weight=0.5), SIZES["vit"]),
    "context": (small_context, SIZES["timm"]),
    "patchcore": (lambda: PatchCore(small_backbone("vit")).eval(), SIZES["vit"]),
    "padim": (lambda: PaDiM(small_backbone("resnet"), num_channels=40).eval(), SIZES["resnet"]),
}


@pytest.mark.parametrize(
    ("name", "shots"),
    [("clip_adapter", 0), ("clip_adapter", 3), ("context", 0), ("context", 3), ("patchcore", 3), ("padim", 3)],
)
def test_a_graph_traced_on_two_images_says_the_same_of_others(name, shots):
    make, side = MODELS[name]
    model, images = make(), random_images(5, side)
    if shots:
        model.fit(images[:shots], "nut")
    state = state_of(model, "nut")
    with torch.no_grad():
        traced = torch.jit.trace(OneGraph(model, "nut"), (images[:2], state), check_trace=False)
    if shots:
        model.fit(random_images(shots + 2, side, seed=5), "nut")  # another number of references, as a tile may have
        state = state_of(model, "nut")
    for count in (1, 5):
        expected = model.predict(images[:count], ["nut"] * count)
        maps, scores = traced(images[:count], state)
        assert_close(maps, expected.anomaly_maps, rtol=1e-5, atol=1e-5)
        assert_close(scores, expected.image_scores, rtol=1e-5, atol=1e-6)


def test_dimensions_that_count_references_are_named():
    model = small_context()
    sizes = []
    for shots in (2, 3):
        model.fit(random_images(shots, SIZES["timm"]), "nut")
        sizes.append({name: tuple(tensor.shape) for name, tensor in state_of(model, "nut").items()})
    for name, first in sizes[0].items():
        unlike = tuple(i for i, (one, other) in enumerate(zip(first, sizes[1][name], strict=True)) if one != other)
        assert unlike == varying(name), name


@pytest.mark.parametrize("name", ["spade", "winclip_vit", "utad", "ensemble", "random"])
def test_what_cannot_be_exported_says_so_by_name(name):
    model = BASELINES[name]()
    with pytest.raises(ModelInputError, match=rf"\(clip_adapter, patchcore, padim\), got {type(model).__name__}"):
        OneGraph(model, "nut")


def test_a_window_of_positions_is_refused():
    with pytest.raises(ModelInputError, match="pos_radius=null, got 1"):
        OneGraph(PatchCore(small_backbone("vit"), pos_radius=1), "nut")


def test_lower_precision_is_refused():
    model = small_model("vit")
    model.backbone.precision = "bfloat16"
    with pytest.raises(ModelInputError, match="precision float32, got bfloat16"):
        OneGraph(model, "nut")
