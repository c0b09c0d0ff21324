"""WinCLIP and, with references, WinCLIP+: text prompts for normal and anomalous, scored on image windows.

J. Jeong, Y. Zou et al.: WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation (arXiv 2303.14814). The windows
of 2 x 2 and 3 x 3 patches and the image itself are its scales. Departs from the paper:

* With the ResNet tower of a CLIP, windows are regions of the last layer's grid, pooled by attention, and reference
  association of patches reads the third layer; a run's protocol says so.

The paper's penultimate feature map is read as the last block's patches before their projection, as others do too.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction, State, stacked
from models.baselines.windows import (
    WindowFeatures,
    at_patches,
    encode_windows,
    harmonic_mean,
    window_grid,
    window_patches,
)
from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.errors import checked, checked_type
from models.images import check_batch
from models.nearest import MemoryBank
from models.references import AT_ONCE, MAX_REFERENCES, ManyReferences, progress

HALF = 0.5
"""Of 1 - cosine, and the weight of words and of references where both speak."""


class WinCLIP(AnomalyModel):
    """Zero- and few-shot.

    Args:
        backbone: the frozen CLIP; ViT-B-16-plus-240 as published.
        prompts: states x templates (prompts=winclip).
        window_sides: sides in patches of the windows.
        temperature: of the softmax between normal and anomalous.
        own_window: with one reference, patches closer than this fraction of the side, and windows that overlap, are
            excluded where it is scored against itself.
        windows_at_once: windows encoded in one batch.
        max_references: how many references are remembered; of more, evenly spread ones, and the others are only scored.
    """

    def __init__(
        self, backbone: ClipBackbone, prompts: PromptEnsemble, *, window_sides: Sequence[int] = (2, 3),
        temperature: float = 0.07, own_window: float = 0.15, windows_at_once: int = 1024,
        max_references: int = MAX_REFERENCES,
    ):  # fmt: skip
        super().__init__()
        need = "a CLIP; choose weights that have one (weights=tiny or laion_vitb16_plus_240)"
        self.backbone = checked_type("backbone", backbone, ClipBackbone, need)
        self.prompts = checked_type("prompts", prompts, PromptEnsemble, "prompts=winclip")
        self.preprocess = backbone.preprocess
        good = len(window_sides) > 0 and all(side >= 1 for side in window_sides)
        self.window_sides = tuple(checked("window_sides", list(window_sides), good, "one or more sides of at least 1"))
        self.temperature = checked("temperature", temperature, temperature > 0, "above 0")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.windows_at_once = checked("windows_at_once", windows_at_once, windows_at_once >= 1, "at least 1")
        self._texts: dict[tuple[PromptEnsemble, str, torch.device], Tensor] = {}
        self._many = ManyReferences(max_references)

    def fit(self, references: Images, category: str) -> None:
        """Remember what `encode_windows` gives of (K, 3, S, S) preprocessed normal images of a category."""
        images = stacked(self._many.remembered(references, category), self.device)
        features = WindowFeatures.cat([self._encode(part) for part in images.split(AT_ONCE)])
        self._states[category] = features.tensors(self.window_sides)

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories."""
        features = self._encode(stacked(images, self.device))
        scores, maps = self._by_words(features, categories)
        if not self._states:
            return self._prediction(scores, maps, None)
        known = {category: self._banks(self._states[category]) for category in dict.fromkeys(categories)}
        unlike = [self._unlike_references(features[i : i + 1], known[name]) for i, name in enumerate(categories)]
        return self._prediction(scores, maps, torch.cat(unlike))

    def reference_prediction(self, category: str) -> Prediction:
        """Each reference against the others; a single one against itself elsewhere."""
        known = self._states[category]
        features, banks = WindowFeatures.of(known, self.window_sides), self._banks(known)
        count = len(features.embedding)
        scores, maps = self._by_words(features, [category] * count)
        unlike = [
            self._unlike_references(features[i : i + 1], banks, leave_out=i)
            for i in progress(range(count), f"{category}: references left out")
        ]
        return self._many.with_others(self, category, self._prediction(scores, maps, torch.cat(unlike)))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this model."""
        sides = " and ".join(f"{side} x {side}" for side in self.window_sides)
        if self.backbone.is_convolutional:
            windows = f"regions of {sides} patches of the last layer, pooled as the image is (not as published)"
            tokens = "third layer"
        else:
            windows, tokens = f"{sides} patches, encoded by themselves", "last block, before the projection"
        return {
            "method": "WinCLIP, with references WinCLIP+",
            "backbone": self.backbone.name,
            "backbone_weights": self.backbone.weights,
            "activation": self.backbone.activation,
            "model_image_size": self.backbone.image_size,
            "precision": self.backbone.precision,
            "prompts": self.prompts.label,
            "windows": windows,
            "temperature": self.temperature,
            "map": "harmonic mean over the windows of a patch, then over their sizes and the image",
            "few_shot_map": f"mean of the zero-shot map and of reference association by windows and patches ({tokens})",
            "image_score": "zero-shot: text probability of the image; with references: mean of it and of the largest "
            "value of reference association",
            "few_shot_calibration": "each reference against the others; a single one against itself, without a window "
            f"of {self.own_window:g} of the side, and without windows that overlap; {self._many.label}",
        }

    def _encode(self, images: Tensor) -> WindowFeatures:
        check_batch(images, self.backbone.image_size)
        return encode_windows(self.backbone, images, self.window_sides, windows_at_once=self.windows_at_once)

    def _by_words(self, features: WindowFeatures, categories: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and zero-shot maps (B, h, w), both in [0, 1]."""
        text = torch.stack([self._text(category, features.embedding.device) for category in categories])  # (B, D, 2)
        scores = self._probability(features.embedding[:, None], text)[:, 0]
        scales = [scores[:, None, None].expand(-1, *features.grid)]
        for side, windows in zip(self.window_sides, features.windows, strict=True):
            patches = window_patches(features.grid, side)
            scales.append(at_patches(self._probability(windows, text), patches, features.grid))
        return scores, harmonic_mean(torch.stack(scales), dim=0)

    def _probability(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """That (B, W, D) embeddings show something anomalous: (B, W)."""
        return (F.normalize(embeddings, dim=-1) @ text / self.temperature).softmax(dim=-1)[..., 1]

    def _text(self, category: str, device: torch.device) -> Tensor:
        """Text features (D, 2), computed once per category, prompts and device."""
        key = (self.prompts, category, device)
        if key not in self._texts:
            self._texts[key] = self.prompts.text_features(self.backbone, category)
        return self._texts[key]

    def _banks(self, known: State) -> list[MemoryBank]:
        """A bank for the patches (side 1), and one for each side of a window; windows that overlap are near as well."""
        features = WindowFeatures.of(known, self.window_sides)
        banks = [MemoryBank(features.tokens, features.token_grid, own_window=self.own_window)]
        for side, windows in zip(self.window_sides, features.windows, strict=True):
            grid = window_grid(features.grid, side)
            own_window = max(self.own_window, 2 * (side - 1) / min(grid))
            banks.append(MemoryBank(windows, grid, own_window=own_window))
        return banks

    def _unlike_references(
        self, features: WindowFeatures, banks: Sequence[MemoryBank], leave_out: int | None = None
    ) -> Tensor:
        """Reference association of one image: mean over windows and patches of half of 1 - cosine, (1, h, w)."""
        of_patches, *of_windows = banks
        maps = [HALF * of_patches.distance(features.tokens, leave_out)]
        for side, windows, bank in zip(self.window_sides, features.windows, of_windows, strict=True):
            distance = HALF * bank.distance(windows, leave_out).flatten(1)
            maps.append(at_patches(distance, window_patches(features.grid, side), features.grid))
        return torch.stack([_sized(each, features.token_grid) for each in maps]).mean(dim=0)

    def _prediction(self, scores: Tensor, maps: Tensor, unlike: Tensor | None) -> Prediction:
        scalars = {"text_score": scores}
        if unlike is not None:
            scores = torch.lerp(scores, unlike.amax(dim=(1, 2)), HALF)
            maps = torch.lerp(_sized(maps, (unlike.shape[1], unlike.shape[2])), unlike, HALF)
        size = (self.backbone.image_size, self.backbone.image_size)
        maps = _sized(maps, size)
        return Prediction(maps, scores, {**scalars, "map_max": maps.amax(dim=(1, 2))})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move what was learnt along with the parameters (`to`, `cuda`, `cpu`)."""
        super()._apply(fn, recurse)
        self._texts.clear()
        return self


def _sized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) maps at another size (bilinear)."""
    if (maps.shape[1], maps.shape[2]) == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
