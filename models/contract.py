"""What every AnomalyModel promises, as checks to run on one of your own: `vandkit new-model` writes a test of them.

    @pytest.mark.parametrize("check", checks_of(Mine), ids=lambda check: check.__name__)
    def test_it_keeps_what_models_promise(check):
        check(Mine())

Each check takes a model that has learnt nothing and raises AssertionError, which says what is not kept.
"""

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.testing import assert_close

from models.base import FEW_SHOT, TRANSDUCTIVE, ZERO_SHOT, AnomalyModel, Prediction
from models.errors import ModelInputError
from models.references import Prepared, joined
from models.transductive import TransductiveModel

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""How far two ways to the same number may be apart."""
CATEGORIES = ("nut", "bolt")
SEEDS = {"nut": 10, "bolt": 11}
"""What the references of a category are drawn by."""
TEST_SET = 7
"""Images of a test set that is scored together."""
Check = Callable[[Any], None]


def checks_of(model: type[AnomalyModel]) -> list[Check]:
    """The checks that concern a model of this class: those of learning only where it serves few-shot, inductive."""
    if issubclass(model, TransductiveModel):
        return [*TOGETHER, preprocess_and_protocol_are_plain]
    return [*ALWAYS, *(LEARNING if FEW_SHOT in model.serves else ())]


def a_batch_is_one_image_at_a_time_and_the_same_each_time(model: AnomalyModel) -> None:
    """No image's prediction depends on its neighbours, on both tracks."""
    images, categories = batch(model, 4), ["nut", "bolt", "bolt", "nut"]
    for ready in _on_its_tracks(model):
        together, again = (ready.predict(images, categories) for _ in range(2))
        assert torch.equal(together.anomaly_maps, again.anomaly_maps), "the same images got other maps the second time"
        assert torch.equal(together.image_scores, again.image_scores), "the same images got other scores the next time"
        _check_numbers(together, 4)
        for i, category in enumerate(categories):
            assert_same(part(together, i), ready.predict(images[i : i + 1], [category]), f"image {i} alone")


def what_it_is_given_stays_as_it_was(model: AnomalyModel) -> None:
    """Neither `fit` nor `predict` writes into images, and training mode changes nothing."""
    images = batch(model, 2)
    copy = images.clone()
    for ready in _on_its_tracks(model):
        expected = ready.eval().predict(images, CATEGORIES)
        assert torch.equal(images, copy), "the images that were given have changed"
        assert_same(ready.train().predict(images, CATEGORIES), expected, "in training mode")


def preprocess_and_protocol_are_plain(model: AnomalyModel) -> None:
    """`preprocess` goes to other processes and gives one shape or each image's own; `protocol` is text and numbers."""
    assert pickle.dumps(model.preprocess), "`preprocess` cannot go to another process"
    sizes = [(40, 90), (300, 20)]
    shapes = [tuple(model.preprocess(pictures(1, size=size)[0]).shape) for size in sizes]
    own = [(3, *size) for size in sizes]
    assert len(set(shapes)) == 1 or shapes == own, f"expected one shape, or {own}, got {shapes}"
    assert json.loads(json.dumps(model.protocol)) == model.protocol, "protocol does not survive JSON"


def the_order_of_fit_does_not_matter(model: AnomalyModel) -> None:
    """Nor does another category."""
    images = batch(model, 2)
    alone = fitted(model, ["nut"]).predict(images[:1], ["nut"])
    both = fitted(model, ["bolt"]).predict(images, CATEGORIES)
    assert_same(part(both, 0), alone, "after another category was fitted")
    assert_same(fitted(model, ["nut"]).predict(images, CATEGORIES), both, "in another order of `fit`")


def fitting_again_replaces(model: AnomalyModel) -> None:
    """What was learnt of a category before is gone, and none of it stands in the state_dict."""
    images, known = batch(model, 1), set(model.state_dict())
    expected = fitted(model, ["nut"]).predict(images, ["nut"])
    model.fit(batch(model, 3, seed=77), "nut")
    model.predict(images, ["nut"])
    assert_same(fitted(model, ["nut"]).predict(images, ["nut"]), expected, "fitted again")
    assert set(model.state_dict()) == known, "what is learnt of a category belongs into self._states alone"


def a_category_that_was_not_fitted_is_a_key_error(model: AnomalyModel) -> None:
    """Once any was fitted; it lists those that were."""
    fitted(model)
    for ask in (lambda: model.predict(batch(model, 1), ["screw"]), lambda: model.reference_prediction("screw")):
        said = ""
        try:
            ask()
        except KeyError as error:
            said = str(error)
        assert "nut, bolt" in said, "expected a KeyError that lists the fitted categories; keep states in self._states"


def references_are_scored_as_if_they_were_not_among_them(model: AnomalyModel) -> None:
    """`reference_prediction`, which thresholds come from: a known image is the most normal of all."""
    for shots in (1, 2, 5):
        references = batch(model, shots, seed=10)
        model.fit(references, "nut")
        left_out, known = model.reference_prediction("nut"), model.predict(references, ["nut"] * shots)
        _check_numbers(left_out, len(left_out.image_scores))
        if "reference" not in left_out.scalars:
            assert len(left_out.image_scores) == shots, f"expected {shots} scores, got {len(left_out.image_scores)}"
            scores, known_scores = left_out.image_scores, known.image_scores
            above = bool((scores > known_scores).all())
            assert above, f"expected scores of references left out, {scores}, above {known_scores}, theirs as known"


def images_in_another_order_are_scored_the_same(model: TransductiveModel) -> None:
    """On both tracks, and each time."""
    images, order = batch(model, TEST_SET), torch.randperm(TEST_SET, generator=torch.Generator().manual_seed(0))
    for ready in _on_its_tracks(model):
        expected = together(ready, images)
        _check_numbers(expected, TEST_SET)
        assert_same(together(ready, images), expected, "the second time")
        assert_same(together(ready, images[order]), part(expected, order), "in another order")


def how_many_at_once_makes_no_difference(model: TransductiveModel) -> None:
    """Nor do images that are made ready when they are asked for."""
    images = batch(model, TEST_SET)
    for ready in _on_its_tracks(model):
        expected = together(ready, images, at_once=TEST_SET)
        for at_once in (1, 3):
            lazy = Prepared(range(TEST_SET), lambda i: images[i].clone())
            assert_same(together(ready, lazy, at_once), expected, f"{at_once} at a time")


def images_of_a_test_set_stay_as_they_were(model: TransductiveModel) -> None:
    """Nothing writes into images, and training mode changes nothing."""
    images = batch(model, TEST_SET)
    copy = images.clone()
    for ready in _on_its_tracks(model):
        expected = together(ready.eval(), images)
        assert torch.equal(images, copy), "the images that were given have changed"
        assert_same(together(ready.train(), images), expected, "in training mode")


def what_is_no_test_set_is_refused(model: TransductiveModel) -> None:
    """A single image, and a batch given to `predict`; the label says that images are scored together."""
    assert model.setting == TRANSDUCTIVE, f"expected the setting {TRANSDUCTIVE}, got {model.setting}"
    images = batch(model, 2)
    for ready in _on_its_tracks(model):
        for ask in (partial(together, ready, images[:1]), partial(ready.predict, images, CATEGORIES)):
            try:
                ask()
            except ModelInputError:
                continue
            raise AssertionError("expected a ModelInputError of one image, and of a batch given to `predict`")


ALWAYS: Sequence[Check] = (
    a_batch_is_one_image_at_a_time_and_the_same_each_time,
    what_it_is_given_stays_as_it_was,
    preprocess_and_protocol_are_plain,
)
LEARNING: Sequence[Check] = (
    the_order_of_fit_does_not_matter,
    fitting_again_replaces,
    a_category_that_was_not_fitted_is_a_key_error,
    references_are_scored_as_if_they_were_not_among_them,
)
TOGETHER: Sequence[Check] = (
    images_in_another_order_are_scored_the_same,
    how_many_at_once_makes_no_difference,
    images_of_a_test_set_stay_as_they_were,
    what_is_no_test_set_is_refused,
)


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (70, 50)) -> list[PIL.Image.Image]:
    """Noise, of (height, width)."""
    generator = np.random.default_rng(seed)
    return [PIL.Image.fromarray(generator.integers(0, 255, (*size, 3)).astype(np.uint8)) for _ in range(count)]


def batch(model: AnomalyModel, count: int, seed: int = 0) -> Tensor:
    """Noise as the model wants it, (count, 3, h, w)."""
    return torch.stack([model.preprocess(picture) for picture in pictures(count, seed)])


def fitted(model: AnomalyModel, order: Sequence[str] = CATEGORIES, shots: int = 2) -> AnomalyModel:
    """The model, having learnt each category from its own references."""
    for category in order:
        model.fit(batch(model, shots, SEEDS[category]), category)
    return model


def together(model: TransductiveModel, images: Sequence[Tensor] | Tensor, at_once: int = 8) -> Prediction:
    """What a transductive model says of a test set of "nut"."""
    parts = list(model.predict_together(images, "nut", at_once))
    return joined(parts, range(sum(len(each.image_scores) for each in parts)))


def part(prediction: Prediction, which: int | Tensor) -> Prediction:
    """One image of a batch, or some."""
    rows = slice(which, which + 1) if isinstance(which, int) else which
    scalars = {name: values[rows] for name, values in prediction.scalars.items()}
    return Prediction(prediction.anomaly_maps[rows], prediction.image_scores[rows], scalars)


def assert_same(a: Prediction, b: Prediction, when: str = "") -> None:
    """Two predictions are alike but for rounding."""
    pairs = {"map": (a.anomaly_maps, b.anomaly_maps), "score": (a.image_scores, b.image_scores)}
    assert a.scalars.keys() == b.scalars.keys(), f"{when}: {a.scalars.keys()} and {b.scalars.keys()}"
    for name, (one, other) in {**pairs, **{name: (a.scalars[name], b.scalars[name]) for name in a.scalars}}.items():
        assert_close(one, other, **CLOSE, msg=partial("another {} {}: {}".format, name, when))


def _on_its_tracks(model: Any) -> Iterator[Any]:
    """The model without references, then, the same one, with."""
    if ZERO_SHOT in model.serves:
        yield model
    if FEW_SHOT in model.serves:
        yield fitted(model)


def _check_numbers(prediction: Prediction, count: int) -> None:
    assert prediction.anomaly_maps.ndim == 3, f"expected maps (B, h, w), got {tuple(prediction.anomaly_maps.shape)}"
    for tensor in (prediction.anomaly_maps, prediction.image_scores, *prediction.scalars.values()):
        assert tensor.dtype == torch.float32, f"expected float32, got {tensor.dtype}"
        assert len(tensor) == count, f"expected {count} rows, got {len(tensor)}"
        assert torch.isfinite(tensor).all(), "expected finite numbers"
