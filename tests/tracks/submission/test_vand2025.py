"""The model for the harness of VAND 3.0's few-shot track, and the validator that plays the harness."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

import tracks.command.config  # noqa: F401  (registers the keys of the tracks)
from models.base import AnomalyModel, Prediction, stacked
from tests.support.baseline_stand_ins import small_patchcore
from tracks.command.cli import CONF
from tracks.errors import TrackInputError
from tracks.submission.vand2025_check import validate
from tracks.submission.vand2025_model import Model, Scored, shipped_model, to_photo

SIZE = 32


def to_float(photo):
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255


class Distance(AnomalyModel):
    """The map is how far each pixel lies from the mean of the references (or from grey), the score its maximum."""

    def __init__(self):
        super().__init__()
        self.preprocess = to_float
        self.means = {}

    def fit(self, references, category):
        self.means[category] = stacked(references).mean(0)

    def predict(self, images, categories):
        means = torch.stack([self.means[c] if self.means else torch.full((3, 1, 1), 0.5) for c in categories])
        maps = (stacked(images) - means).abs().mean(1)
        return Prediction(maps[:, ::2, ::2], maps.amax((1, 2)))

    def reference_prediction(self, category):
        raise NotImplementedError

    @property
    def protocol(self):
        return {}


def data(count, seed=0):
    """Images whose levels are those of 8 bit."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator) / 255


def ready(images=None, category="bolt"):
    model = Model(Distance)
    model.setup({"few_shot_samples": images, "dataset_category": category})
    return model


def test_the_references_and_the_images_reach_the_model_and_its_answer_comes_back():
    references, images = data(4, 1), data(3, 2)
    result = ready(references)(images)
    difference = to_float(to_photo(images[1])) - torch.stack([to_float(to_photo(r)) for r in references]).mean(0)
    torch.testing.assert_close(result.pred_score[1], difference.abs().mean(0).max())
    assert (result.pred_score.shape, result.anomaly_map.shape) == ((3,), (3, SIZE, SIZE))
    assert result.pred_score.dtype == torch.float32
    expected = nn.functional.interpolate(difference.abs().mean(0)[None, None, ::2, ::2], (SIZE, SIZE), mode="bilinear")
    torch.testing.assert_close(result.anomaly_map[1], expected[0, 0])


def test_eight_bit_levels_survive_the_way_to_a_photo():
    image = data(1)[0]
    back = torch.from_numpy(np.array(to_photo(image))).permute(2, 0, 1)
    torch.testing.assert_close(back, (image * 255).round().byte())


def test_another_setup_replaces_the_first():
    model = ready(data(2, 1))
    first = model(data(3)).pred_score
    model.setup({"few_shot_samples": data(2, 5), "dataset_category": "bolt"})
    assert not torch.allclose(model(data(3)).pred_score, first)
    model.setup({"few_shot_samples": data(2, 1), "dataset_category": "bolt"})
    torch.testing.assert_close(model(data(3)).pred_score, first)


def test_without_references_it_is_zero_shot():
    result = ready(None)(data(1))
    assert result.pred_score.shape == (1,)


def test_anomalib_s_own_batch_is_returned_where_it_is_installed(monkeypatch):
    package, module = ModuleType("anomalib"), ModuleType("anomalib.data")
    module.ImageBatch = lambda **fields: SimpleNamespace(own=True, **fields)
    monkeypatch.setitem(sys.modules, "anomalib", package)
    monkeypatch.setitem(sys.modules, "anomalib.data", module)
    result = ready(data(1))(data(2))
    assert result.own
    assert result.pred_score.shape == (2,)
    monkeypatch.setitem(sys.modules, "anomalib.data", None)
    assert isinstance(ready(data(1))(data(2)), Scored)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Model(Distance)(data(1)), "before the first image"),
        (lambda: ready(data(1))(data(1)[0]), r"expected float images \(N, 3, h, w\)"),
        (lambda: ready(data(1))(data(1) * 255), r"expected pixels in \[0, 1\], got 0 to 255"),
        (lambda: ready((data(1) * 255).byte()), "torch.uint8"),
        (lambda: ready(data(1), category=None), "name of a category"),
        (lambda: ready(data(1)).setup({"dataset_category": "nut"}), "expected few_shot_samples"),
    ],
)
def test_wrong_calls_get_a_sentence(call, text):
    with pytest.raises(TrackInputError, match=text):
        call()


def test_the_default_is_the_model_of_the_track_s_configuration():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configured = instantiate(compose("few_shot").model).eval()
    ours = shipped_model().eval()
    assert ours.protocol == configured.protocol
    image = configured.preprocess(to_photo(data(1)[0]))[None]
    with torch.inference_mode():
        found, expected = ours.predict(image, ["metal_nut"]), configured.predict(image, ["metal_nut"])
    torch.testing.assert_close(found.image_scores, expected.image_scores)
    torch.testing.assert_close(found.anomaly_maps, expected.anomaly_maps)


class Ours(Model):
    def __init__(self):
        super().__init__(Distance)


def test_ours_is_accepted():
    assert validate(Ours, size=SIZE) == []
    assert validate(lambda: Model(small_patchcore), shots=1, size=48) == []


class NeedsArgument(Ours):
    def __init__(self, path):
        super().__init__()


class NoModule:
    def setup(self, setup_data): ...


class NoSetup(nn.Module):
    def weights_url(self, category):
        return None

    def forward(self, image):
        return Scored(image, image.mean((1, 2, 3)), image[:, 0])


class NoAddress(nn.Module):
    def setup(self, setup_data): ...

    def forward(self, image):
        return Scored(image, image.mean((1, 2, 3)), image[:, 0])


class NoForward(nn.Module):
    def setup(self, setup_data): ...

    def weights_url(self, category):
        return None


class LocalAddress(Ours):
    def weights_url(self, category):
        return "/home/me/weights.pt"


class SetupFails(Ours):
    def setup(self, setup_data):
        raise KeyError("few_shot_images")


class OneOnly(Ours):
    def forward(self, image):
        assert len(image) == 1
        return super().forward(image)


def spoilt(change):
    """A class whose result is changed; `change(result)` gives the fields."""

    class Spoilt(Ours):
        def forward(self, image):
            result = super().forward(image)
            return Scored(**{**vars(result), **change(result)})

    return Spoilt


class Dictionary(Ours):
    def forward(self, image):
        return vars(super().forward(image))


class Overwrites(Ours):
    def forward(self, image):
        result = super().forward(image)
        image.mul_(0.5)
        return result


class Chance(Ours):
    def forward(self, image):
        return Scored(image, torch.rand(len(image)), image[:, 0])


class KeepsFirst(Ours):
    """Never lets go of a reference."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def setup(self, setup_data):
        self.seen.append(setup_data["few_shot_samples"] * len(self.seen))
        samples = torch.cat(self.seen).clamp(0, 1)
        super().setup({**setup_data, "few_shot_samples": samples})


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (NeedsArgument, "construction"),
        (NoModule, "type"),
        (NoSetup, "setup"),
        (NoAddress, "weights_url"),
        (NoForward, "forward"),
        (LocalAddress, "weights_url"),
        (SetupFails, "setup"),
        (OneOnly, "forward"),
        (Dictionary, "result"),
        (spoilt(lambda r: {"pred_score": None}), "result"),
        (spoilt(lambda r: {"pred_score": r.pred_score[:, None]}), "shape"),
        (spoilt(lambda r: {"pred_score": r.pred_score.mean()}), "shape"),
        (spoilt(lambda r: {"pred_score": r.pred_score > 0.5}), "dtype"),
        (spoilt(lambda r: {"pred_score": r.pred_score / 0}), "number"),
        (spoilt(lambda r: {"anomaly_map": r.anomaly_map[:, ::2]}), "map"),
        (spoilt(lambda r: {"pred_score": r.pred_score - r.pred_score.mean()}), "batch"),
        (Chance, "repeat"),
        (KeepsFirst, "state"),
        (Overwrites, "input"),
    ],
)
def test_each_broken_class_is_named_with_its_problem(made, kind):
    assert kind in {problem.kind for problem in validate(made, size=SIZE)}
