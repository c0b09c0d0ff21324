"""OWLv2 with images as queries: boxes of what looks like a known defect, in place of SAA+'s words (Eq. 1).

M. Minderer, A. Gritsenko, N. Houlsby: Scaling Open-Vocabulary Object Detection (arXiv 2306.09683), image-conditioned
detection of M. Minderer et al. (arXiv 2205.06230), by transformers' Owlv2ForObjectDetection. Departs from it:

* The image is encoded once for all queries, a query once for all images; a box scores by the query most like it.
* Scores are the detector's own probabilities; transformers' post-processing scales each image's best box to 1.
* Images are resized by antialiased bilinear interpolation, as in transformers' fast processor but in float.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, nms
from transformers import Owlv2Config, Owlv2ForObjectDetection

from models.errors import ModelInputError, checked
from models.frozen import Frozen, autocast, check_precision
from models.images import CLIP_MEAN, CLIP_STD, check_image
from models.saa.generator.base import Proposals
from models.weights.pretrained import load_pretrained

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "owlv2_base_patch16": {"vision_config": {"image_size": 960}},
    "owlv2_large_patch14": {
        "vision_config": {"image_size": 1008, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
                          "num_hidden_layers": 24, "num_attention_heads": 16},
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "projection_dim": 768,
    },
}  # fmt: skip
GREY = 0.5
"""What images are padded with to a square, on the right and below."""


class ImageQueryGenerator(Frozen):
    """Boxes of what resembles pictures of known defects; objects by their name, as OWLv2 finds them from text.

    Args:
        net: `Owlv2ForObjectDetection` of transformers.
        query_images: (3, h, w) uint8 RGB pictures, each cropped to one defect.
        name: of the architecture.
        weights: the label of the weights.
        threshold: boxes must score above it.
        box_overlap: of two boxes with a larger intersection over union, the better one stays.
        precision: "float32", or "bfloat16" or "float16" for autocast.

    Raises:
        ModelInputError: no query image, or a setting out of range.
    """

    def __init__(
        self, net: Any, query_images: Sequence[Tensor], *, name: str = "custom", weights: str = "unnamed",
        threshold: float = 0.1, box_overlap: float = 0.3, precision: str = "float32",
    ):  # fmt: skip
        super().__init__()
        some = "at least one picture, cropped to a defect (weights.saa.generator.query_images=[scratch.png])"
        checked("query_images", len(query_images), len(query_images) > 0, some)
        for image in query_images:
            check_image(image)
        self.net = net.requires_grad_(False)
        self.query_images = tuple(query_images)
        self.name = name
        self.weights = weights
        self.threshold = checked("threshold", threshold, 0 <= threshold <= 1, "between 0 and 1")
        self.box_overlap = checked("box_overlap", box_overlap, 0 < box_overlap <= 1, "above 0 and up to 1")
        self.precision = check_precision(precision)
        length = net.config.text_config.max_position_embeddings
        self._tokenizer = open_clip.SimpleTokenizer(context_length=length)
        self._queries: Tensor | None = None
        self.eval()

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this generator."""
        return {
            "generator": f"{self.name} of transformers, {len(self.query_images)} pictures of defects as queries",
            "generator_weights": self.weights,
            "generator_precision": self.precision,
            "generator_boxes": f"from a score of {self.threshold:g}, of two with an IoU above {self.box_overlap:g} the "
            "better; objects by their name",
        }

    def propose(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes in a uint8 RGB image (3, H, W) that resemble a query, best first.

        What the captions say is not asked: every box belongs to the first of them, and the others have none.

        Raises:
            ModelInputError: another kind of image.
        """
        if not captions:
            return []
        if self._queries is None:
            self._queries = torch.cat([self._query(query) for query in self.query_images])
        found = self._detect(image, self._queries)
        return [found, *(Proposals(found.boxes[:0], found.scores[:0], ()) for _ in captions[1:])]

    @torch.no_grad()
    def propose_objects(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """Boxes of each caption's object, found from its words."""
        if not captions:
            return []
        tokens = self._tokenizer(list(captions)).to(self.net.device)
        with autocast(self.net.device, self.precision):
            texts = self.net.owlv2.text_model(input_ids=tokens)[1]
            texts = F.normalize(self.net.owlv2.text_projection(texts), dim=-1)
        return [self._detect(image, text[None]) for text in texts]

    @torch.no_grad()
    def _query(self, picture: Tensor) -> Tensor:
        """(N, D), N mostly 1: what of a picture stands for the whole of it."""
        with autocast(self.net.device, self.precision):
            seen = self.net.image_embedder(self._pixels(picture))[0]
            found = self.net.embed_image_query(seen.flatten(1, 2), seen)[0]
        if found is None:
            raise ModelInputError("expected pictures in which a query is found, got one without; crop it to the defect")
        return found.reshape(-1, found.shape[-1])

    @torch.no_grad()
    def _detect(self, image: Tensor, queries: Tensor) -> Proposals:
        """The boxes that one of (N, D) queries scores above the threshold."""
        check_image(image)
        with autocast(self.net.device, self.precision):
            seen = self.net.image_embedder(self._pixels(image))[0]
            features = seen.flatten(1, 2)
            logits = self.net.class_predictor(features, queries[None])[0][0]  # (P, N)
            boxes = self.net.box_predictor(features, seen)[0].float()
        scores = logits.float().amax(dim=-1).sigmoid()
        kept = torch.nonzero(scores > self.threshold)[:, 0]
        boxes, scores = boxes[kept], scores[kept]
        best = scores.argsort(descending=True, stable=True)
        if self.box_overlap < 1:  # of equal boxes, rounding would put some above 1
            best = nms(box_convert(boxes, "cxcywh", "xyxy"), scores, self.box_overlap)
        height, width = image.shape[1:]
        side = max(height, width)
        stretch = boxes.new_tensor([side / width, side / height]).repeat(2)
        return Proposals(boxes[best] * stretch, scores[best], ("",) * len(best))

    def _pixels(self, image: Tensor) -> Tensor:
        """(1, 3, S, S): padded to a square, resized, normalised."""
        height, width = image.shape[1:]
        side, size = max(height, width), self.net.config.vision_config.image_size
        weight = self.net.box_head.dense0.weight
        square = F.pad(image.to(weight) / 255, (0, side - width, 0, side - height), value=GREY)[None]
        square = F.interpolate(square, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values).to(weight)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        return (square - mean) / std

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget queries that lie on another device."""
        super()._apply(fn, recurse)
        self._queries = None
        return self


def load_image_query(
    weights: str, query_images: Sequence[str], *, architecture: str = "owlv2_base_patch16", threshold: float = 0.1,
    box_overlap: float = 0.3, precision: str = "float32",
) -> ImageQueryGenerator:  # fmt: skip
    """OWLv2 and pictures of defects from local files, on the CPU; nothing is fetched.

    Args:
        weights: a folder as transformers keeps it, a file by path or catalogue name, or "random:SEED".
        query_images: paths of pictures, each cropped to one defect.
        architecture: of `ARCHITECTURES`.
        threshold: this and all that follows as for `ImageQueryGenerator`.
        box_overlap: likewise.
        precision: likewise.

    Raises:
        ModelInputError: no picture, one that cannot be read; a missing, damaged or foreign file of weights.
    """
    checked("architecture", architecture, architecture in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}")
    pictures = [_picture(Path(path).expanduser()) for path in query_images]
    config = Owlv2Config(**ARCHITECTURES[architecture])
    net = load_pretrained(Owlv2ForObjectDetection, config, weights, f"the weights of {architecture}", _stir)
    return ImageQueryGenerator(
        net, pictures, name=architecture, weights=Path(weights).name, threshold=threshold, box_overlap=box_overlap,
        precision=precision,
    )  # fmt: skip


def _picture(path: Path) -> Tensor:
    try:
        with PIL.Image.open(path) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    except OSError as error:
        raise ModelInputError(f"expected a picture of a defect at {path}, got: {error}; name another file") from error


def _stir(net: nn.Module) -> None:
    """Give positions a say, and keep the heads near zero: transformers starts the one at it and the other far away."""
    for name, parameter in net.named_parameters():
        if "_head.dense" in name and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
