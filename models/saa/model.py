"""SAA and SAA+: boxes by words, outlines of boxes, and four hybrid prompts that tell which of them are the anomaly.

Y. Cao, X. Xu, C. Sun, Y. Cheng, Z. Du, L. Gao, W. Shen: Segment Any Anomaly without Training via Hybrid Prompt
Regularization (arXiv 2305.10724), and their report on the winning solution of the CVPR 2023 VAND challenge.
`rules="paper"` does what the equations say, "released" what their code does (models/saa/rules.py). Departs from both:

* An image score that one image has by itself; theirs is the map's maximum, scaled over the whole test set.
* Regions are outlined lazily, objects only where they are used, each caption is encoded once: the same result, sooner.
* Options, off by default: duplicate regions merged, dense saliency under the regions, several sources of prompts.
* Few-shot: the saliency of an image is measured against normal references instead of the image itself.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, State
from models.errors import checked, checked_type
from models.images import KeepSize
from models.references import MAX_REFERENCES, ManyReferences
from models.saa.confidence import TopRegions, top_regions
from models.saa.generator.base import Proposals, RegionGenerator, ask
from models.saa.language import LANGUAGES, Caption, Language, ProductPrompt, PromptBook, PromptChoice
from models.saa.property import Scene
from models.saa.refiner.base import RegionRefiner
from models.saa.result import Assessment, anomaly_map, assess, most_agreed, prediction, score_label, top
from models.saa.rules import Rules
from models.saa.saliency.prompt import Saliency

log = logging.getLogger(__name__)

LARGEST_EXPONENT = 10.0
"""Of Eq. 6 with references: maps are kept as float16, which ends at exp(11)."""
NO_DIGITS = str.maketrans("", "", "0123456789")


class SAA(AnomalyModel):
    """The assembly; with all four prompts it is SAA+, without them SAA.

    Args:
        generator: proposes boxes for captions (Eq. 1).
        refiner: outlines boxes (Eq. 2); None where the generator outlines them itself.
        saliency_map: Eq. 5.
        prompts: words and numbers for each product, or several sources to choose from by image.
        rules: "paper" or "released".
        switches: single departures from the rules, by the names of `Rules`.
        language: T_a and T_s ("both"), one of them ("general", "specific"), or "anomaly" alone ("naive").
        property: whether regions must fit the object (Eq. 4).
        saliency: whether saliency rescores regions (Eq. 6, 7).
        confidence: whether only the K best regions count (Eq. 8).
        merge_overlap: regions with this intersection over union or more count once; None as published.
        dense_saliency: weight of the saliency under the regions of the map; 0 as published.
        score_saliency: share of the saliency in the image score.
        few_shot_exponent: with references, the exponent of Eq. 6 for a region as salient as their own most salient
            patches. It replaces the rules' factor, since saliency is another measure then.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
        map_size: side of the maps in pixels.
        image_threshold: image score from which an image is a defect; None where not known.
        threshold_source: where that comes from.
    """

    def __init__(
        self,
        generator: RegionGenerator,
        refiner: RegionRefiner | None,
        saliency_map: Saliency,
        prompts: PromptBook | PromptChoice,
        *,
        rules: str = "paper",
        switches: Mapping[str, Any] | None = None,
        language: Language = "both",
        property: bool = True,
        saliency: bool = True,
        confidence: bool = True,
        merge_overlap: float | None = None,
        dense_saliency: float = 0.0,
        score_saliency: float = 0.0,
        few_shot_exponent: float = 1.0,
        max_references: int = MAX_REFERENCES,
        map_size: int = 400,
        image_threshold: float | None = None,
        threshold_source: str = "",
    ):
        super().__init__()
        if refiner is None and isinstance(generator, RegionRefiner):
            refiner = generator
        for name, part in {"generator": generator, "refiner": refiner, "saliency_map": saliency_map}.items():
            checked(name, part, part is not None, "a built part; choose weights that have it (weights=tiny, for one)")
        assert refiner is not None
        choices = "prompts of SAA (prompts=saa_general, saa_expert, saa_naive or saa_auto)"
        self.generator = generator
        self.refiner = refiner
        self.saliency_map = saliency_map
        self.prompts = checked_type("prompts", prompts, (PromptBook, PromptChoice), choices)
        self.rules = Rules.named(rules, switches)
        self.language: Language = checked("language", language, language in LANGUAGES, f"one of {', '.join(LANGUAGES)}")
        self.property, self.saliency, self.confidence = property, saliency, confidence
        some = merge_overlap is None or 0 < merge_overlap <= 1
        self.merge_overlap = checked("merge_overlap", merge_overlap, some, "above 0 and up to 1, or null")
        self.dense_saliency = checked("dense_saliency", dense_saliency, dense_saliency >= 0, "at least 0")
        self.score_saliency = checked("score_saliency", score_saliency, 0 <= score_saliency <= 1, "between 0 and 1")
        self.few_shot_exponent = checked("few_shot_exponent", few_shot_exponent, few_shot_exponent >= 0, "at least 0")
        self.map_size = checked("map_size", map_size, map_size >= 1, "at least 1")
        self.image_threshold, self.threshold_source = image_threshold, threshold_source
        self.preprocess = KeepSize(self.rules.max_side)
        self._many = ManyReferences(max_references)
        self._references: dict[str, list[Tensor]] = {}
        self._warned: set[tuple[str, str]] = set()
        self.eval()

    def fit(self, references: Images, category: str) -> None:
        """Measure saliency in this category against normal (3, H, W) uint8 images, of any sizes, from now on."""
        known = [image.cpu() for image in self._many.remembered(references, category)]
        self.saliency_map.fit([self._shown(image) for image in known], category)
        self._references[category] = known
        maps = self.saliency_map.reference_maps(category)
        self._states[category] = {"typical": torch.stack([top(each) for each in maps]).mean()}

    def state(self, category: str) -> State:
        """What is typical of the references, and what the saliency remembers of them."""
        return super().state(category) | self.saliency_map.state(category)

    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it."""
        super().load_state({"typical": state["typical"]}, category, references)
        self.saliency_map.load_state(state, category)
        self._references[category] = [references[i].cpu() for i in self._many.among(references, category)]

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B uint8 images (3, H, W), each at its own size.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: not one category per image, or no prompt for a category.
        """
        return prediction([self._assess(image.cpu(), name) for image, name in zip(images, categories, strict=True)])

    def reference_prediction(self, category: str) -> Prediction:
        """The references of a category, each measured against the others (one alone against itself)."""
        maps = self.saliency_map.reference_maps(category)
        pairs = zip(self._references[category], maps, strict=True)
        left_out = prediction([self._assess(image, category, saliency) for image, saliency in pairs])
        return self._many.with_others(self, category, left_out)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        hybrid = {
            "P^L language": self.language != "naive", "P^P property": self.property, "P^S saliency": self.saliency,
            "P^C confidence": self.confidence,
        }  # fmt: skip
        off = [name for name, on in hybrid.items() if not on]
        method = "SAA" if len(off) == 4 else f"SAA+ without {', '.join(off)}" if off else "SAA+"
        dense = f" + {self.dense_saliency:g} x saliency under them" if self.dense_saliency else ""
        return {
            "method": method,
            "rules": self.rules.label,
            "language": self.language,
            "prompts": self.prompts.label,
            "prompts_digest": self.prompts.digest,
            "duplicates": "kept" if self.merge_overlap is None else f"merged from IoU {self.merge_overlap:g}",
            "map": f"mean of the regions' confidences (Eq. 9){dense}",
            "map_size": self.map_size,
            "image_score": score_label(self.score_saliency),
            "few_shot_exponent": f"{self.few_shot_exponent:g} for a region as salient as mu, the references' own top",
            "few_shot_calibration": "each reference against the others; one alone against itself, patches closer than "
            f"{self.saliency_map.own_window:g} of the side excluded; {self._many.label}",
            **self.generator.protocol,
            **self.refiner.protocol,
            **self.saliency_map.protocol,
        }

    def _assess(self, image: Tensor, category: str, saliency: Tensor | None = None) -> Assessment:
        """The papers' figure from left to right; `saliency` where it is known already."""
        books = self.prompts.sources.values() if isinstance(self.prompts, PromptChoice) else [self.prompts]
        wanted = [book.captions(category, self.language, self.rules.raw_names) for book in books]
        products = [book.product(category) for book in books]
        known = next((book for book in books if book.knows(category)), next(iter(books))).product(category)
        scene, found = self._look(image, category, known, wanted)  # Eq. 1 with T_a and T_s
        if saliency is None:
            saliency = self._saliency(scene, image, category, known)  # Eq. 5
        regions = [
            self._regions(scene, texts, boxes, product, saliency, category)  # Eq. 2, 4, 6, 7 and 8
            for texts, boxes, product in zip(wanted, found, products, strict=True)
        ]
        maps = [anomaly_map(each, extra_weight=self.rules.denominator) for each in regions]  # Eq. 9
        chosen = 0 if len(maps) == 1 else most_agreed(maps, saliency)
        return assess(
            regions[chosen], maps[chosen], saliency, map_size=self.map_size, highest=self.saliency_map.highest,
            dense=self.dense_saliency, share=self.score_saliency, typical=self._states.get(category, {}).get("typical"),
        )  # fmt: skip

    def _look(
        self, image: Tensor, category: str, product: ProductPrompt, wanted: Sequence[Sequence[Caption]]
    ) -> tuple[Scene, list[list[Proposals]]]:
        """One pass of the generator for each distinct caption, and one for the object where that matters.

        Generator and refiner resize the image themselves, before it reaches their device; all that they find is moved
        to the model's.
        """
        named = self.property or self._several(product)
        name = product.asked_for(self.rules.raw_names) if named else None
        texts = [[caption.text for caption in source] for source in wanted]
        objects, found = ask(self.generator, image, name, texts)
        objects = None if objects is None else objects.to(self.device)
        found = [[boxes.to(self.device) for boxes in each] for each in found]
        if objects is not None and len(objects.scores) == 0:
            self._warn(category, "no object found, so the whole image counts as the object")
        outliner = self.refiner.outline(self._shown(image))
        return Scene((image.shape[1], image.shape[2]), outliner, objects, self.rules), found

    def _regions(
        self, scene: Scene, captions: Sequence[Caption], found: Sequence[Proposals], product: ProductPrompt,
        saliency: Tensor | None, category: str,
    ) -> TopRegions:  # fmt: skip
        """Boxes of one source of prompts to the regions that count."""
        filters = [caption.filter for caption in captions]
        boxes, scores = scene.plausible(found, filters, product, self.property)
        regions = top_regions(
            scene.masks, boxes, scores, scene.size,
            saliency=saliency if self.saliency else None,
            factor=self._exponent(category),
            top_k=(self.rules.top_k or product.top_k) if self.confidence else None,
            keep=scene.property_rule(product) if self.property else None,
            merge_overlap=self.merge_overlap,
        )  # fmt: skip
        if len(regions.scores) == 0:
            proposed = sum(len(each.scores) for each in found)
            self._warn(category, f"no region left of {proposed} boxes proposed; the map is without regions")
        return regions

    def _saliency(self, scene: Scene, image: Tensor, category: str, product: ProductPrompt) -> Tensor | None:
        """Eq. 5 where anything needs it: against the image itself, its several objects, or references."""
        if not (self.saliency or self.dense_saliency or self.score_saliency or isinstance(self.prompts, PromptChoice)):
            return None
        shown = self._shown(image).to(self.device)
        if self._states:
            return self.saliency_map(shown, category=category)
        if not self._several(product):
            return self.saliency_map(shown)
        if (number := len(scene.object_boxes(product))) < 2:
            what = f"{product.count} objects expected, {number} found: nothing to compare, saliency is 0"
            self._warn(category, what)
            return torch.zeros(scene.size, device=self.device)
        return self.saliency_map(shown, scene.object_masks(product))

    def _exponent(self, category: str) -> float:
        """Factor on the mean saliency of a region (Eq. 6)."""
        if category not in self._states:
            return self.rules.exponent
        largest = LARGEST_EXPONENT / self.saliency_map.highest
        return min(largest, self.few_shot_exponent / max(float(self._states[category]["typical"]), 1e-6))

    def _several(self, product: ProductPrompt) -> bool:
        """Whether saliency compares the objects of an image with each other."""
        return self.saliency and self.rules.several_objects and product.count > 1 and not self._states

    def _shown(self, image: Tensor) -> Tensor:
        """The image as the refiner and the saliency net see it."""
        return image.flip(0) if self.rules.bgr else image

    def _warn(self, category: str, what: str) -> None:
        """Log a WARNING once per category and kind (the words without numbers), DEBUG after that."""
        kind = (category, what.translate(NO_DIGITS))
        log.log(logging.DEBUG if kind in self._warned else logging.WARNING, "%s: %s", category, what)
        self._warned.add(kind)
