"""The frozen CLIP: one pass gives the image's embedding and the raw tokens of the chosen stages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transformer import text_global_pool
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from models.clip.folding import fold_batch_norms
from models.clip.weights import (
    ClipHeader,
    build_clip,
    fingerprint,
    load_weights,
    pixel_statistics,
    read_clip_header,
    read_config,
    weights_file,
)
from models.errors import ModelInputError
from models.features import ImageFeatures, increasing_stages
from models.frozen import Frozen, autocast, check_precision, random_seed, seeded
from models.images import Preprocess, check_batch, check_sides

SENTENCES_AT_ONCE = 64


class ClipBackbone(Frozen):
    """An `open_clip.CLIP`, frozen: no gradient, always in evaluation mode (batch norms never drift).

    `stages` counts a ViT's blocks, or the four layers of a convolutional net (stride 4, 8, 16, 32), from 1.
    `precision` bfloat16 or float16 runs the image
    tower under autocast; the text tower, used once per category, stays float32.
    """

    def __init__(
        self, clip: open_clip.CLIP, *, name: str, stages: Sequence[int], activation: str,
        precision: str = "float32", weights: str = "unnamed", preprocess: Preprocess | None = None,
    ):  # fmt: skip
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.name = name
        self.weights = weights
        """The label of the weights: a tag, a catalogue name, a file's name."""
        self.activation = activation
        self.precision = check_precision(precision)
        self.stages = increasing_stages(stages, self.num_stages, name)
        self.image_size = int(np.max(clip.visual.image_size))
        self.fingerprint = fingerprint(clip)
        """Twelve digits of the weights' content: tells other weights of the same architecture apart."""
        if self.is_timm:
            if isinstance(clip.visual.trunk, EfficientNet):
                fold_batch_norms(clip.visual.trunk)
            clip.visual.to(memory_format=torch.channels_last)  # tokens then need no copy
        self.preprocess = preprocess or Preprocess(self.image_size)
        self.eval()

    @property
    def is_timm(self) -> bool:
        """Whether the image tower is a convolutional net of timm."""
        return hasattr(self.clip.visual, "trunk")

    @property
    def is_convolutional(self) -> bool:
        """Whether the stages are the four of a convolutional net rather than the blocks of a ViT."""
        return self.is_timm or hasattr(self.clip.visual, "attnpool")

    @property
    def stride(self) -> int:
        """Pixels that a side of the input must be a multiple of."""
        return 32 if self.is_convolutional else int(self.clip.visual.patch_size[0])

    @property
    def num_stages(self) -> int:
        """How many stages there are to choose from: blocks of a ViT, 4 layers of a convolutional net."""
        return 4 if self.is_convolutional else len(self.clip.visual.transformer.resblocks)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels C_n of each chosen stage."""
        return self.widths(self.stages)

    def widths(self, stages: Sequence[int]) -> tuple[int, ...]:
        """Channels of some stages."""
        visual = self.clip.visual
        if self.is_timm:
            return tuple(visual.trunk.feature_info[stage]["num_chs"] for stage in stages)
        if self.is_convolutional:
            return tuple(getattr(visual, f"layer{stage}")[-1].conv3.out_channels for stage in stages)
        return (visual.transformer.width,) * len(stages)

    @property
    def embed_dim(self) -> int:
        """Channels D of the joint space of images and text."""
        visual = self.clip.visual
        return int(visual.head.proj.out_features if self.is_timm else visual.output_dim)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """One pass over (B, 3, S, S) preprocessed images; (B, 3, H, W) of multiples of 32 where the tower is timm's.

        Raises:
            ModelInputError: images of another shape.
        """
        if self.is_timm:
            check_sides(images, self.stride)
        else:
            check_batch(images, self.image_size)
        with fused_attention(), autocast(images.device, self.precision):
            look = self._timm if self.is_timm else self._resnet if self.is_convolutional else self._vit
            embedding, maps, fine = look(images)
        grids = tuple((int(stage.shape[2]), int(stage.shape[3])) for stage in maps)
        stages = tuple(stage.flatten(2).transpose(1, 2).float().contiguous() for stage in maps)
        return ImageFeatures(embedding.float(), stages, grids, None if fine is None else fine.float())

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences to (N, D), not normalised, a chunk at a time.

        Raises:
            ModelInputError: a sentence longer than the text tower can read.
        """
        tokens = self._tokens(sentences).to(self.clip.positional_embedding.device)
        with fused_attention():
            return torch.cat([self._encode_tokens(chunk) for chunk in tokens.split(SENTENCES_AT_ONCE)])

    def _vit(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        indices = [stage - 1 for stage in self.stages]
        output = self.clip.visual.forward_intermediates(images, indices=indices, output_fmt="NLC")
        grid = self.clip.visual.grid_size
        maps = [x.transpose(1, 2).unflatten(2, grid) for x in output["image_intermediates"]]
        return output["image_features"], maps, None

    def _resnet(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        # Index 0 is the stem. All layers are asked for: open_clip 3.3 stops after the last one asked for, and the
        # attention pool needs layer 4.
        output = self.clip.visual.forward_intermediates(images, indices=[1, 2, 3, 4])
        return output["image_features"], [output["image_intermediates"][stage - 1] for stage in self.stages], None

    def _timm(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        output = self.clip.visual.forward_intermediates(images.contiguous(memory_format=torch.channels_last))
        maps = output["image_intermediates"]
        return output["image_features"], [maps[stage] for stage in self.stages], maps[0]

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """open_clip's encode_text on the columns that are in use: under the causal mask padding changes nothing."""
        clip = self.clip
        if clip.attn_mask is None or clip.text_pool_type not in ("argmax", "eos"):
            return clip.encode_text(tokens)
        length = int(tokens.argmax(dim=1).max()) + 1  # the end-of-text token has the highest number
        tokens = tokens[:, :length]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        x = text_global_pool(x, tokens, clip.text_pool_type, eos_token_id=clip.text_eos_id)
        return clip.text_projection(x) if isinstance(clip.text_projection, nn.Linear) else x @ clip.text_projection

    def _tokens(self, sentences: Sequence[str]) -> Tensor:
        limit = self.clip.context_length
        tokens = open_clip.tokenize(list(sentences), limit + 1)
        for index in tokens[:, limit].nonzero().flatten().tolist():  # the end of a text is never 0
            sentence = sentences[index]
            length = int(open_clip.tokenize(sentence, 10 * (limit + len(sentence))).argmax()) + 1
            raise ModelInputError(
                f"expected sentences of at most {limit} tokens, got {length} in {sentence!r}; shorten the category "
                "or the prompt"
            )
        return tokens[:, :limit]


def load_backbone(
    name: str, *, weights: str, image_size: int | None = None, stages: Sequence[int] | None = None,
    activation: str | None = None, precision: str = "float32",
) -> ClipBackbone:  # fmt: skip
    """Build a CLIP and load its weights, on the CPU in float32.

    Args:
        name: an open_clip architecture, or a configuration .json of ours by path or catalogue name.
        weights: a path (.pt, .pth, .bin, .safetensors), a catalogue name, a tag of open_clip ("openai"), or
            "random:SEED" for a random initialisation.
        image_size: side in pixels; the position grid is resized from the weights' own.
        stages: whose raw tokens are wanted, counted from 1, increasing.
        activation: "gelu" or "quick_gelu" for both towers, whatever configuration or tag say. OpenAI's weights
            were trained with quick_gelu; the published adapters of APRIL-GAN were made on gelu.
        precision: "float32", or "bfloat16" or "float16" for autocast in the image tower.

    Where image_size, stages or activation are None, the header of a weights file of ours says.

    Raises:
        ModelInputError: an unknown name, a missing, damaged or foreign file, a setting that does not fit.
    """
    plain_name, config = read_config(name)
    seed = random_seed(weights)
    file = None if seed is not None else weights_file(name, weights)
    wanted = {"image_size": image_size, "stages": stages, "activation": activation}
    settings = _settled(wanted, read_clip_header(file) if file else None, plain_name, weights)
    with seeded(seed or 0):
        clip = build_clip(config, image_size=settings["image_size"], activation=settings["activation"])
    if file:
        load_weights(clip, file, plain_name)
    return ClipBackbone(
        clip, name=plain_name, stages=settings["stages"], activation=settings["activation"], precision=precision,
        weights=file.stem if file and weights.endswith(file.suffix) else weights,
        preprocess=Preprocess(settings["image_size"], *pixel_statistics(name, weights, config)),
    )  # fmt: skip


@contextmanager
def fused_attention() -> Iterator[None]:
    """Let nn.MultiheadAttention use scaled_dot_product_attention; several threads may be inside.

    In evaluation mode its own shortcut, on the CPU, writes out every attention matrix instead.
    """
    with _INSIDE.lock:
        if not _INSIDE.count:
            _INSIDE.before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _INSIDE.count += 1
    try:
        yield
    finally:
        with _INSIDE.lock:
            _INSIDE.count -= 1
            if not _INSIDE.count:
                torch.backends.mha.set_fastpath_enabled(_INSIDE.before)


class _Inside:
    """How many are inside `fused_attention`, and what the switch was before the first of them."""

    lock, count, before = Lock(), 0, True


_INSIDE = _Inside()


def _settled(wanted: dict[str, Any], header: ClipHeader | None, name: str, weights: str) -> dict[str, Any]:
    """The wanted settings, completed from the header, which they must not contradict where weights depend on them."""
    if header and header.backbone != name:
        raise ModelInputError(
            f"expected weights of {name}, but the header of {weights} says {header.backbone}; name the architecture "
            "that belongs to the file"
        )
    settled = {key: getattr(header, key, None) if value is None else value for key, value in wanted.items()}
    if missing := [key for key, value in settled.items() if value is None]:
        raise ModelInputError(
            f"expected {', '.join(missing)} of the backbone {name}, got none, and the weights {weights} have no header "
            "that says; give them"
        )
    if header and settled["activation"] != header.activation:
        raise ModelInputError(
            f"expected activation={header.activation}, with which {weights} was trained, got {settled['activation']}; "
            "leave activation empty to use the file's own"
        )
    return settled
