"""What stands beside every number made with a `ClipAdapter`: which of its settings gave it."""

from typing import TYPE_CHECKING

from models.clip_adapter.context_adapter import ContextAdapter
from models.gaussians import EXPONENT, PARTS
from models.guided import CELL
from models.neighbourhoods import EVERY
from models.neighbourhoods import EXPONENT as NEIGHBOURHOOD_EXPONENT
from models.texture import EXPONENT as TEXTURE_EXPONENT
from models.texture import LEAST_MAX

if TYPE_CHECKING:
    from models.clip_adapter.model import ClipAdapter


def labels(model: "ClipAdapter") -> dict[str, str | int | float | bool]:
    """The protocol of a model."""
    context = isinstance(model.adapter, ContextAdapter)
    zero_shot_map, zero_shot = _without_references(model, context)
    trained_on = model.adapter.trained_on
    if model.vectors is not None:
        trained_on = tuple(dict.fromkeys((*trained_on, *model.vectors.trained_on)))
    share = model.memory_score_weight
    few_shot_map, few_shot_score = "zero-shot map", "the same"
    if context:
        few_shot_map = "the adapter's map, which has compared with the references"
    memory = (
        f"sum of 1 - cosine to the nearest reference token (Eq. 4), stages {' '.join(map(str, model.memory_stages))}"
    )
    if model.memory_weight:
        few_shot_map += f" + {model.memory_weight:g} x {memory}"
    if model.gaussian_weight:
        few_shot_map += (
            f"; d^{EXPONENT:g} / (d^{EXPONENT:g} + mu^{EXPONENT:g}) has a share of {model.gaussian_weight:g}, at "
            "most the references' alignment, d the Mahalanobis distance to their tokens of the same patch, stages "
            f"{' '.join(map(str, model.gaussian_stages))}, mu from references left out, at most {PARTS} times"
        )
    if model.neighbourhood_weight:
        less = ", less as far as the Gaussians have theirs" if model.gaussian_weight else ""
        k = NEIGHBOURHOOD_EXPONENT
        few_shot_map += (
            f"; d^{k:g} / (d^{k:g} + mu^{k:g}) has a share of {model.neighbourhood_weight:g}{less}, d 1 - cosine to "
            f"the nearest neighbourhood of the references (of several one in {EVERY} along each side), stages "
            f"{' '.join(map(str, model.neighbourhood_stages))}, mu from references left out"
        )
    if model.texture_weight:
        k = TEXTURE_EXPONENT
        few_shot_map += (
            f"; of all this d^{k:g} / (d^{k:g} + mu^{k:g}) has a share of {model.texture_weight:g} x evenness of the "
            "references, d the Mahalanobis distance to the Gaussian of all their fine patches, mu from references left "
            f"out, at least {LEAST_MAX:g}"
        )
    if model.detail_weight:
        outlined = (
            f"; last, and once, {model.detail_weight:g} x what the picture's brightness, of cells of {CELL} px, tells "
            "of the map's outlines (guided filter, as far as it explains the map) is added in log odds"
        )
        zero_shot_map, few_shot_map = zero_shot_map + outlined, few_shot_map + outlined
    if share:
        k = model.calibration_exponent
        few_shot_score = (
            f"{1 - share:g} zero-shot + {share:g} m^{k:g} / (m^{k:g} + mu^{k:g}), m the maximum of the "
            f"{model.memory_score_map} map"
        )
        if model.memory_score_map == "memory":
            few_shot_score += f", the {memory}"
    return {
        "method": "clip_adapter (APRIL-GAN)",
        "backbone": model.backbone.name,
        "backbone_weights": model.backbone.weights,
        "activation": model.backbone.activation,
        "model_image_size": model.backbone.image_size,
        "flipped": model.flipped,
        "stages": " ".join(map(str, model.backbone.stages)),
        "prompts": model.prompts.label,
        "precision": model.backbone.precision,
        "adapter_trained_on": ", ".join(trained_on) or "not stated in the file",
        "adapter_reads": model.adapter.reads,
        "map": zero_shot_map,
        "few_shot_map": few_shot_map,
        "map_bound": model.adapter.num_maps,
        "few_shot_map_bound": model.adapter.num_maps + model.memory_weight * len(model.memory_stages),
        "image_score": f"zero-shot: {zero_shot}; with references: {few_shot_score}",
        "few_shot_calibration": "mu is the mean of m over the references, each left out of the memory; a single "
        f"reference without a window of {model.own_window:g} of the side around each token; {model.many_label}",
        "turned_references": "no"
        if not model.turns
        else f"where the distance of a reference left out falls by {model.turns:.0%} or more with the others' "
        "quarter turns and flips, these are remembered too",
    }


def _without_references(model: "ClipAdapter", context: bool) -> tuple[str, str]:
    """Map and image score where there are no references to compare with."""
    found, score = "sum over stages of the abnormal probability (Eq. 3)", "text probability (Eq. 1)"
    if context:
        found = "abnormal probability (Eq. 3) of the adapter's one map"
        score = "learnt from the highest patches of the map and the text logit"
    if model.vectors is not None:
        found += (
            f"; class vectors have a share of {model.vectors_share:g} in log odds, theirs x {model.vectors_scale:g}"
        )
    rare = " x log of the mean 1 - cosine to the nearest of an image's other patches, stages "
    rare += " ".join(map(str, model.rarity_stages))
    patch, image = model.rarity_usual
    if model.rarity_weight:
        found += f"; {model.rarity_weight:g}{rare}, less that of {patch:g}, is added in log odds"
    if model.rarity_score_weight and context:
        score += f"; {model.rarity_score_weight:g}{rare}, its highest less that of {image:g}, is added in log odds"
    if model.own_texture_weight or model.own_texture_even:
        found += (
            f"; ({model.own_texture_weight:g} + {model.own_texture_even:g} x evenness) x log of the Mahalanobis "
            "distance of a fine patch to the Gaussian of its image's, less that of "
            f"{model.own_texture_usual:g}, is added in log odds"
        )
    return found, score
