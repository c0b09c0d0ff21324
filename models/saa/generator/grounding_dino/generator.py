"""Language to boxes: the region generator of SAA (SAA+ Eq. 1), GroundingDINO.

Y. Cao et al.: Segment Any Anomaly without Training via Hybrid Prompt Regularization (arXiv 2305.10724);
S. Liu et al.: Grounding DINO (arXiv 2303.05499). All captions of an image go through one batch; boxes, scores and
phrases are those of `groundingdino.util.inference.predict`, one caption at a time, up to float rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from models.errors import ModelInputError, checked
from models.frozen import Frozen, autocast, check_precision
from models.saa.generator.grounding_dino.captions import Caption, CaptionReader, join, normalised
from models.saa.generator.grounding_dino.encoder import ImageTokens
from models.saa.generator.grounding_dino.network import GroundingDino, together
from models.saa.generator.grounding_dino.pixels import to_pixels

SCORES = ("any_token", "phrase_tokens")


@dataclass(frozen=True, eq=False)
class Proposals:
    """The boxes found for one caption.

    `boxes` (N, 4) float32, (cx, cy, w, h) in fractions of the image, unclipped; `scores` (N,) float32 in [0, 1];
    `phrases`, N strings: the words whose token probability exceeds the text threshold.
    """

    boxes: Tensor
    scores: Tensor
    phrases: tuple[str, ...]

    def __len__(self) -> int:
        """N, the number of boxes."""
        return len(self.scores)

    def to(self, device: torch.device) -> "Proposals":
        """The same on another device."""
        return Proposals(self.boxes.to(device), self.scores.to(device), self.phrases)


class RegionGenerator(Protocol):
    """What turns captions into boxes."""

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes in a uint8 RGB image (3, H, W), one `Proposals` per caption in order."""
        ...

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels that every number made with this generator must carry."""
        ...


class GroundingDinoGenerator(Frozen):
    """GroundingDINO as a region generator.

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
        joined_captions: put all captions into one and read each caption's score off its own tokens. Faster, and
            another computation: captions then compete for the image's attention and for the queries.
        precision: "float32", or "bfloat16" or "float16" for autocast over image and captions, not in the text encoder.

    Texts are encoded once per caption and kept. The thresholds compare strictly.
    """

    def __init__(
        self,
        network: GroundingDino,
        reader: CaptionReader,
        *,
        weights: str = "unnamed",
        box_threshold: float = 0.1,
        text_threshold: float = 0.1,
        score: Literal["any_token", "phrase_tokens"] = "any_token",
        short_side: int = 800,
        long_side: int = 1333,
        captions_at_once: int | None = None,
        joined_captions: bool = False,
        precision: str = "float32",
    ):
        super().__init__()
        checked("score", score, score in SCORES, f"one of {', '.join(SCORES)}")
        checked("box_threshold", box_threshold, 0 <= box_threshold <= 1, "between 0 and 1")
        checked("text_threshold", text_threshold, 0 <= text_threshold <= 1, "between 0 and 1")
        checked("short_side", short_side, 1 <= short_side <= long_side, "at least 1 and at most long_side")
        checked("captions_at_once", captions_at_once, captions_at_once is None or captions_at_once >= 1, "at least 1")
        self.network = network
        self.reader = reader
        self.weights = weights
        self.box_threshold = box_threshold
        self.text_threshold = text_threshold
        self.score = score
        self.short_side = short_side
        self.long_side = long_side
        self.captions_at_once = captions_at_once
        self.joined_captions = joined_captions
        self.precision = check_precision(precision)
        self._texts: dict[tuple[str, torch.device, torch.dtype], tuple[Caption, Tensor]] = {}
        self.eval()

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What decides the boxes: weights, thresholds, score rule, sizes, precision, separate or joined captions."""
        return {
            "generator": "grounding_dino",
            "generator_weights": self.weights,
            "generator_score": self.score,
            "generator_captions": "joined" if self.joined_captions else "separate",
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
        looked = self._look(image)
        found = self._joined(looked, different) if self.joined_captions else self._separate(looked, different)
        by_text = dict(zip(different, found, strict=True))
        return [by_text[text] for text in texts]

    def _look(self, image: Tensor) -> ImageTokens:
        """The image before any caption, shared by all."""
        pixels = to_pixels(image, self.short_side, self.long_side)
        with self._autocast():
            return self.network.look(pixels.to(self.network.feat_map.weight))

    def _separate(self, image: ImageTokens, texts: Sequence[str]) -> list[Proposals]:
        """Each text as its own caption."""
        found = []
        for caption, logits, boxes in self._detect(image, texts):
            found.append(self._proposals(caption, logits, boxes, torch.ones(len(caption.ids), dtype=torch.bool)))
        return found

    def _joined(self, image: ImageTokens, texts: Sequence[str]) -> list[Proposals]:
        """All texts as one caption (or as few as hold them), each scored on its own tokens."""
        joined = join(self.reader, texts)
        found = []
        detected = self._detect(image, [text for text, _ in joined])
        for (caption, logits, boxes), (_, places) in zip(detected, joined, strict=True):
            for place in places:
                own = torch.zeros(len(caption.ids), dtype=torch.bool)
                own[place] = True
                found.append(self._proposals(caption, logits, boxes, own))
        return found

    def _detect(self, image: ImageTokens, texts: Sequence[str]) -> list[tuple[Caption, Tensor, Tensor]]:
        """Per text its caption of T tokens, logits (Q, T) and boxes (Q, 4)."""
        step = self.captions_at_once or len(texts)
        detected = []
        for start in range(0, len(texts), step):
            captions, features = zip(*(self._read(text) for text in texts[start : start + step]), strict=True)
            with self._autocast():
                logits, boxes = self.network.detect(image, together(captions, features))
            for caption, its_logits, its_boxes in zip(captions, logits, boxes, strict=True):
                detected.append((caption, its_logits[:, : len(caption.ids)], its_boxes))
        return detected

    def _proposals(self, caption: Caption, logits: Tensor, boxes: Tensor, own: Tensor) -> Proposals:
        """The boxes that score above the threshold on a caption's own tokens (T,)."""
        tokens = own & caption.words if self.score == "phrase_tokens" else own
        probabilities = logits.float().sigmoid() * tokens.to(logits.device)
        scores = probabilities.amax(dim=1)
        kept = scores > self.box_threshold
        phrases = self.reader.phrases(caption, probabilities[kept] > self.text_threshold)
        return Proposals(boxes[kept].float(), scores[kept], phrases)

    def _read(self, text: str) -> tuple[Caption, Tensor]:
        """A normalised caption and its features, encoded at the first call."""
        weight = self.network.feat_map.weight
        key = (text, weight.device, weight.dtype)
        if key not in self._texts:
            caption = self.reader.read(text)
            self._texts[key] = (caption, self.network.read(caption))
        return self._texts[key]

    def _autocast(self) -> torch.autocast:
        return autocast(self.network.device, self.precision)
