"""The contract of every model in this project: `AnomalyModel` and what it returns, `Prediction`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar

import PIL.Image
import torch
from torch import Tensor

from models.errors import ModelInputError
from models.frozen import Frozen, whole_float32

if TYPE_CHECKING:
    from models.references import ManyReferences

ZERO_SHOT, FEW_SHOT = "zero-shot", "few-shot"
BOTH = (ZERO_SHOT, FEW_SHOT)
INDUCTIVE, TRANSDUCTIVE = "inductive", "transductive"
MODELS_OF_TRACK = {
    ZERO_SHOT: "clip_adapter, vector_adapter, saa, saa_plus, winclip, musc, utad, clipseg, subspace_ad_batch, "
    "anomaly_dino_batch",
    FEW_SHOT: "clip_adapter, vector_adapter, saa, saa_plus, winclip, patchcore, anomaly_dino, padim, spade, "
    "subspace_ad, superadd",
}
State = dict[str, Tensor]
"""What was learnt of one category: tensors by name, so that it can be written to a file as it is."""
Kept = TypeVar("Kept")

Images = Tensor | Sequence[Tensor]
"""Preprocessed images: one (B, 3, h, w) tensor, or B tensors (3, h, w) where a model's `preprocess` keeps sizes."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B images; float32, higher = more anomalous.

    `anomaly_maps` is (B, h, w) at the model's own map size (the runner resizes, once) and
    `image_scores` is (B,), each computed from its own image (and the references) alone.
    `scalars` holds further per-image numbers by name, each (B,), that a rescoring outside the
    model may need (the legacy transductive image score of APRIL-GAN, for one).
    """

    anomaly_maps: Tensor
    image_scores: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)

    def cpu(self) -> "Prediction":
        """The same on the processor: what is done image by image begins with one transfer of the batch."""
        scalars = {name: values.cpu() for name, values in self.scalars.items()}
        return Prediction(self.anomaly_maps.cpu(), self.image_scores.cpu(), scalars)


class ByCategory(dict[str, Kept]):
    """What a model learnt by category; asked for another one it says which there are."""

    def __missing__(self, category: str) -> NoReturn:
        known = ", ".join(self) or "none"
        raise KeyError(f"expected a category with references, got {category!r}; fitted: {known}; call `fit` for it")


class AnomalyModel(Frozen, ABC):
    """A zero- and few-shot anomaly detector.

    Zero-shot is simply never calling `fit`. State is held by category, `_states`, and is not in the `state_dict`.

    One rule for devices: a model is on one, and `to`, `cuda` and `cpu` move all of it, what was learnt of references
    too; images are moved to it wherever they lie, and predictions are on it. Its precision is an argument of its parts:
    `half`, `double` and the like change nothing, neither weights nor what was learnt; and float32 is that on a GPU too,
    never TF32. No gradients are kept.
    """

    preprocess: Callable[[PIL.Image.Image], Tensor]
    """One RGB image to (3, h, w), of one size or of its own; belongs to the weights, picklable for loader workers."""

    scores_are_probabilities: ClassVar[bool] = False
    """Whether image scores lie in [0, 1] and are fitted best by their log odds."""

    setting: ClassVar[str] = INDUCTIVE
    """Whether an image is scored by itself, or all of a test set together (models/transductive.py)."""

    serves: ClassVar[Sequence[str]] = BOTH
    """The tracks that the model can run on; the other one is refused."""

    def __init_subclass__(cls) -> None:
        """Check calls, and keep float32 whole, wherever a model learns or predicts."""
        super().__init_subclass__()
        for name in ("fit", "add", "predict", "reference_prediction"):
            if name in vars(cls):
                setattr(cls, name, _as_promised(vars(cls)[name]))

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_here", torch.empty(0), persistent=False)
        self._states: ByCategory[State] = ByCategory()

    @property
    def device(self) -> torch.device:
        """Where the model is, its predictions are, and images are moved to."""
        return self._here.device  # type: ignore[return-value, union-attr]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `fn` to another device, never to another precision."""
        for state in self._states.values():
            state.update({name: moved(tensor, fn) for name, tensor in state.items()})
        return super()._apply(lambda tensor: moved(tensor, fn), recurse)

    def fit(self, references: Images, category: str) -> None:
        """Learn what `category` looks like from K >= 1 preprocessed normal images.

        Hundreds of them may come as a sequence that makes each image ready when it is asked for. Replaces
        whatever was learnt for that category before. A model of zero-shot alone leaves this as it is.

        Raises:
            ModelInputError: the model cannot learn from references.
        """
        refuse(type(self).__name__.lower(), FEW_SHOT)

    @abstractmethod
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B preprocessed images of B named categories; B = 1 is like any other B.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted; lists those that were.
            ModelInputError: images of another shape; not one category for each image; before any `fit`, of a model of
                few-shot alone.
        """

    def reference_prediction(self, category: str) -> Prediction:
        """The K references of a fitted category, each scored as if it were a test image.

        Each is left out of what the model learnt while it is scored (for K = 1 the model says in its
        `protocol` what it does instead), so that a decision threshold can be fitted on normal images alone.
        A model may score several views of each, the image as it is first: then the scalar "reference" says
        which reference (0 to K - 1) each row is of.
        """
        refuse(type(self).__name__.lower(), FEW_SHOT)

    def map_threshold(self, category: str) -> float | None:
        """The value above which a pixel of a fitted category's maps is a defect, learnt of its references; None if the
        model has none.
        """
        return None

    def state(self, category: str) -> State:
        """All that was learnt of a fitted category, for a file; `load_state` of a model built alike takes it.

        Raises:
            KeyError: a category that was not fitted.
            ModelInputError: the model keeps nothing that could be written.
        """
        if not self._states:
            raise ModelInputError(
                f"expected a model that keeps in `_states` what it learnt of a category, got {type(self).__name__}, "
                "which cannot be kept in a file; give it the references each time, or let it have `state` and "
                "`load_state`"
            )
        return dict(self._states[category])

    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it, from the `state` and the K references that were fitted.

        Those that a model does not remember are looked at when `reference_prediction` is asked for.
        """
        self._states[category] = {name: tensor.to(self.device) for name, tensor in state.items()}
        many: ManyReferences | None = getattr(self, "_many", None)
        if many is not None:
            many.among(references, category)

    @property
    @abstractmethod
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this model must carry: rules, training data, map size."""


def below(state: State, prefix: str) -> State:
    """What of a state stands under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def moved(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor on the device that `fn`, one of `nn.Module`'s for `_apply`, puts tensors on."""
    return tensor.to(fn(tensor.new_empty(0)).device)


def _as_promised(method: Callable[..., Any]) -> Callable[..., Any]:
    """`fit`, `predict` or `reference_prediction` of a class, with what all models promise around it."""

    @wraps(method)
    def kept(self: AnomalyModel, *given: Any, **named: Any) -> Any:
        if method.__name__ == "predict":
            _check_call(self, *given, **named)
        with torch.no_grad(), whole_float32():
            return method(self, *given, **named)

    return kept


def _check_call(model: AnomalyModel, images: Images, categories: Sequence[str]) -> None:
    check_categories(images, categories)
    if ZERO_SHOT not in model.serves and not model._states:
        refuse(type(model).__name__.lower(), ZERO_SHOT)
    for category in categories if model._states else ():
        model._states[category]


def refuse(model: str, track: str) -> NoReturn:
    """Say that a model does not serve a track, and which do.

    Raises:
        ModelInputError: always.
    """
    if track == ZERO_SHOT:
        raise ModelInputError(
            f"expected references for {model}, which knows nothing without normal images, got none; run `make few-shot "
            f"MODEL={model}`, or choose a model of the zero-shot track: {MODELS_OF_TRACK[track]}"
        )
    raise ModelInputError(
        f"expected no references for {model}, which cannot learn from them, got some; run `make zero-shot "
        f"MODEL={model}`, or choose a model of the few-shot track: {MODELS_OF_TRACK[track]}"
    )


def check_categories(images: Images, categories: Sequence[str]) -> None:
    """Refuse anything but one category for each image.

    Raises:
        ModelInputError: another number of them, or one text in place of a sequence.
    """
    if isinstance(categories, str) or len(categories) != len(images):
        raise ModelInputError(f"expected one category for each of {len(images)} images, got {categories!r}")


def stacked(images: Images, device: torch.device | None = None) -> Tensor:
    """The images as one (B, 3, h, w) tensor, on a device if one is given, for a model whose images are all of one size.

    Raises:
        ModelInputError: images of unlike sizes.
    """
    if isinstance(images, Tensor):
        # A copy to the processor is waited for: what reads it there would not.
        return images if device is None else images.to(device, non_blocking=device.type != "cpu")
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise ModelInputError(
            f"expected images of one size, got {', '.join(map(str, sorted(shapes)))}; make each with the model's own "
            "`preprocess`"
        )
    together = torch.stack(list(images))
    return together if device is None else together.to(device)


def as_batch(images: Images, device: torch.device | str) -> Images:
    """B images (3, h, w) as one (B, 3, h, w) tensor, on its way to the device; or as a list where their sizes differ.

    Images of bytes stay where they are: models that take them resize them on the processor first.
    """
    given = list(images)
    if len({image.shape for image in given}) > 1 or not given[0].is_floating_point():
        return given
    batch, to_gpu = torch.stack(given), torch.device(device).type == "cuda"
    return batch.pin_memory().to(device, non_blocking=True) if to_gpu and batch.is_cpu else batch.to(device)


def groups(categories: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Each category once, with the indices (n,) of its images in the batch."""
    for category in dict.fromkeys(categories):
        yield category, torch.tensor([i for i, name in enumerate(categories) if name == category])
