"""SAM 3's detector: boxes of whatever a short phrase names, in place of GroundingDINO (SAA+ Eq. 1), by transformers 5.

N. Carion et al.: SAM 3: Segment Anything with Concepts (arXiv 2511.16719), the part that reads an image and a noun
phrase. A box scores by its query's probability times that of the phrase being in the image at all, as in the
processor's `post_process_object_detection`. Its masks are not used: SAM 3's tracker, or another refiner, outlines
boxes. Departs from transformers:

* A caption of several phrases, with a full stop between them, is asked phrase by phrase, and each box has its phrase.
* The image is encoded once for all phrases, a phrase once for all images.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import AutoModel

from models.errors import checked
from models.frozen import Frozen, autocast, check_precision
from models.images import check_image, normalised
from models.saa.generator.base import Proposals
from models.saa.refiner.sam.refiner import resized
from models.saa.refiner.sam.successors import HALVES, sam3_config
from models.weights.pretrained import load_pretrained

LONGEST = 32
"""Tokens of a phrase, as the processor cuts and fills it."""


class ConceptGenerator(Frozen):
    """Boxes of what phrases name.

    Args:
        net: `Sam3Model` of transformers.
        weights: the label of the weights.
        threshold: boxes must score above it.
        precision: "float32", or "bfloat16" or "float16" for autocast.
    """

    def __init__(self, net: Any, *, weights: str = "unnamed", threshold: float = 0.1, precision: str = "float32"):
        super().__init__()
        self.net = net.requires_grad_(False)
        self.weights = weights
        self.threshold = checked("threshold", threshold, 0 <= threshold <= 1, "between 0 and 1")
        self.precision = check_precision(precision)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=LONGEST)
        self._texts: dict[str, tuple[Any, Tensor]] = {}
        self.eval()

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this generator."""
        return {
            "generator": "SAM 3's detector of transformers, a caption phrase by phrase",
            "generator_weights": self.weights,
            "generator_precision": self.precision,
            "generator_boxes": f"above {self.threshold:g}, the probability that the phrase is there included",
        }

    @torch.no_grad()
    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes in a uint8 RGB image (3, H, W) of each caption's phrases, best first.

        Raises:
            ModelInputError: another kind of image.
        """
        check_image(image)
        phrases = [[each.strip() for each in caption.split(".") if each.strip()] for caption in captions]
        wanted = list(dict.fromkeys(each for several in phrases for each in several))
        seen = self._look(image) if wanted else None
        found = {phrase: self._find(seen, phrase) for phrase in wanted}
        return [self._together({phrase: found[phrase] for phrase in several}) for several in phrases]

    def _look(self, image: Tensor) -> Any:
        side, weight = int(self.net.config.vision_config.backbone_config.image_size), self._weight
        pixels = normalised(resized(image, (side, side)).to(weight)[None], HALVES, HALVES)
        with autocast(self.net.device, self.precision):
            return self.net.get_vision_features(pixel_values=pixels)

    def _find(self, seen: Any, phrase: str) -> tuple[Tensor, Tensor]:
        """The (N, 4) boxes and (N,) scores of a phrase, as proposals have them."""
        text, mask = self._read(phrase)
        with autocast(self.net.device, self.precision):
            found = self.net(vision_embeds=seen, text_embeds=text, attention_mask=mask)
        scores = found.pred_logits[0].float().sigmoid() * found.presence_logits[0].float().sigmoid()
        kept = scores > self.threshold
        return box_convert(found.pred_boxes[0].float()[kept], "xyxy", "cxcywh"), scores[kept]

    def _read(self, phrase: str) -> tuple[Any, Tensor]:
        """What stands for a phrase, and (1, T) which of its tokens are words."""
        if phrase not in self._texts:
            ids = self._tokenizer([phrase]).to(self.net.device)
            mask = (
                torch.arange(LONGEST, device=ids.device) <= ids.argmax(dim=1)[:, None]
            ).long()  # the last one ends it
            with autocast(self.net.device, self.precision):
                self._texts[phrase] = self.net.get_text_features(input_ids=ids, attention_mask=mask), mask
        return self._texts[phrase]

    def _together(self, found: dict[str, tuple[Tensor, Tensor]]) -> Proposals:
        """The boxes of several phrases, best first."""
        boxes = torch.cat([self._weight.new_zeros(0, 4).float(), *(boxes for boxes, _ in found.values())])
        scores = torch.cat([self._weight.new_zeros(0).float(), *(scores for _, scores in found.values())])
        named = [phrase for phrase, (_, scores) in found.items() for _ in scores]
        best = scores.argsort(descending=True, stable=True)
        return Proposals(boxes[best], scores[best], tuple(named[i] for i in best.tolist()))

    @property
    def _weight(self) -> Tensor:
        """One of the weights, for their device and type."""
        return self.net.text_projection.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget phrases that lie on another device."""
        super()._apply(fn, recurse)
        self._texts.clear()
        return self


def load_concepts(weights: str, *, threshold: float = 0.1, precision: str = "float32") -> ConceptGenerator:
    """SAM 3's detector from local files, on the CPU; nothing is fetched.

    Args:
        weights: a folder as transformers keeps it, a file by path or catalogue name, or "random:SEED".
        threshold: this and all that follows as for `ConceptGenerator`.
        precision: likewise.

    Raises:
        ModelInputError: a missing, damaged or foreign file; a transformers before 5.
    """
    net = load_pretrained(AutoModel.from_config, concepts_config(), weights, "SAM 3's detector", _stir)
    return ConceptGenerator(net, weights=Path(weights).name, threshold=threshold, precision=precision)


def concepts_config() -> Any:
    """The configuration of the published architecture."""
    return sam3_config("Sam3Config")


def _stir(net: nn.Module) -> None:
    """Give every part a say: transformers starts many weights at or near zero."""
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
