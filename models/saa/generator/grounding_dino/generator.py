"""GroundingDINO as the region generator of SAA (SAA+ Eq. 1).

Y. Cao et al.: Segment Any Anomaly without Training via Hybrid Prompt Regularization (arXiv 2305.10724);
S. Liu et al.: Grounding DINO (arXiv 2303.05499). All captions of an image go through one batch; boxes, scores and
phrases are those of `groundingdino.util.inference.predict`, one caption at a time, up to float rounding.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from models.errors import ModelInputError, checked
from models.frozen import Frozen, autocast, check_precision
from models.saa.generator.base import Proposals
from models.saa.generator.grounding_dino.inputs import CaptionReader, CaptionTokens, normalised, to_pixels

SCORES = ("any_token", "phrase_tokens")


class Detector(Protocol):
    """What the generator asks of a network: `GroundingDino`, or one of transformers (zero_shot_detector.py)."""

    kind: str

    @property
    def weight(self) -> Tensor:
        """One of the weights, for their device and type."""
        ...

    def look(self, pixels: Tensor) -> Any:
        """A normalised image (3, h, w) before any caption."""
        ...

    def read(self, caption: CaptionTokens) -> Tensor:
        """What `find` wants of a caption, once for all images."""
        ...

    def find(self, looked: Any, captions: Sequence[CaptionTokens], features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, T or more) and boxes (B, Q, 4), as (cx, cy, w, h) in fractions of the image."""
        ...


class GroundingDinoGenerator(Frozen):
    """Boxes of captions by GroundingDINO.

    Args:
        network: GroundingDINO with its weights.
        reader: the vocabulary that the weights were trained with.
        weights: a label of the weights.
        box_threshold: boxes must score above it; 0.1 as released.
        text_threshold: tokens must be above it to count in a box's phrase; 0.1 as released.
        score: "any_token", the maximum over all tokens of the caption ([CLS], "." and [SEP] too, as released), or
            "phrase_tokens", over the tokens of its words.
        short_side: pixels of the image's short side; 800 as released.
        long_side: its long side's limit; 1333 as released.
        captions_at_once: captions of one batch, fewer for less memory; None for all.
        precision: "float32", or "bfloat16" or "float16" for autocast over image and captions, not in the text encoder.

    Texts are encoded once per caption and kept. The thresholds compare strictly.
    """

    def __init__(
        self,
        network: Detector,
        reader: CaptionReader,
        *,
        weights: str = "unnamed",
        box_threshold: float = 0.1,
        text_threshold: float = 0.1,
        score: Literal["any_token", "phrase_tokens"] = "any_token",
        short_side: int = 800,
        long_side: int = 1333,
        captions_at_once: int | None = None,
        precision: str = "float32",
    ):
        super().__init__()
        self.network = network
        self.reader = reader
        self.weights = weights
        self.box_threshold = checked("box_threshold", box_threshold, 0 <= box_threshold <= 1, "between 0 and 1")
        self.text_threshold = checked("text_threshold", text_threshold, 0 <= text_threshold <= 1, "between 0 and 1")
        self.score = checked("score", score, score in SCORES, f"one of {', '.join(SCORES)}")
        fits = 1 <= short_side <= long_side
        self.short_side = checked("short_side", short_side, fits, "at least 1 and at most long_side")
        self.long_side = long_side
        some = captions_at_once is None or captions_at_once >= 1
        self.captions_at_once = checked("captions_at_once", captions_at_once, some, "at least 1, or null")
        self.precision = check_precision(precision)
        self._texts: dict[tuple[str, torch.device, torch.dtype], tuple[CaptionTokens, Tensor]] = {}
        self.eval()

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What decides the boxes: weights, thresholds, score rule, sizes, precision."""
        return {
            "generator": self.network.kind,
            "generator_weights": self.weights,
            "generator_score": self.score,
            "generator_precision": self.precision,
            "box_threshold": self.box_threshold,
            "text_threshold": self.text_threshold,
            "generator_short_side": self.short_side,
            "generator_long_side": self.long_side,
        }

    @torch.no_grad()
    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes in a uint8 RGB image (3, H, W) for each caption, in order; none found is an empty `Proposals`.

        Boxes are in the order of the model's queries, best first guess first, and lie on the weights' device.

        Raises:
            ModelInputError: another kind of image, or a caption without words.
        """
        if isinstance(captions, str):
            raise ModelInputError(f"expected a list of captions, got the string {captions!r}; put it into a list")
        texts = [normalised(caption) for caption in captions]
        different = list(dict.fromkeys(texts))
        if not different:
            return []
        pixels = to_pixels(image, self.short_side, self.long_side)
        device = self.network.weight.device
        with autocast(device, self.precision):
            looked = self.network.look(pixels.to(self.network.weight))
        found: dict[str, Proposals] = {}
        step = self.captions_at_once or len(different)
        for start in range(0, len(different), step):
            read, features = zip(*map(self._read, different[start : start + step]), strict=True)
            with autocast(device, self.precision):
                logits, boxes = self.network.find(looked, read, features)
            for caption, its_logits, its_boxes in zip(read, logits, boxes, strict=True):
                found[caption.text] = self._proposals(caption, its_logits[:, : len(caption.ids)], its_boxes)
        return [found[text] for text in texts]

    def _proposals(self, caption: CaptionTokens, logits: Tensor, boxes: Tensor) -> Proposals:
        """The boxes (Q, 4) that score above the threshold on a caption's tokens, by its logits (Q, T)."""
        probabilities = logits.float().sigmoid()
        if self.score == "phrase_tokens":
            probabilities = probabilities * caption.words.to(logits.device)
        scores = probabilities.amax(dim=1)
        kept = scores > self.box_threshold
        phrases = self.reader.phrases(caption, probabilities[kept] > self.text_threshold)
        return Proposals(boxes[kept].float(), scores[kept], phrases)

    def _read(self, text: str) -> tuple[CaptionTokens, Tensor]:
        """A normalised caption and its features, encoded at the first call."""
        weight = self.network.weight
        key = (text, weight.device, weight.dtype)
        if key not in self._texts:
            caption = self.reader.read(text)
            self._texts[key] = (caption, self.network.read(caption))
        return self._texts[key]
