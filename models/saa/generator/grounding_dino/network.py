"""GroundingDINO (Swin-T): one look at the image, then any number of captions.

The modules are those of the package groundingdino-py, under its names so that its checkpoints load; what runs is the
forward pass of this project, which shares all that does not depend on a caption.
S. Liu et al.: Grounding DINO (arXiv 2303.05499).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.frozen import Frozen
from models.saa.generator.grounding_dino.decoder import choose_queries, decode
from models.saa.generator.grounding_dino.encoder import ImageTokens, Words, enhance, sine_encoding
from models.saa.generator.grounding_dino.inputs import CaptionTokens
from models.saa.generator.grounding_dino.sampling import FeatureLevels

IMAGE_TEMPERATURE = 20


def encode_words(bert: Any, ids: Tensor, phrases: Tensor, positions: Tensor) -> Tensor:
    """The features (B, T, C) of tokens (B, T) that see what `phrases` (B, T, T) allows.

    BertModel itself takes no such mask any more from transformers 5 on; its two parts do in every version.
    """
    tokens = bert.embeddings(input_ids=ids, token_type_ids=torch.zeros_like(ids), position_ids=positions)
    hidden = 1 - phrases[:, None].to(tokens.dtype)
    return bert.encoder(tokens, attention_mask=hidden * torch.finfo(tokens.dtype).min).last_hidden_state


class GroundingDino(Frozen):
    """The network, frozen: no gradient, always in evaluation mode.

    Args:
        backbone: the package's pair of image backbone and position encoding (only the first is called).
        transformer: the package's encoder and decoder, with `decoder.bbox_embed` and `enc_out_bbox_embed` attached.
        bert: the text encoder, a `transformers.BertModel` (its embeddings and its encoder are called).
        feat_map: its width to the transformer's.
        input_proj: one projection per feature level; those beyond the backbone's stages halve the last one.
        bbox_embed: one perceptron per decoder layer.
    """

    def __init__(
        self, *, backbone: nn.Module, transformer: nn.Module, bert: nn.Module, feat_map: nn.Linear,
        input_proj: nn.ModuleList, bbox_embed: nn.ModuleList,
    ):  # fmt: skip
        super().__init__()
        self.backbone: Any = backbone
        self.transformer: Any = transformer
        self.bert = bert
        self.feat_map = feat_map
        self.input_proj = input_proj
        self.bbox_embed = bbox_embed
        self.requires_grad_(False)
        self.eval()

    kind = "grounding_dino"

    @property
    def weight(self) -> Tensor:
        """One of the weights, for their device and type."""
        return self.feat_map.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device

    @torch.no_grad()
    def look(self, pixels: Tensor) -> ImageTokens:
        """A normalised image (3, h, w) before any caption: backbone, projections, positions."""
        maps = list(self.backbone[0].forward_raw(pixels[None]))
        projected = [project(stage) for project, stage in zip(self.input_proj, maps, strict=False)]
        last = maps[-1]
        for project in self.input_proj[len(maps) :]:
            last = project(last)
            projected.append(last)
        positions = [
            _grid_encoding(stage).to(pixels.dtype) + level
            for stage, level in zip(projected, self.transformer.level_embed, strict=True)
        ]
        attention = self.transformer.encoder.layers[0].self_attn
        levels = FeatureLevels.of(
            [(stage.shape[2], stage.shape[3]) for stage in projected], attention.num_heads, attention.num_points,
            pixels.device, pixels.dtype,
        )  # fmt: skip
        tokens = torch.cat([stage[0].flatten(1).T for stage in projected])
        return ImageTokens(tokens.to(pixels.dtype).contiguous(), torch.cat(positions), levels)

    @torch.no_grad()
    def read(self, caption: CaptionTokens) -> Tensor:
        """The text encoder's features (T, C) of a caption's tokens, each phrase on its own."""
        ids = torch.tensor([caption.ids], device=self.device)
        phrases, positions = caption.phrases[None].to(self.device), caption.positions[None].to(self.device)
        return self.feat_map(encode_words(self.bert, ids, phrases, positions))[0]

    def find(
        self, image: ImageTokens, captions: Sequence[CaptionTokens], features: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `detect`, for captions and what was read of them."""
        return self.detect(image, together(captions, features))

    @torch.no_grad()
    def detect(self, image: ImageTokens, words: Words) -> tuple[Tensor, Tensor]:
        """An image and B captions to logits (B, Q, T) and boxes (B, Q, 4), as (cx, cy, w, h) in fractions.

        Q is the number of queries, best guess first; logits of padding are -inf.
        """
        memory, features = enhance(self.transformer.encoder, image, words)
        chosen = choose_queries(self.transformer, memory, image.levels, features, words.used)
        return decode(self.transformer.decoder, *chosen, memory, image.levels, features, words.used)


def together(captions: Sequence[CaptionTokens], features: Sequence[Tensor]) -> Words:
    """Captions with their features (T_i, C), padded to the longest."""
    longest = max(len(caption.ids) for caption in captions)
    shape = (len(captions), longest)
    device, width = features[0].device, features[0].shape[1]
    padded = features[0].new_zeros(*shape, width)
    positions = torch.zeros(shape, dtype=torch.long)
    used = torch.zeros(shape, dtype=torch.bool)
    phrases = torch.eye(longest, dtype=torch.bool).repeat(len(captions), 1, 1)
    for i, (caption, feature) in enumerate(zip(captions, features, strict=True)):
        length = len(caption.ids)
        padded[i, :length] = feature
        positions[i, :length] = caption.positions
        used[i, :length] = True
        phrases[i, :length, :length] = caption.phrases
    return Words(padded, sine_encoding(positions.to(device), width), used.to(device), phrases.to(device))


def _grid_encoding(stage: Tensor) -> Tensor:
    """Sine encoding of every cell of a (1, C, h, w) map: y in the first half of the channels, x in the second."""
    _, channels, height, width = stage.shape
    rows = torch.arange(1, height + 1, device=stage.device, dtype=torch.float32) / (height + 1e-6)
    columns = torch.arange(1, width + 1, device=stage.device, dtype=torch.float32) / (width + 1e-6)
    y = sine_encoding(rows, channels // 2, IMAGE_TEMPERATURE)[:, None].expand(height, width, -1)
    x = sine_encoding(columns, channels // 2, IMAGE_TEMPERATURE)[None].expand(height, width, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)
