"""APRIL-GAN, improved: CLIP, one linear adapter per stage, words for normal and anomalous, memory banks of references.

X. Chen, Y. Han, J. Zhang: A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023 VAND
Workshop Challenge Tracks 1&2 (arXiv 2305.17382). Maps are the published ones. Departs from the paper:

* One encoder pass per image serves the image score, the adapters and the memory banks (two with `mirrored`, four with
  `own_mirrors`).
* The few-shot image score needs no test set: the memory part is calibrated on the references alone. The scalars
  `text_score` and `map_max` let the published test-set scaling be applied outside.
* An adapter may be trained on how tokens deviate from their image instead of on the tokens (`deviations`), or read all
  stages and the references together and give the image score as well (`ContextAdapter`).
* Options, off by default: a Gaussian for every place of the references (`place_weight`), the zero-shot score sees the
  map, smoothed memory tokens, a choice of memory stages and weight, defects named in words, clean category names.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, check_categories, stacked
from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.clip_adapter.adapter import Adapter, stage_probabilities
from models.clip_adapter.checkpoint import check_adapter_fits
from models.clip_adapter.context_adapter import ContextAdapter, References, difference_of
from models.clip_adapter.turns import turned, turning_gain
from models.errors import checked
from models.features import ImageFeatures
from models.gaussians import EXPONENT, PARTS, PlaceMemory
from models.maps import hill
from models.nearest import MAX_ELEMENTS, CategoryMemory, MemoryBank
from models.references import AT_ONCE, MAX_REFERENCES, ManyReferences, cut, progress

log = logging.getLogger(__name__)
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))
"""Axes of an image that are turned round; the second is what `mirrored` looks at."""


@dataclass
class Evidence:
    """What is known of B images before it is made into a score.

    `text_scores` (B,) in [0, 1]; `adapter_maps` (B, S, S) in [0, number of the adapter's maps]; `learned_scores` (B,)
    in [0, 1] of an adapter that gives them; `memory_maps` (B, S, S) >= 0, or None without references; `place_maps`
    (B, S, S) in [0, 1] and what share of the map they have, `place_shares` (B,), or None without Gaussians.
    """

    text_scores: Tensor
    adapter_maps: Tensor
    learned_scores: Tensor | None = None
    memory_maps: Tensor | None = None
    place_maps: Tensor | None = None
    place_shares: Tensor | None = None


@dataclass
class Fitted:
    """What was learnt of a category: its banks, the references' own leave-one-out evidence and map maximum.

    `references` is what an adapter that compares with references keeps of them, for each way of looking; there are no
    banks, and no Gaussians in `places`, where they have no weight.
    """

    memory: CategoryMemory | None
    places: PlaceMemory | None
    references: list[References | None]
    evidence: Evidence
    typical_max: Tensor | None


class ClipAdapter(AnomalyModel):
    """Zero-shot maps from words, few-shot maps from words and references.

    Args:
        backbone: the frozen CLIP.
        adapter: trained on this backbone's stages.
        prompts: words for normal and anomalous.
        score_gate: weight of the learnt image score in the logit of every pixel, so that pixels of different images
            compare; only for an adapter that gives such a score.
        map_weight: share of the zero-shot map in the zero-shot image score; 0 as published. Has no meaning for an
            adapter that gives the image score itself.
        map_top_share: the map enters by the mean of this share of its highest pixels; 0 for its maximum.
        memory_stages: stages whose tokens are remembered; all of the backbone's by default, as published.
        memory_weight: weight of the memory map beside the zero-shot map; 1 as published.
        memory_smoothing: side in tokens (odd) of the window averaged before remembering; 1 as published.
        place_weight: largest share of the map that `PlaceMemory` has, the Gaussians of the references' places; a
            category's is at most their alignment.
        place_stages: stages whose tokens it reads; all of the backbone's by default.
        memory_score_weight: share of the calibrated map maximum in the few-shot image score.
        memory_score_map: which map's maximum m is calibrated: "combined", as published, or "memory" alone.
        calibration_exponent: k of m^k / (m^k + mu^k), mu being the references' typical leave-one-out maximum.
        mirrored: each image is looked at mirrored as well, and what both say is averaged; not the memory map.
        own_mirrors: an image without references is compared with its own mirror images (left to right, top to bottom,
            both). Has no meaning for an adapter that does not compare.
        own_window: with one reference, it is scored against itself without a window of this share of the side.
        turns: quarter turns and flips of the references are remembered too where, among the references, the distance of
            one left out falls by at least this share with them; 0 for never.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
        max_elements: largest similarity matrix held at a time, in elements.
    """

    scores_are_probabilities = True

    def __init__(
        self,
        backbone: ClipBackbone,
        adapter: Adapter,
        prompts: PromptEnsemble,
        *,
        score_gate: float = 0.0,
        map_weight: float = 0.0,
        map_top_share: float = 0.0,
        memory_stages: Sequence[int] | None = None,
        memory_weight: float = 1.0,
        memory_smoothing: int = 1,
        place_weight: float = 0.0,
        place_stages: Sequence[int] | None = None,
        memory_score_weight: float = 0.5,
        memory_score_map: Literal["combined", "memory"] = "combined",
        calibration_exponent: float = 4.0,
        mirrored: bool = False,
        own_mirrors: bool = False,
        own_window: float = 0.15,
        turns: float = 0.0,
        max_references: int = MAX_REFERENCES,
        max_elements: int = MAX_ELEMENTS,
    ):
        super().__init__()
        ours = isinstance(prompts, PromptEnsemble)
        checked("prompts", type(prompts).__name__, ours, "a PromptEnsemble (prompts=april_gan)")
        check_adapter_fits(adapter, backbone)
        self.backbone = backbone
        self.adapter = adapter
        self.prompts = prompts
        self.preprocess = backbone.preprocess
        self.score_gate = checked("score_gate", score_gate, score_gate >= 0, "at least 0")
        self.map_weight = checked("map_weight", map_weight, 0 <= map_weight <= 1, "between 0 and 1")
        self.map_top_share = checked("map_top_share", map_top_share, 0 <= map_top_share <= 1, "between 0 and 1")
        self.memory_stages = self._checked_stages("memory_stages", memory_stages)
        self.place_stages = self._checked_stages("place_stages", place_stages)
        self.place_weight = checked("place_weight", place_weight, 0 <= place_weight <= 1, "between 0 and 1")
        self.memory_weight = checked("memory_weight", memory_weight, memory_weight >= 0, "at least 0")
        odd = memory_smoothing >= 1 and memory_smoothing % 2 == 1
        self.memory_smoothing = checked("memory_smoothing", memory_smoothing, odd, "odd, 1 or more")
        share = 0 <= memory_score_weight <= 1
        self.memory_score_weight = checked("memory_score_weight", memory_score_weight, share, "between 0 and 1")
        known = memory_score_map in ("combined", "memory")
        self.memory_score_map = checked("memory_score_map", memory_score_map, known, '"combined" or "memory"')
        steep = calibration_exponent > 0
        self.calibration_exponent = checked("calibration_exponent", calibration_exponent, steep, "above 0")
        self.mirrored = mirrored
        self.own_mirrors = own_mirrors and isinstance(adapter, ContextAdapter)
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")
        self._texts: dict[tuple[PromptEnsemble, str, torch.device], Tensor] = {}
        self._fitted: dict[str, Fitted] = {}
        self.turns = checked("turns", turns, 0 <= turns <= 1, "between 0 and 1")
        self._many = ManyReferences(max_references)

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Remember (K, 3, S, S) preprocessed normal images of a category, and calibrate its image score on them."""
        references = stacked(self._many.remembered(references, category), self.device)
        views = self._views(references.split(AT_ONCE))
        others = self._turned(views[0], references)
        known = views if others is None else [ImageFeatures.cat([view, others]) for view in views]
        num = len(references)
        memory = self._remember(known[0], num) if self.memory_weight or self.memory_score_weight else None
        kept = [
            replace(self.adapter.remember(view), images=num) if isinstance(self.adapter, ContextAdapter) else None
            for view in known
        ]
        seen = zip(views, kept, strict=True)
        evidence = _averaged([self._left_out(view, known, category) for view, known in seen])
        typical_max = None
        if memory is not None:
            each = progress(range(len(references)), f"{category}: references left out")
            evidence.memory_maps = torch.cat([memory.maps(views[0][i : i + 1], leave_out=i) for i in each])
        places = self._remember_places(views, references) if self.place_weight else None
        if places is not None:
            evidence.place_maps, evidence.place_shares = places.left_out, self._shares([places] * len(references))
        if memory is not None:
            typical_max = self._score_maxima(evidence).mean()
        self._fitted[category] = Fitted(memory, places, kept, evidence, typical_max)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: images of another shape, or not one category per image.
        """
        check_categories(images, categories)
        fitted = [self._fitted_category(category) for category in categories] if self._fitted else None
        if fitted is None:
            return self._prediction(_averaged(self._zero_shot(stacked(images, self.device), categories)))
        views = self._views([stacked(images, self.device)])
        parts = [
            self._evidence_beside(view, categories, [known.references[i] for known in fitted])
            for i, view in enumerate(views)
        ]
        return self._prediction(*self._with_memory(_averaged(parts), views[0], fitted))

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """The K references of a category, each scored with its own tokens left out of the banks that have them."""
        fitted = self._fitted_category(category)
        left_out = self._prediction(fitted.evidence, fitted.typical_max)
        return self._many.with_others(self, category, left_out)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        top = f"mean of the top {self.map_top_share:g} of pixels" if self.map_top_share else "maximum"
        zero_shot = "text probability (Eq. 1)"
        if isinstance(self.adapter, ContextAdapter):
            zero_shot = "learnt from the highest places of the map and the text logit"
        elif self.map_weight:
            zero_shot = f"{1 - self.map_weight:g} {zero_shot} + {self.map_weight:g} {top} of the map / number of stages"
        share, k = self.memory_score_weight, self.calibration_exponent
        few_shot_map, few_shot_score = "zero-shot map", "the same"
        if isinstance(self.adapter, ContextAdapter):
            few_shot_map = "the adapter's map, which has compared with the references"
        memory = (
            "sum of 1 - cosine to the nearest reference token (Eq. 4), stages "
            f"{' '.join(map(str, self.memory_stages))}, smoothing {self.memory_smoothing}"
        )
        if self.memory_weight:
            few_shot_map += f" + {self.memory_weight:g} x {memory}"
        if self.place_weight:
            few_shot_map += (
                f"; d^{EXPONENT:g} / (d^{EXPONENT:g} + mu^{EXPONENT:g}) has a share of {self.place_weight:g}, at most "
                "the references' alignment, d the Mahalanobis distance to their tokens of the same place, stages "
                f"{' '.join(map(str, self.place_stages))}, mu from references left out, at most {PARTS} times"
            )
        if share:
            few_shot_score = (
                f"{1 - share:g} zero-shot + {share:g} m^{k:g} / (m^{k:g} + mu^{k:g}), m the maximum of the "
                f"{self.memory_score_map} map"
            )
            if self.memory_score_map == "memory":
                few_shot_score += f", the {memory}"
        return {
            "method": "clip_adapter (APRIL-GAN)",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "activation": self.backbone.activation,
            "model_image_size": self.backbone.image_size,
            "mirrored": self.mirrored,
            "without_references": "beside the image's own mirror images" if self.own_mirrors else "the image alone",
            "stages": " ".join(map(str, self.backbone.stages)),
            "prompts": self.prompts.label,
            "precision": self.backbone.precision,
            "adapter_trained_on": ", ".join(self.adapter.trained_on) or "not stated in the file",
            "adapter_reads": self.adapter.reads,
            "map": self._map_label(),
            "few_shot_map": few_shot_map,
            "map_bound": self.adapter.num_maps,
            "few_shot_map_bound": self.adapter.num_maps + self.memory_weight * len(self.memory_stages),
            "image_score": f"zero-shot: {zero_shot}; with references: {few_shot_score}",
            "few_shot_calibration": "mu is the mean of m over the references, each left out of the memory; a single "
            f"reference without a window of {self.own_window:g} of the side around each token; {self._many.label}",
            "turned_references": "no"
            if not self.turns
            else f"where the distance of a reference left out falls by {self.turns:.0%} or more with the others' "
            "quarter turns and flips, these are remembered too",
        }

    def _map_label(self) -> str:
        if not isinstance(self.adapter, ContextAdapter):
            return "sum over stages of the abnormal probability (Eq. 3)"
        gate = f", its logit raised by {self.score_gate:g} x that of the image score" if self.score_gate else ""
        return f"abnormal probability (Eq. 3) of the adapter's one map{gate}"

    def _zero_shot(self, images: Tensor, categories: Sequence[str]) -> list[Evidence]:
        """What each way of looking says of (B, 3, S, S) images of which nothing else is known."""
        if not (self.own_mirrors and isinstance(self.adapter, ContextAdapter)):
            return [self._evidence(view, categories) for view in self._views([images])]
        features = [self.backbone.encode_image(images.flip(axes)) for axes in MIRRORS]
        kept = [self.adapter.remember(mirrored) for mirrored in features]
        return [
            self._evidence(features[i], categories, References.each(kept[:i] + kept[i + 1 :]))
            for i in range(1 + self.mirrored)
        ]

    def _views(self, parts: Sequence[Tensor]) -> list[ImageFeatures]:
        """The features of batches of images, as they are and, if wanted, mirrored left to right."""
        ways = [parts, [part.flip(-1) for part in parts]] if self.mirrored else [parts]
        return [ImageFeatures.cat([self.backbone.encode_image(part) for part in way]) for way in ways]

    def _evidence(
        self, features: ImageFeatures, categories: Sequence[str], references: References | None = None
    ) -> Evidence:
        """Eq. 1 on the embedding and Eq. 3 on the adapted tokens."""
        text = torch.stack([self._text(category, features.embedding.device) for category in categories])  # (B, D, 2)
        embedding = features.embedding[:, None]  # one token to an image
        text_scores = stage_probabilities(embedding, text, (1, 1), 1)[:, 1, 0, 0]
        if isinstance(self.adapter, ContextAdapter):
            return self._learned(self.adapter, features, text, text_scores, references)
        size = self.backbone.image_size
        maps = [
            stage_probabilities(tokens, text, grid, size)[:, 1]
            for tokens, grid in zip(*self.adapter.adapt(features), strict=True)
        ]
        return Evidence(text_scores, torch.stack(maps).sum(dim=0))

    def _evidence_beside(
        self, features: ImageFeatures, categories: Sequence[str], references: Sequence[References | None]
    ) -> Evidence:
        """Each image with its own references; all at once that share them."""
        groups: dict[int, list[int]] = {}
        for i, known in enumerate(references):
            groups.setdefault(id(known), []).append(i)
        if len(groups) == 1:
            return self._evidence(features, categories, references[0])
        parts = [
            self._evidence(features[chosen], [categories[i] for i in chosen], references[chosen[0]])
            for chosen in groups.values()
        ]
        return _together(parts, [i for chosen in groups.values() for i in chosen])

    def _left_out(self, features: ImageFeatures, known: References | None, category: str) -> Evidence:
        """Each of K references beside the others, a few at a time."""
        parts = []
        for members in cut(range(len(features.embedding)), AT_ONCE):
            others = None if known is None else known.without(torch.tensor(members))
            parts.append(self._evidence(features[list(members)], [category] * len(members), others))
        return _together(parts, range(len(features.embedding)))

    def _learned(
        self, adapter: ContextAdapter, features: ImageFeatures, text: Tensor, text_scores: Tensor,
        references: References | None,
    ) -> Evidence:  # fmt: skip
        """The map and the image score of an adapter that gives both."""
        difference = adapter.difference(features, text, references)
        score = adapter.score_logit(difference, difference_of(features.embedding[:, None], text)[:, 0])
        size = (self.backbone.image_size, self.backbone.image_size)
        enlarged = F.interpolate(
            difference.unflatten(1, (1, *features.grids[0])), size=size, mode="bilinear", align_corners=True
        )
        gated = enlarged[:, 0] + self.score_gate * score[:, None, None]
        return Evidence(text_scores, gated.sigmoid(), score.sigmoid())

    def _text(self, category: str, device: torch.device) -> Tensor:
        """Text features, computed once per category, prompts and device."""
        key = (self.prompts, category, device)
        if key not in self._texts:
            self._texts[key] = self.prompts.text_features(self.backbone, category)
        return self._texts[key]

    def _turned(self, features: ImageFeatures, references: Tensor) -> ImageFeatures | None:
        """The features of the K references' turned views, None where the references do not profit of them."""
        if not self.turns or len(references) == 1:  # a single one cannot tell
            return None
        others = ImageFeatures.cat([self.backbone.encode_image(part) for part in turned(references).split(AT_ONCE)])
        compared = len(features.stages) // 2  # neither fine nor coarse
        tokens = [F.normalize(each.stages[compared], dim=-1) for each in (features, others)]
        gain = turning_gain(*tokens)
        log.info("a reference left out is %.0f %% nearer to the others with their turned views", 100 * gain)
        return others if gain >= self.turns else None

    def _remember(self, features: ImageFeatures, images: int) -> CategoryMemory:
        positions = [self.backbone.stages.index(stage) for stage in self.memory_stages]
        banks = [
            MemoryBank(
                features.stages[position], features.grids[position], smoothing=self.memory_smoothing,
                own_window=self.own_window, max_elements=self.max_elements, images=images,
            )
            for position in positions
        ]  # fmt: skip
        return CategoryMemory(banks, positions, self.backbone.image_size)

    def _remember_places(self, views: Sequence[ImageFeatures], references: Tensor) -> PlaceMemory:
        positions = [self.backbone.stages.index(stage) for stage in self.place_stages]
        mirrored = None
        if len(references) == 1:
            mirrored = views[1] if self.mirrored else self.backbone.encode_image(references.flip(-1))
        return PlaceMemory(views[0], positions, self.backbone.image_size, mirrored)

    def _shares(self, places: Sequence[PlaceMemory]) -> Tensor:
        """What share of each image's map its category's Gaussians have, (B,)."""
        return torch.stack([each.alignment.clamp(max=self.place_weight) for each in places])

    def _with_memory(
        self, evidence: Evidence, features: ImageFeatures, fitted: Sequence[Fitted]
    ) -> tuple[Evidence, Tensor | None]:
        """Each image against the banks and Gaussians of its own category, and what maximum is typical there."""
        places = [known.places for known in fitted if known.places is not None]
        if places:
            evidence.place_maps = torch.empty_like(evidence.adapter_maps)
            for each in dict.fromkeys(places):  # images that share references together
                members = [i for i, known in enumerate(places) if known is each]
                evidence.place_maps[members] = each.maps(features[members])
            evidence.place_shares = self._shares(places)
        maps, typical = [], []
        for i, known in enumerate(fitted):
            if known.memory is None or known.typical_max is None:
                return evidence, None
            maps.append(known.memory.maps(features[i : i + 1]))
            typical.append(known.typical_max)
        evidence.memory_maps = torch.cat(maps)
        return evidence, torch.stack(typical)

    def _prediction(self, evidence: Evidence, typical_max: Tensor | None = None) -> Prediction:
        maps = self._combined(evidence)
        scores = self._zero_shot_scores(evidence)
        if typical_max is not None:
            calibrated = hill(self._score_maxima(evidence), typical_max, self.calibration_exponent)
            scores = torch.lerp(scores, calibrated, self.memory_score_weight)
        return Prediction(maps, scores, {"text_score": evidence.text_scores, "map_max": maps.amax(dim=(1, 2))})

    def _combined(self, evidence: Evidence) -> Tensor:
        maps, highest = evidence.adapter_maps, float(self.adapter.num_maps)
        if evidence.memory_maps is not None:
            maps = maps + self.memory_weight * evidence.memory_maps
            highest += self.memory_weight * len(self.memory_stages)
        if evidence.place_maps is None or evidence.place_shares is None:
            return maps
        return torch.lerp(maps, highest * evidence.place_maps, evidence.place_shares[:, None, None])

    def _score_maxima(self, evidence: Evidence) -> Tensor:
        """The m of each image, (B,)."""
        assert evidence.memory_maps is not None
        maps = self._combined(evidence) if self.memory_score_map == "combined" else evidence.memory_maps
        return maps.amax(dim=(1, 2))

    def _zero_shot_scores(self, evidence: Evidence) -> Tensor:
        if evidence.learned_scores is not None:
            return evidence.learned_scores
        if self.map_weight == 0:
            return evidence.text_scores
        pixels = evidence.adapter_maps.flatten(1) / self.adapter.num_maps
        count = max(1, round(self.map_top_share * pixels.shape[1]))
        return torch.lerp(evidence.text_scores, pixels.topk(count, dim=1).values.mean(dim=1), self.map_weight)

    def _fitted_category(self, category: str) -> Fitted:
        if category not in self._fitted:
            known = ", ".join(self._fitted) or "none"
            raise KeyError(f"expected a category with references, got {category!r}; fitted: {known}; call `fit` for it")
        return self._fitted[category]

    def _checked_stages(self, name: str, stages: Sequence[int] | None) -> tuple[int, ...]:
        chosen = self.backbone.stages if stages is None else tuple(stages)
        known = bool(chosen) and set(chosen) <= set(self.backbone.stages) and len(set(chosen)) == len(chosen)
        return checked(name, chosen, known, f"among the backbone's {list(self.backbone.stages)}, each once")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move what was learnt along with the parameters (`to`, `cuda`, `cpu`)."""
        super()._apply(fn, recurse)
        self._texts.clear()
        device = self.device
        for fitted in self._fitted.values():
            if fitted.memory is not None and fitted.typical_max is not None:
                fitted.memory.to(device)
                fitted.typical_max = fitted.typical_max.to(device)
            if fitted.places is not None:
                fitted.places.to(device)
            for name, tensor in vars(fitted.evidence).items():
                setattr(fitted.evidence, name, None if tensor is None else tensor.to(device))
            fitted.references = [known if known is None else known.to(device) for known in fitted.references]
        return self


def _averaged(views: Sequence[Evidence]) -> Evidence:
    """What is seen of the images as they are and, if there is a second, of the mirrored ones, turned back."""
    if len(views) == 1:
        return views[0]
    plain, mirrored = views
    learned = None
    if plain.learned_scores is not None and mirrored.learned_scores is not None:
        learned = (plain.learned_scores + mirrored.learned_scores) / 2
    maps = (plain.adapter_maps + mirrored.adapter_maps.flip(-1)) / 2
    return Evidence((plain.text_scores + mirrored.text_scores) / 2, maps, learned)


def _together(parts: Sequence[Evidence], places: Sequence[int]) -> Evidence:
    """The evidence of several groups of images as one, each image at its place; what any of them lacks is left out."""
    order = torch.tensor(places).argsort()
    joined: dict[str, Any] = {}
    for field in fields(Evidence):
        values = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if any(value is None for value in values) else torch.cat(values)[order]
    return Evidence(**joined)
