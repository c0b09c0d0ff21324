"""CLIPSeg asked for defects: what the papers of SAA compare with.

T. Lueddecke, A. Ecker: Image Segmentation Using Text and Image Prompts (CVPR 2022), adapted to anomalies as the SAA+
paper does (arXiv 2305.10724): no training, defects named in words. That paper does not print the words it gave to
CLIPSeg; here it gets those of SAA+'s language prompt, so that the two are asked the same. The map is the mean over the
sentences, the image score its maximum.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NoReturn, Self

import torch
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, check_categories, stacked
from models.baselines.by_category import FEW_SHOT, ZERO_SHOT, checked, groups, refuse
from models.baselines.clipseg_net import ClipSegNet
from models.saa.language import LANGUAGES, Language, PromptBook


class ClipSeg(AnomalyModel):
    """Zero-shot only.

    Args:
        net: CLIPSeg.
        prompts: words for each product (prompts=saa_general, saa_expert or saa_naive).
        language: T_a and T_s ("both"), one of them ("general", "specific"), or "anomaly" alone ("naive").
    """

    serves: ClassVar[tuple[str, ...]] = (ZERO_SHOT,)

    def __init__(self, net: ClipSegNet, prompts: PromptBook, *, language: Language = "both"):
        super().__init__()
        is_net, ours = isinstance(net, ClipSegNet), isinstance(prompts, PromptBook)
        need = "CLIPSeg; choose weights that have it (weights=clipseg or clipseg_random)"
        self.net = checked("net", net if is_net else type(net).__name__, is_net, need)
        books = "prompts of SAA (prompts=saa_general, saa_expert or saa_naive)"
        self.prompts = checked("prompts", prompts if ours else type(prompts).__name__, ours, books)
        self.language: Language = checked("language", language, language in LANGUAGES, f"one of {', '.join(LANGUAGES)}")
        self.preprocess = net.preprocess
        self._conditions: dict[tuple[str, torch.device], Tensor] = {}

    def fit(self, references: Images, category: str) -> NoReturn:
        """Refuse references.

        Raises:
            ModelInputError: always.
        """
        refuse("clipseg", FEW_SHOT)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories.

        Raises:
            ModelInputError: images of another shape, not one category per image, or no prompt for a category.
        """
        check_categories(images, categories)
        pixels = stacked(images, self.device)
        maps = torch.empty(len(pixels), self.net.image_size, self.net.image_size, device=pixels.device)
        for category, members in groups(categories):
            conditions = self._conditioned(category, pixels.device).expand(len(members), -1, -1)
            maps[members] = self.net.probabilities(pixels[members], conditions).mean(dim=1)
        return Prediction(maps, maps.amax(dim=(1, 2)))

    def reference_prediction(self, category: str) -> NoReturn:
        """Refuse, since there are no references.

        Raises:
            ModelInputError: always.
        """
        refuse("clipseg", FEW_SHOT)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        return {
            "method": "CLIPSeg",
            "backbone_weights": self.net.weights,
            "model_image_size": self.net.image_size,
            "language": self.language,
            "prompts": self.prompts.label,
            "prompts_digest": self.prompts.digest,
            "map": "mean probability over the sentences of SAA+'s language prompt",
            "image_score": "maximum of the map",
        }

    def _conditioned(self, category: str, device: torch.device) -> Tensor:
        """(N, D), one row a sentence, computed once per category and device."""
        key = (category, device)
        if key not in self._conditions:
            captions = self.prompts.captions(category, self.language)
            self._conditions[key] = self.net.embed([caption.text for caption in captions])
        return self._conditions[key]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget what lies on another device."""
        super()._apply(fn, recurse)
        self._conditions.clear()
        return self
