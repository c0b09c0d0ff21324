"""Grounding DINO's port, MM-Grounding-DINO and LLMDet, by transformers' AutoModelForZeroShotObjectDetection.

X. Zhao et al.: An Open and Comprehensive Pipeline for Unified Object Grounding and Detection (arXiv 2401.02361); S. Fu
et al.: LLMDet (arXiv 2501.18954), of the same class; S. Liu et al.: Grounding DINO (arXiv 2303.05499). Boxes, scores
and phrases are those of the processor's `post_process_grounded_object_detection`. Departs from transformers:

* The captions of an image are one batch, and the backbone sees the image once for all of them.
* Of images more than 1333/800 times as long as wide, the long side may be a pixel shorter than the processor's.
* An image with fewer tokens than the model has queries is padded, where the model fails; its boxes are scaled back.
* [CLS] may stand in a phrase, as in the published SAA+.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForZeroShotObjectDetection, GroundingDinoConfig, SwinConfig
from transformers.models.mm_grounding_dino import MMGroundingDinoConfig

from models.errors import ModelInputError, checked
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import BERT_IDS, SPECIAL, CaptionReader, CaptionTokens
from models.saa.generator.grounding_dino.weights import caption_reader
from models.weights.pretrained import load_pretrained

SWIN = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "image_size": 224},
    "base": {
        "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384,
    },
    "large": {
        "embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12, "image_size": 384,
    },
}  # fmt: skip
ARCHITECTURES = {
    "grounding_dino_tiny": (GroundingDinoConfig, "tiny"),
    "grounding_dino_base": (GroundingDinoConfig, "base"),
    "mm_grounding_dino_tiny": (MMGroundingDinoConfig, "tiny"),
    "mm_grounding_dino_base": (MMGroundingDinoConfig, "base"),
    "mm_grounding_dino_large": (MMGroundingDinoConfig, "large"),
}
"""By name; LLMDet has those of MM-Grounding-DINO."""


def detector_config(architecture: str) -> Any:
    """The configuration of a published architecture.

    Raises:
        ModelInputError: none of `ARCHITECTURES`.
    """
    checked("architecture", architecture, architecture in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}")
    kind, size = ARCHITECTURES[architecture]
    stages = [1, 2, 3, 4] if size == "large" else [2, 3, 4]
    return kind(backbone_config=SwinConfig(**SWIN[size], out_indices=stages), num_feature_levels=len(stages) + 1)


class SharedBackbone(nn.Module):
    """A backbone that is shown copies of one image and looks at one of them."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor, **options: Any) -> Any:
        """As the backbone's own, for (B, 3, h, w) of which every image is the same."""
        seen = self.backbone(pixel_values[:1], **options)
        seen.feature_maps = tuple(each.expand(len(pixel_values), -1, -1, -1) for each in seen.feature_maps)
        return seen


class ZeroShotDetector(nn.Module):
    """A network of transformers with the face that `GroundingDinoGenerator` asks of one.

    Args:
        net: `GroundingDinoForObjectDetection` or `MMGroundingDinoForObjectDetection`.
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net = net.requires_grad_(False)
        encoder = self.net.model.backbone.conv_encoder
        encoder.model = SharedBackbone(encoder.model)
        self.kind = f"{net.config.model_type} of transformers"
        self.eval()

    @property
    def weight(self) -> Tensor:
        """One of the weights, for their device and type."""
        return self.net.model.text_projection.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A normalised image (3, h, w), padded if the model could not read it, and how far boxes must be stretched."""
        height, width = pixels.shape[1:]
        right = below = 0
        while self._num_tokens(height + below, width + right) < self.net.config.num_queries:
            if width + right <= height + below:
                right += self._stride
            else:
                below += self._stride
        stretch = pixels.new_tensor([(width + right) / width, (height + below) / height]).repeat(2)
        return F.pad(pixels, (0, right, 0, below)), stretch

    def read(self, caption: CaptionTokens) -> Tensor:
        """The token ids (T,) of a caption; the text encoder runs with the detector."""
        return torch.tensor(caption.ids, device=self.device)

    @torch.no_grad()
    def find(
        self, looked: tuple[Tensor, Tensor], captions: Sequence[CaptionTokens], features: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """An image and B captions to logits (B, Q, 256) and boxes (B, Q, 4), as (cx, cy, w, h) in fractions."""
        pixels, stretch = looked
        found = self.net(
            pixel_values=pixels.expand(len(captions), -1, -1, -1),
            input_ids=pad_sequence(list(features), batch_first=True),
            attention_mask=pad_sequence([torch.ones_like(ids) for ids in features], batch_first=True),
            return_dict=True,
        )
        return found.logits, found.pred_boxes * stretch

    @property
    def _stride(self) -> int:
        """Pixels of a token of the finest level."""
        swin = self.net.config.backbone_config
        return int(swin.patch_size * 2 ** (min(swin.out_indices) - 1))

    def _num_tokens(self, height: int, width: int) -> int:
        strides = [self._stride * 2**level for level in range(self.net.config.num_feature_levels)]
        return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in strides)


def load_zero_shot_detector(
    weights: str,
    text_encoder: str | None = "bert_base_uncased_vocabulary",
    *,
    architecture: str,
    threshold: float = 0.1,
    text_threshold: float = 0.1,
    score: Literal["any_token", "phrase_tokens"] = "any_token",
    short_side: int = 800,
    long_side: int = 1333,
    captions_at_once: int | None = None,
    precision: str = "float32",
) -> GroundingDinoGenerator:
    """A detector of transformers from local files, on the CPU; nothing is fetched.

    Args:
        weights: a folder as transformers keeps it, a file by path or catalogue name, or "random:SEED".
        text_encoder: the vocabulary of BERT-base-uncased: a folder with `vocab.txt`, the file, or a catalogue name.
            None takes the `vocab.txt` of the weights' folder; with random weights it spells all words.
        architecture: of `ARCHITECTURES`.
        threshold: boxes must score above it (transformers' name since `box_threshold` went).
        text_threshold: this and all that follows as for `GroundingDinoGenerator`.
        score: likewise.
        short_side: likewise.
        long_side: likewise.
        captions_at_once: likewise.
        precision: likewise.

    Raises:
        ModelInputError: a missing, damaged or foreign file, an unknown name, a setting out of range.
    """
    checked("threshold", threshold, 0 <= threshold <= 1, "between 0 and 1")
    config = detector_config(architecture)
    in_folder = text_encoder is None and Path(weights).expanduser().is_dir()
    reader = caption_reader(weights if in_folder else text_encoder, weights, as_bert=True)
    check_special_tokens(reader)
    net = load_pretrained(
        AutoModelForZeroShotObjectDetection.from_config, config, weights, f"the weights of {architecture}", _stir
    )
    return GroundingDinoGenerator(
        ZeroShotDetector(net), reader, weights=f"{architecture} {Path(weights).name}", box_threshold=threshold,
        text_threshold=text_threshold, score=score, short_side=short_side, long_side=long_side,
        captions_at_once=captions_at_once, precision=precision,
    )  # fmt: skip


def check_special_tokens(reader: CaptionReader) -> None:
    """Refuse a vocabulary in which what ends a phrase has another number than in BERT's, which transformers counts on.

    Raises:
        ModelInputError: it has.
    """
    found = reader.tokenizer.convert_tokens_to_ids(list(SPECIAL))
    if found != (expected := [BERT_IDS[token] for token in SPECIAL]):
        raise ModelInputError(
            f"expected {', '.join(SPECIAL)} to be the word pieces {expected} of the vocabulary, got {found}; take the "
            "vocab.txt of bert-base-uncased"
        )


def _stir(net: nn.Module) -> None:
    """Give every part a say, and keep scores off 1: transformers starts many weights at or near zero."""
    for name, parameter in net.named_parameters():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight", "layers.2.weight")):
            nn.init.normal_(parameter, std=0.05)
        elif name.endswith(("vision_param", "text_param")):
            nn.init.uniform_(parameter, 0.2, 0.5)
        elif "class_embed" in name:  # MM-Grounding-DINO's bias
            nn.init.constant_(parameter, -2.0)
    enhancer: Any = net
    last = enhancer.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    if net.config.model_type == "grounding-dino":  # type: ignore[union-attr]  # the other divides by 16 itself
        last.weight.mul_(0.1)
