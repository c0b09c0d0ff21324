"""SAM 2.1, SAM-HQ and SAM 3 as region refiners (SAA+ Eq. 2), by transformers' own classes.

N. Ravi et al.: SAM 2 (arXiv 2408.00714); L. Ke et al.: Segment Anything in High Quality (arXiv 2306.01567);
N. Carion et al.: SAM 3 (arXiv 2511.16719). As with SAM one mask per box, where its logit is above 0; the predicted
quality is not used (the decoders of SAM 2 and 3 themselves take another of their masks where the one mask is unstable).
SAM 2 and 3 see the image squashed to a square, SAM-HQ its long side resized and padded; logits return to the image's
size as in the processors' `post_process_masks`. Of SAM 3 the part that follows boxes is used, not its detector; it
needs transformers 5.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoModel, Sam2Config, Sam2HieraDetConfig, Sam2VisionConfig, SamHQConfig

from models.errors import ModelInputError, checked
from models.frozen import Frozen, autocast, check_precision
from models.images import IMAGENET_MEAN, IMAGENET_STD, check_image, normalised
from models.saa.refiner.sam.refiner import SamOutliner, cut_and_resized, long_side_resized, resized
from models.weights.pretrained import load_pretrained

HIERA: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "base_plus": {
        "hidden_size": 112, "num_attention_heads": 2, "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20], "window_positional_embedding_background_size": [14, 14],
    },
    "large": {
        "hidden_size": 144, "num_attention_heads": 2, "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 6, 36, 4],
        "window_size_per_stage": [8, 4, 16, 8], "global_attention_blocks": [23, 33, 43],
    },
}  # fmt: skip
"""What SAM 2.1's encoders differ in from `Sam2HieraDetConfig`'s defaults, which are those of tiny."""
VIT: dict[str, dict[str, Any]] = {
    "vit_b": {},
    "vit_l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
              "global_attn_indexes": [5, 11, 17, 23]},
    "vit_h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
              "global_attn_indexes": [7, 15, 23, 31]},
}  # fmt: skip
HALVES = (0.5, 0.5, 0.5)
"""Mean and deviation by which SAM 3's pictures are normalised."""
NAMES = (*(f"sam2.1_hiera_{size}" for size in HIERA), *(f"sam_hq_{size}" for size in VIT), "sam3")


class SuccessorRefiner(Frozen):
    """SAM 2.1, SAM-HQ or SAM 3: one mask per box, the image encoded once for all its boxes.

    Args:
        net: `Sam2Model`, `SamHQModel` or `Sam3TrackerModel` of transformers.
        name: of the architecture.
        weights: the label of the weights.
        precision: "float32", or "bfloat16" or "float16" for autocast in encoder and decoder.
        boxes_at_once: decoded in one step; by default 4 on a CPU, else 64.
    """

    mask_threshold = 0.0

    def __init__(
        self, net: Any, *, name: str = "custom", weights: str = "unnamed", precision: str = "float32",
        boxes_at_once: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.net = net.requires_grad_(False)
        self.name = name
        self.weights = weights
        self.precision = check_precision(precision)
        some = boxes_at_once is None or boxes_at_once >= 1
        self.boxes_at_once = checked("boxes_at_once", boxes_at_once, some, "at least 1, or null")
        self.eval()

    @property
    def image_size(self) -> int:
        """Side of the square model input in pixels."""
        return int(self.net.config.prompt_encoder_config.image_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.device

    @property
    def squashes(self) -> bool:
        """Whether the model sees the image squashed to a square, not padded to one."""
        return self.net.config.model_type in ("sam2", "sam3_tracker")

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this refiner."""
        seen = f"squashed to {self.image_size}" if self.squashes else f"long side {self.image_size} padded"
        return {
            "refiner": f"{self.name} of transformers, one mask per box, logit > {self.mask_threshold:g}, {seen}",
            "refiner_weights": self.weights,
            "refiner_precision": self.precision,
        }

    def outline(self, image: Tensor) -> SamOutliner:
        """An outliner of a (3, H, W) uint8 RGB image, which is encoded when the first box is asked for.

        Raises:
            ModelInputError: anything but such an image.
        """
        check_image(image)
        return SamOutliner(self, image)

    @torch.no_grad()
    def encode(self, image: Tensor) -> dict[str, Any]:
        """The encoder's one pass over an image, resized bilinearly by PIL; by the names of the net's arguments."""
        weight = next(self.net.parameters())
        pixels = resized(image, self.input_size(image)).to(weight)
        third = self.net.config.model_type == "sam3_tracker"
        pixels = normalised(pixels[None], *((HALVES, HALVES) if third else (IMAGENET_MEAN, IMAGENET_STD)))
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels, (0, self.image_size - width, 0, self.image_size - height))
        with autocast(self.device, self.precision):
            seen = self.net.get_image_embeddings(pixels)
        if self.squashes:
            return {"image_embeddings": seen}
        return {"image_embeddings": seen[0], "intermediate_embeddings": seen[1]}

    @torch.no_grad()
    def decode(self, tokens: dict[str, Any], boxes: Tensor) -> Tensor:
        """Low-resolution logits (n, h, w) float32 of n boxes in pixels of the model input, a step at a time."""
        at_once = self.boxes_at_once or (4 if self.device.type == "cpu" else 64)
        boxes = boxes.to(next(self.net.parameters()).dtype)
        with autocast(self.device, self.precision):
            found = [
                self.net(**tokens, input_boxes=part[None], multimask_output=False).pred_masks[0, :, 0].float()
                for part in boxes.split(at_once)
            ]
        return torch.cat(found)

    def input_size(self, image: Tensor) -> tuple[int, int]:
        """(height, width) of an image in the model input."""
        square = (self.image_size, self.image_size)
        return square if self.squashes else long_side_resized(image, self.image_size)

    def at_full_size(self, logits: Tensor, image: Tensor) -> Tensor:
        """The logits at the size of the image, (n, H, W), bilinear, without the padding."""
        if not self.squashes:
            return cut_and_resized(logits, self.image_size, self.input_size(image), image)
        return F.interpolate(logits[:, None], tuple(image.shape[1:]), mode="bilinear", align_corners=False)[:, 0]


def successor_config(name: str) -> Any:
    """The configuration of a published architecture.

    Raises:
        ModelInputError: none of `NAMES`; SAM 3 with a transformers before 5.
    """
    checked("the architecture of SAM's successor", name, name in NAMES, f"one of {', '.join(NAMES)}")
    if name == "sam3":
        return sam3_config("Sam3TrackerConfig")
    if name.startswith("sam_hq_"):
        vision = VIT[name.removeprefix("sam_hq_")]
        return SamHQConfig(vision_config=vision, mask_decoder_config={"vit_dim": vision.get("hidden_size", 768)})
    hiera = HIERA[name.removeprefix("sam2.1_hiera_")]
    channels = {"backbone_channel_list": hiera["embed_dim_per_stage"][::-1]} if "embed_dim_per_stage" in hiera else {}
    return Sam2Config(vision_config=Sam2VisionConfig(backbone_config=Sam2HieraDetConfig(**hiera), **channels))


def sam3_config(name: str) -> Any:
    """The configuration of a part of SAM 3 as published, by the name of its class in transformers.

    Raises:
        ModelInputError: a transformers before 5.
    """
    if not hasattr(transformers, name):
        raise ModelInputError(
            f"expected transformers 5 for SAM 3, got {transformers.__version__}; `pip install 'transformers>=5,<6'`"
        )
    return getattr(transformers, name)()


def load_successor(
    name: str, *, weights: str, precision: str = "float32", boxes_at_once: int | None = None
) -> SuccessorRefiner:
    """The refiner with SAM 2.1, SAM-HQ or SAM 3, on the CPU; nothing is fetched.

    Args:
        name: of the architecture, one of `NAMES`.
        weights: a folder as transformers keeps it, a file by path or catalogue name, or "random:SEED".
        precision: "float32", or "bfloat16" or "float16" for autocast.
        boxes_at_once: as for `SuccessorRefiner`.

    Raises:
        ModelInputError: an unknown architecture; a missing, damaged or foreign file; no transformers 5 for SAM 3.
    """
    config = successor_config(name)
    net = load_pretrained(AutoModel.from_config, config, weights, f"the weights of {name}", _stir)
    return SuccessorRefiner(
        net, name=name, weights=Path(weights).name, precision=precision, boxes_at_once=boxes_at_once
    )


def _stir(net: nn.Module) -> None:
    """Add noise: transformers starts positions and SAM-HQ's whole encoder at or near zero, and all images were one."""
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
