"""A model of one category as one graph from images to maps and scores, for runtimes that know neither us nor torch.

What was learnt of the category goes in beside the images, so that one network serves the whole and each tile's
position. Tiles, preprocessing and the threshold stay outside.
"""

from copy import copy

from torch import Tensor, nn

from models.base import AnomalyModel, Prediction, State, below
from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.clip_adapter.context_adapter import References
from models.clip_adapter.evidence import averaged
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.frozen import one_graph
from models.gaussians import Gaussians, PatchGaussians
from models.neighbourhoods import Neighbourhoods
from models.texture import Texture

EXPORTED = {ClipAdapter: "clip_adapter", PatchCore: "patchcore", PaDiM: "padim"}
"""The models that can be written as one graph, and the names of their configurations."""
COUNTS = {"tokens": (0,), "bank": (0,), "centred": (1,), "inner": (1, 2)}
"""By the last part of a state's name: which of its dimensions count references, or rows of a bank."""


class OneGraph(nn.Module):
    """(B, 3, S, S) images and the state of a category to maps (B, S, S) and scores (B,).

    Args:
        model: one of `EXPORTED`, in evaluation mode.
        category: what it has learnt, or is to be asked for in words.

    Raises:
        ModelInputError: a model that cannot be written so.
    """

    def __init__(self, model: AnomalyModel, category: str):
        super().__init__()
        check_can_be_exported(model)
        self.model = model
        self.category = category

    def forward(self, images: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Maps and scores."""
        with one_graph():
            found = self._found(images, state)
        return found.anomaly_maps, found.image_scores

    def _found(self, images: Tensor, state: State) -> Prediction:
        model = self.model
        if isinstance(model, ClipAdapter):
            return _clip_adapter(model, self.category, images, state)
        if isinstance(model, PatchCore):
            return model._prediction(*model._assessed(model._patches(images), state["bank"]))
        assert isinstance(model, PaDiM)
        gaussians = Gaussians(state["mean"], state["centred"], state["inner"], model.regularisation)
        return model._prediction(gaussians.distance(model._tokens(images)))


def check_can_be_exported(model: AnomalyModel) -> None:
    """Refuse a model that cannot be written as one graph.

    Raises:
        ModelInputError: such a model, or one of another precision than float32.
    """
    if type(model) not in EXPORTED:
        raise ModelInputError(
            f"expected a model that can be exported ({', '.join(EXPORTED.values())}), got {type(model).__name__}, "
            "which works on lists of regions or images that no single graph holds; judge by it with `vandkit predict`"
        )
    if isinstance(model, PatchCore) and model.pos_radius is not None:
        raise ModelInputError(
            f"expected model.pos_radius=null, got {model.pos_radius}; the exported graph compares with all positions"
        )
    precision = model.backbone.precision  # type: ignore[union-attr]
    if precision != "float32":
        raise ModelInputError(
            f"expected weights of precision float32, got {precision}; the exported copy is made lighter by "
            "format=openvino precision=float16"
        )


def state_of(model: AnomalyModel, category: str) -> State:
    """What goes in beside the images: what was learnt of a category, and its words; float32, or float64 as learnt."""
    if not isinstance(model, ClipAdapter):
        known = model.state(category)
        return {name: known[name] for name in ("bank", "mean", "centred", "inner") if name in known}
    state = {"text": model._text(category, model.device)}
    fitted = model._fitted.get(category)
    if fitted is None:
        return state
    if fitted.memory is not None and fitted.typical_max is not None:
        state["typical_max"] = fitted.typical_max
        state |= {f"bank{i}.tokens": bank.tokens for i, bank in enumerate(fitted.memory.banks)}
    for part, learnt in fitted.parts().items():
        tensors = learnt.stage_tensors() if isinstance(learnt, PatchGaussians) else learnt.tensors()
        state |= {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    for view, known_references in enumerate(fitted.references):
        if known_references is not None:
            state |= {f"view{view}.{n}.tokens": tokens for n, tokens in enumerate(known_references.tokens)}
    return state


def varying(name: str) -> tuple[int, ...]:
    """The dimensions of a tensor of the state that differ with the number of references."""
    return COUNTS.get(name.rpartition(".")[2].rstrip("0123456789"), ())


def _clip_adapter(model: ClipAdapter, category: str, images: Tensor, state: State) -> Prediction:
    text = state["text"].expand(images.shape[0], -1, -1)
    fitted = model._fitted.get(category)
    views = model._views([images])
    parts = [model._with_text(view, text, _references(state, i)) for i, view in enumerate(views)]
    evidence, typical_max = averaged(parts), state.get("typical_max")
    evidence.brightness = model._brightness(images)
    if fitted is not None and fitted.memory is not None and typical_max is not None:
        memory = copy(fitted.memory)
        memory.banks = [copy(bank) for bank in memory.banks]
        for i, bank in enumerate(memory.banks):
            bank.tokens = state[f"bank{i}.tokens"]
        evidence.memory_maps = memory.maps(views[0])
    if fitted is not None and fitted.gaussians is not None:
        gaussians = fitted.gaussians.by_stage(below(state, "gaussians."))
        evidence.gaussian_maps = gaussians.maps(views[0])
        evidence.gaussian_shares = model._shares([gaussians]).expand(images.shape[0])
    if fitted is not None and (learnt := fitted.neighbourhoods) is not None:
        known = Neighbourhoods.of_tensors(below(state, "neighbourhoods."), learnt.positions, learnt.size)
        evidence.neighbourhood_maps = known.maps(views[0])
    if fitted is not None and fitted.texture is not None:
        texture = Texture.of_tensors(below(state, "texture."), fitted.texture.size)
        evidence.texture_maps = texture.maps(views[0])
        evidence.texture_shares = model._texture_shares([texture]).expand(images.shape[0])
    return model._prediction(evidence, typical_max)


def _references(state: State, view: int) -> References | None:
    tokens = [tensor for name, tensor in state.items() if name.startswith(f"view{view}.")]
    return References(tuple(tokens)) if tokens else None
