"""What every AnomalyModel promises (models/base.py). A new model joins by one line in MODELS."""

import inspect
import json
import pickle
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import tracks.command.config  # noqa: F401  (registers the schema of the tracks)
from models.base import BOTH, FEW_SHOT, ZERO_SHOT, AnomalyModel
from models.baselines.coreset import greedy_coreset
from models.clip.backbone import load_backbone
from models.clip_adapter.context_adapter import ContextAdapter
from models.contract import CLOSE, assert_same, batch, fitted, pictures
from models.errors import ModelInputError
from models.references import Prepared
from models.saa.generator.grounding_dino.weights import ARCHITECTURES, random_network
from models.saa.refiner.sam.refiner import load_sam
from models.saa.saliency.features import load_wide_resnet
from tests.support.baseline_stand_ins import BASELINES, small_resnet
from tests.support.clip_stand_ins import small_model
from tests.support.saa_stand_ins import small_saa
from tests.support.second_device import DEVICE, second_device
from tests.support.vector_stand_ins import small_vector_adapter
from tracks.run.cost import CostLedger, held_bytes, read_cost

CONF = Path(__file__).resolve().parents[2] / "conf"


@cache
def _shipped_settings() -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        small = "weights.backbone.image_size=128"
        node = compose("few_shot", ["model=clip_adapter", "weights=tiny", small]).model
    return OmegaConf.to_container(node, resolve=True)


def shipped() -> AnomalyModel:
    """What `make few-shot` builds: flips, self-references, Gaussians, the adapter that compares."""
    return instantiate(_shipped_settings())


MODELS: dict[str, Callable[[], AnomalyModel]] = {
    "clip_adapter_vit": partial(small_model, "vit"),
    "clip_adapter_resnet": partial(small_model, "resnet"),
    "clip_adapter_options": partial(
        small_model, "vit", memory_stages=[2, 4], memory_weight=0.5, memory_score_map="memory",
    ),
    "shipped": shipped,
    "clip_adapter_gaussians": partial(
        small_model, "resnet", gaussian_weight=0.5, gaussian_stages=[2, 3]
    ),
    "vector_adapter_vit": small_vector_adapter,
    "vector_adapter_timm": lambda: small_vector_adapter(small_resnet()),
    "saa_plus": partial(small_saa, score_saliency=0.5),
    "saa_plus_released": partial(small_saa, rules="released", score_saliency=0.5, dense_saliency=0.1),
    **BASELINES,
}  # fmt: skip
ONE_TRACK = {
    **dict.fromkeys(("patchcore", "anomaly_dino", "padim", "spade", "subspace_ad", "superadd"), FEW_SHOT),
    **dict.fromkeys(("utad", "clipseg"), ZERO_SHOT),
}
"""By the beginning of a model's name; all others serve both tracks."""
LEARNS_NOTHING = ("random",)
LEARNS_ALL = ("ensemble", "subspace_ad", "subspace_ad_plain")
"""References, however many they are; the ensemble leaves that to its members."""
CALIBRATES_MAPS = ("ensemble", "clip_adapter_gaussians", "shipped")
"""On all references, so that a reference left out is not quite as if it had never been there."""
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")),
]


def serves(name: str, track: str) -> bool:
    only = [served for beginning, served in ONE_TRACK.items() if name.startswith(beginning)]
    return not only or track in only


FEW_SHOT_MODELS = [name for name in MODELS if serves(name, FEW_SHOT)]
LEARNERS = [name for name in FEW_SHOT_MODELS if name not in LEARNS_NOTHING]
SETTINGS = [(name, track) for name in MODELS for track in BOTH if serves(name, track)]


@cache
def built(name: str, track: str) -> AnomalyModel:
    """One that tests share and leave as it is: with references of "nut" and "bolt" on the few-shot track."""
    return fitted(MODELS[name]()) if track == FEW_SHOT else MODELS[name]()


@pytest.fixture(params=SETTINGS, ids="-".join)
def ready(request) -> AnomalyModel:
    """A model on each track that it serves."""
    return built(*request.param)


@pytest.fixture(params=MODELS)
def model(request) -> AnomalyModel:
    """A model without references, or with where it needs them."""
    return built(request.param, ZERO_SHOT if serves(request.param, ZERO_SHOT) else FEW_SHOT)


@pytest.fixture(params=FEW_SHOT_MODELS)
def few_shot_model(request) -> AnomalyModel:
    return MODELS[request.param]()


@pytest.fixture(params=LEARNERS)
def learner(request) -> AnomalyModel:
    """A few-shot model that references make a difference to."""
    return MODELS[request.param]()


def assert_alike(got, expected) -> None:
    """The same but for another processor's rounding: it moves no pixel by a hundredth of what lies between pixels.

    Float32 leaves less than a tenth of that of any model here; image scores are too few to have a spread.
    """
    got, expected = got.cpu(), expected.cpu()
    lowest, highest = expected.anomaly_maps.aminmax()
    assert_close(got.anomaly_maps, expected.anomaly_maps, rtol=0, atol=0.01 * float(highest - lowest))
    assert_close(got.image_scores, expected.image_scores, rtol=1e-3, atol=0)


def test_a_batch_of_four_equals_four_of_one_and_is_the_same_each_time(ready):
    images, categories = batch(ready, 4), ["nut", "bolt", "bolt", "nut"]
    together, again = (ready.predict(images, categories) for _ in range(2))
    assert torch.equal(together.anomaly_maps, again.anomaly_maps)
    assert torch.equal(together.image_scores, again.image_scores)
    assert together.anomaly_maps.ndim == 3
    assert together.anomaly_maps.std() > 0
    assert len(set(together.image_scores.tolist())) == 4
    for tensor in (together.anomaly_maps, together.image_scores, *together.scalars.values()):
        assert tensor.dtype == torch.float32
        assert len(tensor) == 4
        assert torch.isfinite(tensor).all()
    for i, category in enumerate(categories):
        single = ready.predict(images[i : i + 1], [category])
        assert_close(together.anomaly_maps[i : i + 1], single.anomaly_maps, **CLOSE)
        assert_close(together.image_scores[i : i + 1], single.image_scores, **CLOSE)
        for name, values in together.scalars.items():
            assert_close(values[i : i + 1], single.scalars[name], **CLOSE)


def test_neither_another_category_nor_the_order_of_fit_matters(few_shot_model):
    images = batch(few_shot_model, 2)
    alone = fitted(few_shot_model, ["nut"]).predict(images[:1], ["nut"])
    both = fitted(few_shot_model, ["bolt"]).predict(images, ["nut", "bolt"])
    assert_close(both.anomaly_maps[:1], alone.anomaly_maps, **CLOSE)
    assert_close(both.image_scores[:1], alone.image_scores, **CLOSE)
    assert_same(fitted(few_shot_model, ["nut"]).predict(images, ["nut", "bolt"]), both)


def test_fitting_again_replaces(learner):
    images = batch(learner, 1)
    expected = fitted(learner, ["nut"]).predict(images, ["nut"])
    learner.fit(batch(learner, 3, seed=77), "nut")
    assert (learner.predict(images, ["nut"]).anomaly_maps - expected.anomaly_maps).abs().max() > 1e-4
    assert_same(fitted(learner, ["nut"]).predict(images, ["nut"]), expected)


def test_an_unfitted_category_is_a_key_error_that_lists_the_fitted(few_shot_model):
    model = fitted(few_shot_model)
    with pytest.raises(KeyError, match=r"screw.*nut, bolt"):
        model.predict(batch(model, 2), ["nut", "screw"])
    with pytest.raises(KeyError, match=r"screw.*nut, bolt"):
        model.reference_prediction("screw")


@pytest.mark.parametrize("name", MODELS)
def test_every_category_is_fine_without_references_or_refused_with_those_who_serve_it(name):
    model = MODELS[name]()
    if serves(name, ZERO_SHOT):
        assert len(model.predict(batch(model, 1), ["screw"]).image_scores) == 1
        return
    with pytest.raises(ModelInputError, match=r"make few-shot MODEL=.*zero-shot track: clip_adapter.*winclip"):
        model.predict(batch(model, 1), ["screw"])


@pytest.mark.parametrize("name", [name for name in MODELS if not serves(name, FEW_SHOT)])
def test_references_are_refused_by_those_who_cannot_learn_from_them(name):
    model = MODELS[name]()
    with pytest.raises(ModelInputError, match=r"make zero-shot MODEL=.*few-shot track: clip_adapter.*patchcore"):
        model.fit(batch(model, 1), "nut")


@pytest.mark.parametrize("name", [name for name in LEARNERS if serves(name, ZERO_SHOT)])
def test_references_change_the_prediction(name):
    before, after = (built(name, track) for track in BOTH)
    images = batch(before, 1)
    maps = [model.predict(images, ["nut"]).anomaly_maps for model in (before, after)]
    assert (maps[0] - maps[1]).abs().max() > 1e-4


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_references_are_scored_as_if_they_were_not_among_them(learner, shots):
    references = batch(learner, shots, seed=10)
    learner.fit(references, "nut")
    left_out = learner.reference_prediction("nut")
    remembered = learner.predict(references, ["nut"] * shots)
    assert left_out.anomaly_maps.shape == remembered.anomaly_maps.shape
    assert left_out.image_scores.shape == (shots,)
    assert left_out.scalars.keys() == remembered.scalars.keys()
    assert (left_out.image_scores > remembered.image_scores).all()  # a known image is the most normal of all


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in CALIBRATES_MAPS])
def test_a_reference_left_out_scores_as_a_test_image_of_the_others(name):
    learner = MODELS[name]()
    references = batch(learner, 3, seed=10)
    learner.fit(references, "nut")
    left_out = learner.reference_prediction("nut").anomaly_maps
    for i in range(3):
        others = [n for n in range(3) if n != i]
        learner.fit(references[others], "nut")
        assert_close(learner.predict(references[i : i + 1], ["nut"]).anomaly_maps[0], left_out[i], **CLOSE)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in LEARNS_ALL])
def test_of_many_references_some_are_remembered_and_the_others_scored_as_test_images(name):
    model = MODELS[name]()
    model._many.most = 2
    references, asked = batch(model, 5, seed=10), []

    def prepare(index: int) -> torch.Tensor:
        asked.append(index)
        return references[index]

    model.fit(Prepared(range(5), prepare), "nut")
    assert asked == [0, 2]
    every = model.reference_prediction("nut")
    assert sorted(asked) == [0, 1, 2, 3, 4]  # one by one, each once
    others = model.predict(references[[1, 3, 4]], ["nut"] * 3)
    model.fit(references[[0, 2]], "nut")
    assert_same(model.predict(references[[1, 3, 4]], ["nut"] * 3), others)
    left_out = model.reference_prediction("nut")
    for part, positions in ((left_out, [0, 2]), (others, [1, 3, 4])):
        assert_close(every.anomaly_maps[positions], part.anomaly_maps, **CLOSE)
        assert_close(every.image_scores[positions], part.image_scores, **CLOSE)
    assert "of more than 2 references" in model.protocol["few_shot_calibration"]


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in LEARNS_ALL])
def test_memory_does_not_grow_with_references_that_are_only_scored(name):
    model, held = MODELS[name](), []
    model._many.most = 3
    image = batch(model, 1)[0]
    for count in (5, 9):
        model.fit(Prepared(range(count), lambda _: image), "nut")
        held.append(held_bytes(model))
    assert held[0] == held[1]


@pytest.mark.parametrize("name", ["patchcore_vit", "padim", "spade", "spade_timm"])
def test_references_that_are_one_image_are_0_apart(name):
    model = MODELS[name]()
    model.fit(batch(model, 1).expand(3, -1, -1, -1), "nut")
    left_out = model.reference_prediction("nut")
    assert not left_out.anomaly_maps.any()
    assert not left_out.image_scores.any()


def test_input_is_not_changed(few_shot_model):
    model = few_shot_model
    references, images = batch(model, 2, seed=10), batch(model, 2)
    copies = references.clone(), images.clone()
    model.fit(references, "nut")
    model.predict(images, ["nut", "nut"])
    assert torch.equal(references, copies[0])
    assert torch.equal(images, copies[1])


def test_it_works_under_inference_mode_and_after_it(few_shot_model):
    model = few_shot_model
    images = batch(model, 1)
    with torch.inference_mode():
        fitted(model)
        inside = model.predict(images, ["nut"])
    assert_same(model.predict(images, ["nut"]), inside)
    model.reference_prediction("nut")


def test_training_mode_changes_nothing(ready):
    model = ready
    images = batch(model, 2)
    expected = model.predict(images, ["nut", "nut"])
    assert_same(model.train().predict(images, ["nut", "nut"]), expected)
    assert_same(model.eval().predict(images, ["nut", "nut"]), expected)


def test_what_is_learnt_is_neither_in_the_state_dict_nor_in_the_protocol(few_shot_model):
    before, protocol = set(few_shot_model.state_dict()), few_shot_model.protocol
    assert set(fitted(few_shot_model).state_dict()) == before
    assert few_shot_model.protocol == protocol


def test_preprocess_is_picklable_and_of_one_shape_or_of_the_images_own(model):
    preprocess = pickle.loads(pickle.dumps(model.preprocess))
    sizes = [(40, 90), (300, 20)]
    wide, high = (preprocess(pictures(1, size=size)[0]) for size in sizes)
    assert wide.shape == high.shape or [wide.shape, high.shape] == [(3, *size) for size in sizes]
    assert wide.dtype == high.dtype == (torch.float32 if wide.shape == high.shape else torch.uint8)


def test_a_list_of_images_is_like_a_batch_and_may_hold_several_sizes(ready):
    model = ready
    images = [model.preprocess(picture) for picture in (*pictures(2, seed=1), *pictures(1, seed=2, size=(40, 60)))]
    together = model.predict(images, ["nut", "bolt", "nut"])
    assert_close(
        together.anomaly_maps[:2], model.predict(torch.stack(images[:2]), ["nut", "bolt"]).anomaly_maps, **CLOSE
    )
    assert_close(together.image_scores[2:], model.predict([images[2]], ["nut"]).image_scores, **CLOSE)


def test_references_may_be_a_list_of_several_sizes(few_shot_model):
    model = few_shot_model
    sizes = [(70, 50), (70, 50), (40, 60)]
    model.fit([model.preprocess(pictures(1, seed, size)[0]) for seed, size in enumerate(sizes)], "nut")
    assert model.reference_prediction("nut").image_scores.shape == (3,)


def test_protocol_is_plain(model):
    before = model.protocol
    assert json.loads(json.dumps(before)) == before
    assert all(isinstance(value, str | int | float | bool) for value in before.values())


def test_the_constructor_swallows_nothing(model):
    kinds = {parameter.kind for parameter in inspect.signature(type(model).__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("device", DEVICES)
def test_images_are_moved_to_the_model_and_predictions_are_on_it(ready, device):
    images, categories = batch(ready, 3), ["nut", "bolt", "nut"]
    expected = ready.predict(images, categories)
    ready.to(device)  # moves what was learnt
    try:
        for given in (images, images.to(device), list(images)):
            got = ready.predict(given, categories)
            for tensor in (got.anomaly_maps, got.image_scores, *got.scalars.values()):
                assert tensor.device == ready.device == torch.empty(0, device=device).device
            assert_alike(got, expected)
    finally:
        ready.to("cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_references_are_learnt_and_scored_on_the_device(few_shot_model, device):
    model = few_shot_model
    images = batch(model, 2)
    expected = fitted(model).predict(images, ["nut", "bolt"]), model.reference_prediction("nut")
    got = fitted(model.to(device)).predict(images, ["nut", "bolt"]), model.reference_prediction("nut")
    for one, other in zip(got, expected, strict=True):
        assert one.anomaly_maps.device == one.image_scores.device == model.device
        if getattr(model, "coreset", 1) == 1 or device == "cpu":
            assert_alike(one, other)
        else:  # rounding decides between rows that are equally far, and thereby what all later ones are
            apart = (one.anomaly_maps.cpu() - other.anomaly_maps).abs().mean()
            assert apart < 0.3 * other.anomaly_maps.std()


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_coreset_is_chosen_alike_on_the_device_where_nothing_is_rounded_to_a_tie(device):
    rows = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert greedy_coreset(rows.to(device), 600).tolist() == greedy_coreset(rows, 600).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_moving_there_and_back_changes_nothing_and_precision_stays(few_shot_model, device):
    model = fitted(few_shot_model)
    images = batch(model, 2)
    expected, left_out = model.predict(images, ["nut", "bolt"]), model.reference_prediction("bolt")
    model.to(device)
    for change in (model.half, model.float, model.double, model.bfloat16, lambda: model.to(torch.float16)):
        change()
    model.to("cpu")
    again = model.predict(images, ["nut", "bolt"])
    assert torch.equal(again.anomaly_maps, expected.anomaly_maps)
    assert torch.equal(again.image_scores, expected.image_scores)
    assert torch.equal(model.reference_prediction("bolt").anomaly_maps, left_out.anomaly_maps)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU and need not play one")
@pytest.mark.parametrize(("name", "track"), SETTINGS)
def test_no_tensor_is_left_behind_on_a_device_that_is_played(name, track):
    model = MODELS[name]()
    images, references = batch(model, 2), batch(model, 2, seed=10)
    if track == FEW_SHOT:
        model.fit(references, "nut")
    expected = model.predict(images, ["nut", "nut"])
    with second_device():
        model.to(DEVICE)
        said = [model.predict(images, ["nut", "nut"])]
        assert_same(said[0].cpu(), expected)
        if track == FEW_SHOT:
            model.fit(references[:1], "nut")
            said += [model.reference_prediction("nut"), model.predict(images.to(DEVICE), ["nut", "nut"])]
            model.fit(references, "bolt")
            said.append(model.reference_prediction("bolt"))
        for each in said:
            for tensor in (each.anomaly_maps, each.image_scores, *each.scalars.values()):
                assert tensor.device == model.device == DEVICE


@pytest.mark.parametrize("name", FEW_SHOT_MODELS)
def test_all_that_is_learnt_goes_where_the_model_goes(name):
    model = fitted(MODELS[name]()).to("meta")
    here = [(path, tensor) for path, tensor in tensors_of(model) if tensor.device.type != "meta"]
    given = [path for path, tensor in here if tensor.dtype == torch.uint8]  # images, which are resized on the processor
    numbers = [path for path, tensor in here if tensor.ndim == 0]  # which may meet any device
    assert [path for path, _ in here if path not in given + numbers] == []


def tensors_of(thing: object, path: str = "model", seen: set[int] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that a thing holds in its attributes and their containers, with the path to it."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield path, thing
        return
    items = thing if isinstance(thing, dict) else dict(enumerate(thing)) if isinstance(thing, list | tuple) else {}
    if not items and hasattr(thing, "__dict__") and not isinstance(thing, type | ModuleType):
        items = vars(thing)
    for name, value in items.items():
        yield from tensors_of(value, f"{path}.{name}", seen)


class Convolutions(TorchDispatchMode):
    """Notes in which precision convolutions of float32 would be on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.precisions.add(torch.backends.cudnn.conv.fp32_precision)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["clip_adapter_resnet", "patchcore_coreset", "padim", "spade_timm", "winclip_vit"])
def test_float32_is_not_rounded_to_tf32(name):
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # as torch begins, whatever an earlier test chose
    model = MODELS[name]()
    with Convolutions() as seen:
        model.fit(batch(model, 1), "nut")
        model.predict(batch(model, 1), ["nut"])
    assert seen.precisions == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["clip_adapter_vit", "clip_adapter_resnet", "winclip_vit", "shipped"])
def test_half_precision_is_near_float32(name, precision, device):
    model = MODELS[name]().to(device)
    images = batch(model, 2)
    expected = fitted(model).predict(images, ["nut", "bolt"])
    model.backbone.precision = precision
    got = fitted(model).predict(images, ["nut", "bolt"])
    spread = expected.anomaly_maps.std()
    assert got.anomaly_maps.dtype == torch.float32
    assert 0 < (got.anomaly_maps - expected.anomaly_maps).abs().mean() < 0.2 * spread
    assert precision in model.protocol.get("precision", precision)


@pytest.mark.parametrize("device", DEVICES)
def test_its_cost_is_measured_on_its_device(learner, device, tmp_path):
    model = learner.to(device)
    ledger = CostLedger(tmp_path, time.perf_counter(), model.device)
    with ledger.fit(model):
        fitted(model, ["nut"])
    with ledger.predicting:
        model.predict(batch(model, 2), ["nut", "nut"])
    ledger.keep("nut", 2)
    cost = read_cost(tmp_path)
    assert cost["categories"]["nut"]["bank_bytes"] > 0
    assert cost["categories"]["nut"]["predict_seconds"] > 0
    assert (cost["gpu_memory_mb"] > 0) == (device == "cuda")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["clip_adapter_vit", "clip_adapter_resnet", "shipped"])
def test_one_step_of_training_is_the_same_on_the_device(name, device):
    losses = []
    for place in ("cpu", device):
        model = MODELS[name]().to(place)
        features = model.backbone.encode_image(batch(model, 4).to(place))
        optimizer = torch.optim.Adam(model.adapter.parameters(), lr=1e-3)
        for _ in range(2):
            known = [model.adapter.remember(features)] if isinstance(model.adapter, ContextAdapter) else []
            tokens, _ = model.adapter.adapt(features, *known)
            loss = torch.stack([each.square().mean() for each in tokens]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


BUILDERS: dict[str, Callable[[], object]] = {
    **MODELS,
    "sam": lambda: load_sam("vit_b", weights="random:0"),
    "grounding_dino": lambda: random_network(ARCHITECTURES["small"], 0),
    "wide_resnet": lambda: load_wide_resnet("random:0"),
    "clip": lambda: load_backbone("tiny", weights="random:0", image_size=32, stages=[1], activation="gelu"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BUILDERS)
def test_building_it_draws_from_nobody_elses_generator(name, device):
    generators = [torch.random.default_generator]
    if device == "cuda":
        torch.empty(0, device=device)
        generators += torch.cuda.default_generators
    if name == "grounding_dino":
        pytest.importorskip("yapf.yapflib.yapf_api", reason="groundingdino reads settings by yapf, which is not whole")
    before = [generator.get_state() for generator in generators]
    BUILDERS[name]()
    for generator, state in zip(generators, before, strict=True):
        assert torch.equal(generator.get_state(), state)
