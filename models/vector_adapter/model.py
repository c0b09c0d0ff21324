"""An adapter without words: normal and abnormal vectors per stage of any frozen encoder, memory banks of references.

After UniADet (whose published figures and number of parameters are all that is known of it, arXiv and README of
gaobb/UniADet) and APRIL-GAN (arXiv 2305.17382), whose text features the vectors take the place of. Departs from them:

* The image's pair reads the embedding alone, where UniADet seems to have a pair for the class token of each stage.
* The scales of the cosines are learnt, one for pixels and one for images; APRIL-GAN's is 100.
* The map is the mean over the stages, of probabilities as of distances to references; APRIL-GAN adds them up.
* The image score has a share of the map's maximum; with references, of that maximum calibrated on them alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, State, groups, stacked
from models.baselines.patches import check_backbone, encode_in_parts, square_grid
from models.errors import checked
from models.features import ImageFeatures, PatchBackbone
from models.images import check_batch
from models.maps import hill
from models.nearest import MAX_ELEMENTS, CategoryMemory, MemoryBank
from models.references import MAX_REFERENCES, ManyReferences, progress
from models.vector_adapter.checkpoint import check_vectors_fit
from models.vector_adapter.vectors import MAP_SHARE, ClassVectors


class VectorAdapter(AnomalyModel):
    """Zero- and few-shot, on any encoder that gives patch tokens; the category's name plays no part.

    Args:
        backbone: the frozen encoder.
        adapter: vectors trained on this backbone's stages.
        map_share: share of the map's maximum in the zero-shot image score.
        memory_weight: weight of the memory map, the mean over stages of the distance to the nearest reference token,
            beside the zero-shot map.
        memory_score_weight: share of the calibrated map maximum in the few-shot image score.
        calibration_exponent: k of m^k / (m^k + mu^k), mu being the references' typical leave-one-out maximum.
        own_window: with one reference, patches closer than this fraction of the side are excluded.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
        max_elements: largest similarity matrix held at a time, in elements.
    """

    scores_are_probabilities = True

    def __init__(
        self, backbone: PatchBackbone, adapter: ClassVectors, *, map_share: float = MAP_SHARE,
        memory_weight: float = 1.0, memory_score_weight: float = 0.5, calibration_exponent: float = 4.0,
        own_window: float = 0.15, max_references: int = MAX_REFERENCES, max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        self.backbone = check_backbone(backbone, "vector_adapter")
        check_vectors_fit(adapter, backbone)
        self.adapter = adapter
        self.preprocess = backbone.preprocess
        self.map_share = checked("map_share", map_share, 0 <= map_share <= 1, "between 0 and 1")
        self.memory_weight = checked("memory_weight", memory_weight, memory_weight >= 0, "at least 0")
        share = 0 <= memory_score_weight <= 1
        self.memory_score_weight = checked("memory_score_weight", memory_score_weight, share, "between 0 and 1")
        steep = calibration_exponent > 0
        self.calibration_exponent = checked("calibration_exponent", calibration_exponent, steep, "above 0")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Remember the unit tokens of (K, 3, S, S) normal images of a category, and calibrate its score on them."""
        features = self._encode(stacked(self._many.remembered(references, category), self.device))
        state = {f"stage{n}": tokens for n, tokens in enumerate(features.stages)}
        memory = self._memory(state)
        each = progress(range(len(features.embedding)), f"{category}: references left out")
        left_out = torch.cat([memory.maps(features[i : i + 1], leave_out=i) for i in each])
        maps = self._with_memory(self._zero_shot(features)[1], left_out)
        facts = {"embedding": features.embedding, "left_out": left_out, "typical_max": maps.amax(dim=(1, 2)).mean()}
        self._states[category] = state | facts

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B categories; without references their names change nothing."""
        features = self._encode(stacked(images, self.device))
        scores, maps = self._zero_shot(features)
        if not self._states:
            return self._prediction(scores, maps)
        memory, typical = torch.empty_like(maps), torch.empty_like(scores)
        for category, members in groups(categories):
            known = self._states[category]
            memory[members] = self._memory(known).maps(features[members.tolist()])
            typical[members] = known["typical_max"]
        return self._prediction(scores, self._with_memory(maps, memory), typical)

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against itself elsewhere."""
        known = self._states[category]
        stages = tuple(known[f"stage{n}"] for n in range(len(self.backbone.stages)))
        features = ImageFeatures(known["embedding"], stages, tuple(map(square_grid, stages)))
        scores, maps = self._zero_shot(features)
        typical = known["typical_max"].expand(len(scores))
        left_out = self._prediction(scores, self._with_memory(maps, known["left_out"]), typical)
        return self._many.with_others(self, category, left_out)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        k, share, own = self.calibration_exponent, self.memory_score_weight, self.map_share
        return {
            "method": "vector_adapter (after UniADet and APRIL-GAN)",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "activation": getattr(self.backbone, "activation", "its own"),
            "model_image_size": self.backbone.image_size,
            "stages": " ".join(map(str, self.backbone.stages)),
            "precision": getattr(self.backbone, "precision", "float32"),
            "adapter_trained_on": ", ".join(self.adapter.trained_on) or "not stated in the file",
            "map": "mean over stages of the abnormal probability by normal and abnormal vectors",
            "few_shot_map": f"zero-shot map + {self.memory_weight:g} x mean over stages of 1 - cosine to the nearest "
            "reference token",
            "image_score": f"zero-shot: {1 - own:g} probability of the embedding + {own:g} maximum of the map; with "
            f"references: {1 - share:g} zero-shot + {share:g} m^{k:g} / (m^{k:g} + mu^{k:g}), m the maximum of the map",
            "few_shot_calibration": "mu is the mean of m over the references, each left out of the memory; a single "
            f"reference without a window of {self.own_window:g} of the side around each token; {self._many.label}",
        }

    def _encode(self, images: Tensor) -> ImageFeatures:
        """The features, tokens brought to length 1: all that the vectors and the memory look at."""
        check_batch(images, self.backbone.image_size)
        features = encode_in_parts(self.backbone, images)
        stages = tuple(F.normalize(tokens, dim=-1) for tokens in features.stages)
        return ImageFeatures(features.embedding, stages, features.grids)

    def _zero_shot(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and maps (B, S, S)."""
        return self.adapter.assessed(features, self.backbone.image_size, self.map_share)

    def _memory(self, known: State) -> CategoryMemory:
        """The banks of a category."""
        stages = range(len(self.backbone.stages))
        settings = {"own_window": self.own_window, "max_elements": self.max_elements}
        tokens = [known[f"stage{n}"] for n in stages]
        banks = [MemoryBank(each, square_grid(each), **settings) for each in tokens]  # type: ignore[arg-type]
        return CategoryMemory(banks, stages, self.backbone.image_size)

    def _with_memory(self, maps: Tensor, memory: Tensor) -> Tensor:
        """Zero-shot maps beside memory maps, which are sums over the stages."""
        return maps + self.memory_weight / len(self.backbone.stages) * memory

    def _prediction(self, scores: Tensor, maps: Tensor, typical_max: Tensor | None = None) -> Prediction:
        highest = maps.amax(dim=(1, 2))
        if typical_max is not None:
            calibrated = hill(highest, typical_max, self.calibration_exponent)
            scores = torch.lerp(scores, calibrated, self.memory_score_weight)
        return Prediction(maps, scores, {"map_max": highest})
