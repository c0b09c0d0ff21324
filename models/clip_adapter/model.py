"""APRIL-GAN, improved: CLIP, one linear adapter per stage, words for normal and anomalous, memory banks of references.

X. Chen, Y. Han, J. Zhang: A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023 VAND
Workshop Challenge Tracks 1&2 (arXiv 2305.17382). Maps are the published ones. Departs from the paper:

* One encoder pass per image serves the image score, the adapters and the memory banks (two with `flipped`).
* The few-shot image score needs no test set: the memory part is calibrated on the references alone. The scalars
  `text_score` and `map_max` let the published test-set scaling be applied outside.
* An adapter may read all stages and the references together and give the image score as well (`ContextAdapter`).
* Options, off by default: a Gaussian for every patch of the references (`gaussian_weight`), a bank of their small
  neighbourhoods (`neighbourhood_weight`), one of all their fine patches (`texture_weight`), class vectors beside the
  words (`vectors`), how rare or odd a patch is in its image (`rarity_weight`, `own_texture_weight`), outlines by the
  picture's brightness (`detail_weight`), a choice of memory stages and weight, defects named in words, clean category
  names.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, State, below, check_categories, stacked
from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.clip_adapter.adapter import Adapter, stage_probabilities
from models.clip_adapter.checkpoint import check_adapter_fits
from models.clip_adapter.context_adapter import ContextAdapter, References, difference_of
from models.clip_adapter.evidence import Evidence, FittedCategory, averaged, maps_of, together
from models.clip_adapter.labels import labels
from models.clip_adapter.rarity import LEAST as LEAST_RARITY
from models.clip_adapter.rarity import rarity
from models.clip_adapter.turns import turned, turning_gain
from models.errors import checked
from models.features import ImageFeatures
from models.gaussians import GaussiansByStage, PatchGaussians
from models.guided import brightness, detail
from models.images import check_batch
from models.maps import hill, interpolated
from models.nearest import MAX_ELEMENTS, CategoryMemory, MemoryBank
from models.neighbourhoods import Neighbourhoods
from models.references import AT_ONCE, MAX_REFERENCES, ManyReferences, cut, progress
from models.texture import Texture, own_texture
from models.vector_adapter.checkpoint import check_vectors_fit
from models.vector_adapter.vectors import ClassVectors

log = logging.getLogger(__name__)

LEAST = 1e-6
"""Probabilities nearer to 0 or 1 count as this."""
MOST_ODDS = 9.0
"""Log odds beyond this, and below its negative, count as this where outlines are looked for."""


class ClipAdapter(AnomalyModel):
    """Zero-shot maps from words, few-shot maps from words and references.

    Args:
        backbone: the frozen CLIP.
        adapter: trained on this backbone's stages.
        prompts: words for normal and anomalous.
        memory_stages: stages whose tokens are remembered; all of the backbone's by default, as published.
        memory_weight: weight of the memory map beside the zero-shot map; 1 as published.
        gaussian_weight: largest share of the map that `PatchGaussians` have; a category's is at most the alignment of
            its references.
        gaussian_stages: stages whose tokens they read; all of the backbone's by default.
        neighbourhood_weight: largest share of the map that `Neighbourhoods` have; the more of `gaussian_weight` a
            category's Gaussians have, the less.
        neighbourhood_stages: stages whose tokens they read; all of the backbone's by default.
        texture_weight: largest share that a `Texture` has of the map that all these make: a category's is this times
            the evenness of its references.
        vectors: class vectors trained on this backbone, which read a map beside the words where the adapter compares
            with no references; None for none.
        vectors_share: their share of the two, in log odds. A learnt image score does not see it.
        vectors_scale: what their log odds are multiplied by first, as these spread less than those of words.
        rarity_weight: where the adapter compares with no references, so many times the logarithm of how rare a patch is
            in its image, beside what is usual, is added to the map's log odds; 0 for none.
        rarity_score_weight: the same of the rarest patch and a learnt image score; 0 for none.
        rarity_stages: stages whose tokens it reads; all of the backbone's by default.
        rarity_usual: the rarity of a patch, and of an image's rarest, that adds nothing.
        own_texture_weight: where the adapter compares with no references, so many times the logarithm of how far a fine
            patch is from its image's others, beside what is usual, is added to the map's log odds (`own_texture`).
        own_texture_even: the same, as far as the image is even, on top.
        own_texture_usual: the distance that adds nothing.
        detail_weight: so many times what the picture's brightness says of the map's outlines is added to its log odds
            (`models.guided`), with references and without; 0 for none.
        memory_score_weight: share of the calibrated map maximum in the few-shot image score.
        memory_score_map: which map's maximum m is calibrated: "combined", as published, or "memory" alone.
        calibration_exponent: k of m^k / (m^k + mu^k), mu being the references' typical leave-one-out maximum.
        flipped: each image is also scored flipped left to right, and the two are averaged; not the memory map.
        own_window: with one reference, patches closer than this fraction of the side are excluded.
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
        memory_stages: Sequence[int] | None = None,
        memory_weight: float = 1.0,
        gaussian_weight: float = 0.0,
        gaussian_stages: Sequence[int] | None = None,
        neighbourhood_weight: float = 0.0,
        neighbourhood_stages: Sequence[int] | None = None,
        texture_weight: float = 0.0,
        vectors: ClassVectors | None = None,
        vectors_share: float = 0.25,
        vectors_scale: float = 1.0,
        rarity_weight: float = 0.0,
        rarity_score_weight: float = 0.0,
        rarity_stages: Sequence[int] | None = None,
        rarity_usual: Sequence[float] = (0.5, 0.5),
        own_texture_weight: float = 0.0,
        own_texture_even: float = 0.0,
        own_texture_usual: float = 8.0,
        detail_weight: float = 0.0,
        memory_score_weight: float = 0.5,
        memory_score_map: Literal["combined", "memory"] = "combined",
        calibration_exponent: float = 4.0,
        flipped: bool = False,
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
        if vectors is not None:
            check_vectors_fit(vectors, backbone)
        self.adapter = adapter
        self.vectors = vectors
        self.vectors_share = checked("vectors_share", vectors_share, 0 <= vectors_share <= 1, "between 0 and 1")
        self.vectors_scale = checked("vectors_scale", vectors_scale, vectors_scale > 0, "above 0")
        self.rarity_weight = checked("rarity_weight", rarity_weight, rarity_weight >= 0, "at least 0")
        some = rarity_score_weight >= 0
        self.rarity_score_weight = checked("rarity_score_weight", rarity_score_weight, some, "at least 0")
        usual = len(rarity_usual) == 2 and all(value > 0 for value in rarity_usual)
        self.rarity_usual = checked("rarity_usual", tuple(rarity_usual), usual, "two numbers above 0")
        self.prompts = prompts
        self.preprocess = backbone.preprocess
        self.memory_stages = self._checked_stages("memory_stages", memory_stages)
        self.gaussian_stages = self._checked_stages("gaussian_stages", gaussian_stages)
        self.rarity_stages = tuple(sorted(self._checked_stages("rarity_stages", rarity_stages)))
        self.neighbourhood_stages = tuple(sorted(self._checked_stages("neighbourhood_stages", neighbourhood_stages)))
        self.gaussian_weight = checked("gaussian_weight", gaussian_weight, 0 <= gaussian_weight <= 1, "between 0 and 1")
        share = 0 <= neighbourhood_weight <= 1
        self.neighbourhood_weight = checked("neighbourhood_weight", neighbourhood_weight, share, "between 0 and 1")
        share = 0 <= texture_weight <= 1
        self.texture_weight = checked("texture_weight", texture_weight, share, "between 0 and 1")
        some = own_texture_weight >= 0
        self.own_texture_weight = checked("own_texture_weight", own_texture_weight, some, "at least 0")
        self.own_texture_even = checked("own_texture_even", own_texture_even, own_texture_even >= 0, "at least 0")
        self.own_texture_usual = checked("own_texture_usual", own_texture_usual, own_texture_usual > 0, "above 0")
        self.detail_weight = checked("detail_weight", detail_weight, detail_weight >= 0, "at least 0")
        for name in ("texture_weight", "own_texture_weight", "own_texture_even"):
            fits = not getattr(self, name) or backbone.is_timm
            checked(name, getattr(self, name), fits, f"0 with {backbone.name}, which is no convolutional net of timm")
        self.memory_weight = checked("memory_weight", memory_weight, memory_weight >= 0, "at least 0")
        share = 0 <= memory_score_weight <= 1
        self.memory_score_weight = checked("memory_score_weight", memory_score_weight, share, "between 0 and 1")
        known = memory_score_map in ("combined", "memory")
        self.memory_score_map = checked("memory_score_map", memory_score_map, known, '"combined" or "memory"')
        steep = calibration_exponent > 0
        self.calibration_exponent = checked("calibration_exponent", calibration_exponent, steep, "above 0")
        self.flipped = flipped
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")
        self._texts: dict[tuple[PromptEnsemble, str, torch.device], Tensor] = {}
        self._fitted: dict[str, FittedCategory] = {}
        self._loaded: dict[str, Images] = {}
        self.turns = checked("turns", turns, 0 <= turns <= 1, "between 0 and 1")
        self._many = ManyReferences(max_references)

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Remember (K, 3, S, S) preprocessed normal images of a category, and calibrate its image score on them."""
        references = stacked(self._many.remembered(references, category), self.device)
        self._loaded.pop(category, None)
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
        evidence = averaged([self._left_out(view, known, category) for view, known in seen])
        typical_max = None
        if memory is not None:
            each = progress(range(len(references)), f"{category}: references left out")
            evidence.memory_maps = torch.cat([memory.maps(views[0][i : i + 1], leave_out=i) for i in each])
        gaussians = self._learn_gaussians(views, references) if self.gaussian_weight else None
        if gaussians is not None:
            evidence.gaussian_maps = gaussians.left_out
            evidence.gaussian_shares = self._shares([gaussians] * len(references))
        neighbourhoods = self._learn_neighbourhoods(views[0]) if self.neighbourhood_weight else None
        if neighbourhoods is not None:
            evidence.neighbourhood_maps = neighbourhoods.left_out
        texture = Texture(views[0], self.backbone.image_size) if self.texture_weight else None
        if texture is not None:
            evidence.texture_maps = texture.left_out
            evidence.texture_shares = self._texture_shares([texture] * len(references))
        evidence.brightness = self._brightness(references)
        if memory is not None:
            typical_max = self._score_maxima(evidence).mean()
        learnt = (memory, gaussians, neighbourhoods, texture, kept)
        self._fitted[category] = FittedCategory(*learnt, evidence, typical_max)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: images of another shape, or not one category per image.
        """
        check_categories(images, categories)
        fitted = [self._fitted_category(category) for category in categories] if self._fitted else None
        batch = stacked(images, self.device)
        views, typical_max = self._views([batch]), None
        if fitted is None:
            evidence = averaged([self._evidence(view, categories) for view in views])
        else:
            parts = [
                self._evidence_beside(view, categories, [known.references[i] for known in fitted])
                for i, view in enumerate(views)
            ]
            evidence, typical_max = self._with_memory(averaged(parts), views[0], fitted)
        evidence.brightness = self._brightness(batch)
        return self._prediction(evidence, typical_max)

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """The K references of a category, each scored with its own tokens left out of the banks that have them."""
        fitted = self._fitted_category(category)
        if fitted.evidence is None:  # of a file: what `fit` finds again on the same references
            self.fit(self._loaded.pop(category), category)
            fitted = self._fitted_category(category)
        assert fitted.evidence is not None
        left_out = self._prediction(fitted.evidence, fitted.typical_max)
        return self._many.with_others(self, category, left_out)

    def state(self, category: str) -> State:
        """The banks, the Gaussians, the neighbourhoods, the texture and the tokens that the adapter compares with."""
        return self._fitted_category(category).tensors()

    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it; the references are fitted again if `reference_prediction` is asked for."""
        self._many.among(references, category)
        self._loaded[category] = references
        state = {name: tensor.to(self.device) for name, tensor in state.items()}
        memory = self._remembered(state) if "typical_max" in state else None
        gaussians = neighbourhoods = texture = None
        if known := below(state, "gaussians."):
            positions = self._positions(self.gaussian_stages)
            gaussians = PatchGaussians.of_tensors(known, positions, self.backbone.image_size)
        if known := below(state, "neighbourhoods."):
            positions = self._positions(self.neighbourhood_stages)
            neighbourhoods = Neighbourhoods.of_tensors(known, positions, self.backbone.image_size, self.max_elements)
        if known := below(state, "texture."):
            texture = Texture.of_tensors(known, self.backbone.image_size)
        kept = [self._compared(below(state, f"view{view}.")) for view in range(1 + self.flipped)]
        typical_max = state.get("typical_max")
        self._fitted[category] = FittedCategory(memory, gaussians, neighbourhoods, texture, kept, None, typical_max)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return labels(self)

    @property
    def many_label(self) -> str:
        """What happens to more references than are remembered."""
        return self._many.label

    def _views(self, parts: Sequence[Tensor]) -> list[ImageFeatures]:
        """The features of batches of images, as they are and, if wanted, flipped left to right."""
        for part in parts:
            check_batch(part, self.backbone.image_size)
        ways = [parts, [part.flip(-1) for part in parts]] if self.flipped else [parts]
        return [ImageFeatures.cat([self.backbone.encode_image(part) for part in way]) for way in ways]

    def _evidence(
        self, features: ImageFeatures, categories: Sequence[str], references: References | None = None
    ) -> Evidence:
        """Eq. 1 on the embedding and Eq. 3 on the adapted tokens."""
        text = torch.stack([self._text(category, features.embedding.device) for category in categories])  # (B, D, 2)
        return self._with_text(features, text, references)

    def _with_text(self, features: ImageFeatures, text: Tensor, references: References | None = None) -> Evidence:
        """The same from text features (B, D, 2)."""
        embedding = features.embedding[:, None]  # one token to an image
        text_scores = stage_probabilities(embedding, text, (1, 1), 1)[:, 1, 0, 0]
        if isinstance(self.adapter, ContextAdapter):
            return self._learned(self.adapter, features, text, text_scores, references)
        size = self.backbone.image_size
        maps = [
            stage_probabilities(tokens, text, grid, size)[:, 1]
            for tokens, grid in zip(*self.adapter.adapt(features), strict=True)
        ]
        return Evidence(text_scores, self._aided(torch.stack(maps).sum(dim=0), features, self._rarity(features)))

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
        return together(parts, [i for chosen in groups.values() for i in chosen])

    def _left_out(self, features: ImageFeatures, known: References | None, category: str) -> Evidence:
        """Each of K references beside the others, a few at a time."""
        parts = []
        for members in cut(range(len(features.embedding)), AT_ONCE):
            others = None if known is None else known.without(torch.tensor(members))
            parts.append(self._evidence(features[list(members)], [category] * len(members), others))
        return together(parts, range(len(features.embedding)))

    def _learned(
        self, adapter: ContextAdapter, features: ImageFeatures, text: Tensor, text_scores: Tensor,
        references: References | None,
    ) -> Evidence:  # fmt: skip
        """The map and the image score of an adapter that gives both."""
        difference = adapter.difference(features, text, references)
        score = adapter.score_logit(difference, difference_of(features.embedding[:, None], text)[:, 0])
        size = (self.backbone.image_size, self.backbone.image_size)
        enlarged = interpolated(difference.unflatten(1, (1, *features.grids[0])), size, align_corners=True)
        maps = enlarged[:, 0].sigmoid()
        if references is None:
            rare = self._rarity(features)
            maps = self._aided(maps, features, rare)
            if rare is not None:
                score = score + self.rarity_score_weight * (rare.amax(dim=(1, 2, 3)) - math.log(self.rarity_usual[1]))
        return Evidence(text_scores, maps, score.sigmoid())

    def _rarity(self, features: ImageFeatures) -> Tensor | None:
        """The logarithm of how rare patches are in their image, (B, 1, h, w); None where it has no weight."""
        if not self.rarity_weight and not self.rarity_score_weight:
            return None
        return (rarity(features, self._positions(self.rarity_stages)) + LEAST_RARITY).log()

    def _aided(self, maps: Tensor, features: ImageFeatures, rare: Tensor | None) -> Tensor:
        """The adapter's maps (B, S, S), of which the vectors have their share, and what odd and rare patches add."""
        textured = bool(self.own_texture_weight or self.own_texture_even)
        if self.vectors is None and rare is None and not textured:
            return maps
        highest, size = float(self.adapter.num_maps), self.backbone.image_size
        odds = (maps / highest).logit(LEAST)
        if self.vectors is not None:
            theirs = self.vectors.map(features, size).logit(LEAST)
            odds = torch.lerp(odds, self.vectors_scale * theirs, self.vectors_share)
        if rare is not None:
            added = self.rarity_weight * (rare - math.log(self.rarity_usual[0]))
            odds = odds + interpolated(added, (size, size))[:, 0]
        if textured:
            apart, evenness = own_texture(features)
            weight = self.own_texture_weight + self.own_texture_even * evenness
            added = weight[:, None, None] * ((apart + LEAST).log() - math.log(self.own_texture_usual))
            odds = odds + interpolated(added[:, None], (size, size))[:, 0]
        return highest * odds.sigmoid()

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
        positions = self._positions(self.memory_stages)
        banks = [
            MemoryBank(
                features.stages[position], features.grids[position],
                own_window=self.own_window, max_elements=self.max_elements, images=images,
            )
            for position in positions
        ]  # fmt: skip
        return CategoryMemory(banks, positions, self.backbone.image_size)

    def _remembered(self, state: State) -> CategoryMemory:
        """The banks of a state."""
        banks = []
        for i in range(len(self.memory_stages)):
            known = below(state, f"bank{i}.")
            grid = (int(known["grid"][0]), int(known["grid"][1]))
            bank = MemoryBank(
                known["tokens"], grid, own_window=self.own_window, max_elements=self.max_elements,
                images=int(known["images"]),
            )  # fmt: skip
            bank.tokens = known["tokens"]  # of length 1 already; once more would round
            banks.append(bank)
        return CategoryMemory(banks, self._positions(self.memory_stages), self.backbone.image_size)

    @staticmethod
    def _compared(state: State) -> References | None:
        """What an adapter that compares with references kept of them, None of another adapter."""
        if not state:
            return None
        return References(tuple(state[f"tokens{n}"] for n in range(len(state) - 1)), images=int(state["images"]))

    def _positions(self, stages: Sequence[int]) -> list[int]:
        return [self.backbone.stages.index(stage) for stage in stages]

    def _learn_gaussians(self, views: Sequence[ImageFeatures], references: Tensor) -> PatchGaussians:
        positions = self._positions(self.gaussian_stages)
        flipped = None
        if len(references) == 1:
            flipped = views[1] if self.flipped else self.backbone.encode_image(references.flip(-1))
        return PatchGaussians(views[0], positions, self.backbone.image_size, flipped)

    def _learn_neighbourhoods(self, features: ImageFeatures) -> Neighbourhoods:
        positions, size = self._positions(self.neighbourhood_stages), self.backbone.image_size
        return Neighbourhoods(features, positions, size, own_window=self.own_window, max_elements=self.max_elements)

    def _shares(self, gaussians: Sequence[PatchGaussians | GaussiansByStage]) -> Tensor:
        """What share of each image's map its category's Gaussians have, (B,)."""
        return torch.stack([each.alignment.clamp(max=self.gaussian_weight) for each in gaussians])

    def _neighbourhood_shares(self, evidence: Evidence) -> Tensor:
        """What share of each image's map its category's neighbourhoods have, (B,)."""
        share = evidence.adapter_maps.new_full(evidence.adapter_maps.shape[:1], self.neighbourhood_weight)
        if evidence.gaussian_shares is None:
            return share
        return share * (1 - evidence.gaussian_shares / self.gaussian_weight)

    def _texture_shares(self, textures: Sequence[Texture]) -> Tensor:
        """What share of each image's map its category's texture has, (B,)."""
        return torch.stack([self.texture_weight * each.evenness for each in textures])

    def _with_memory(
        self, evidence: Evidence, features: ImageFeatures, fitted: Sequence[FittedCategory]
    ) -> tuple[Evidence, Tensor | None]:
        """Each image against what its own category's references left, and what maximum is typical there."""
        gaussians = [known.gaussians for known in fitted if known.gaussians is not None]
        if gaussians:
            evidence.gaussian_maps = maps_of(gaussians, features)
            evidence.gaussian_shares = self._shares(gaussians)
        neighbourhoods = [known.neighbourhoods for known in fitted if known.neighbourhoods is not None]
        if neighbourhoods and self._neighbourhood_shares(evidence).any():
            evidence.neighbourhood_maps = maps_of(neighbourhoods, features)
        textures = [known.texture for known in fitted if known.texture is not None]
        if textures and (shares := self._texture_shares(textures)).any():
            evidence.texture_maps, evidence.texture_shares = maps_of(textures, features), shares
        maps, typical = [], []
        for i, known in enumerate(fitted):
            if known.memory is None or known.typical_max is None:
                return evidence, None
            maps.append(known.memory.maps(features[i : i + 1]))
            typical.append(known.typical_max)
        evidence.memory_maps = torch.cat(maps)
        return evidence, torch.stack(typical)

    def _prediction(self, evidence: Evidence, typical_max: Tensor | None = None) -> Prediction:
        maps = self._detailed(evidence)
        scores = evidence.text_scores if evidence.learned_scores is None else evidence.learned_scores
        if typical_max is not None:
            calibrated = hill(self._score_maxima(evidence), typical_max, self.calibration_exponent)
            scores = torch.lerp(scores, calibrated, self.memory_score_weight)
        return Prediction(maps, scores, {"text_score": evidence.text_scores, "map_max": maps.amax(dim=(1, 2))})

    def _combined(self, evidence: Evidence) -> Tensor:
        maps, highest = evidence.adapter_maps, self._highest(evidence)
        if evidence.memory_maps is not None:
            maps = maps + self.memory_weight * evidence.memory_maps
        if evidence.gaussian_maps is not None and evidence.gaussian_shares is not None:
            maps = torch.lerp(maps, highest * evidence.gaussian_maps, evidence.gaussian_shares[:, None, None])
        if evidence.neighbourhood_maps is not None:
            share = self._neighbourhood_shares(evidence)
            maps = torch.lerp(maps, highest * evidence.neighbourhood_maps, share[:, None, None])
        if evidence.texture_maps is not None and evidence.texture_shares is not None:
            maps = torch.lerp(maps, highest * evidence.texture_maps, evidence.texture_shares[:, None, None])
        return maps

    def _brightness(self, images: Tensor) -> Tensor | None:
        """The brightness of the cells of preprocessed images; None where it has no weight."""
        if not self.detail_weight:
            return None
        seen = self.backbone.preprocess
        return brightness(images, seen.mean, seen.std)

    def _detailed(self, evidence: Evidence) -> Tensor:
        """The maps (B, S, S), with what brightness says of their outlines."""
        maps, highest = self._combined(evidence), self._highest(evidence)
        if evidence.brightness is None:
            return maps
        odds = (maps / highest).logit(LEAST)
        added = self.detail_weight * detail(odds.clamp(-MOST_ODDS, MOST_ODDS), evidence.brightness)
        return highest * (odds + added).sigmoid()

    def _highest(self, evidence: Evidence) -> float:
        """The most that a map can be."""
        banks = 0 if evidence.memory_maps is None else len(self.memory_stages)
        return self.adapter.num_maps + self.memory_weight * banks

    def _score_maxima(self, evidence: Evidence) -> Tensor:
        """The m of each image, (B,)."""
        assert evidence.memory_maps is not None
        maps = self._combined(evidence) if self.memory_score_map == "combined" else evidence.memory_maps
        return maps.amax(dim=(1, 2))

    def _fitted_category(self, category: str) -> FittedCategory:
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
        for fitted in self._fitted.values():
            fitted.to(self.device)
        return self
