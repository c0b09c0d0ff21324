"""CLIPSeg asked for defects, by transformers' own classes: what the papers of SAA compare with.

T. Lueddecke, A. Ecker: Image Segmentation Using Text and Image Prompts (CVPR 2022), adapted to anomalies as the SAA+
paper does (arXiv 2305.10724): no training, defects named in words. That paper does not print the words it gave to
CLIPSeg; here it gets those of SAA+'s language prompt, so that the two are asked the same. The map is the mean over the
sentences, the image score its maximum.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import open_clip
import torch
from torch import Tensor
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from models.base import ZERO_SHOT, AnomalyModel, Images, Prediction, groups, stacked
from models.errors import ModelInputError, checked, checked_type
from models.frozen import Frozen, random_seed, seeded
from models.images import IMAGENET_MEAN, IMAGENET_STD, Preprocess, check_batch
from models.saa.language import LANGUAGES, Language, PromptBook
from models.weights.catalogue import find_weights
from models.weights.state import read_state

REFINED = {"vision_config": {"patch_size": 16}, "use_complex_transposed_convolution": True}
"""In what CIDAS/clipseg-rd64-refined departs from `CLIPSegConfig`'s defaults, which no published weights have."""
POSITIONS = "clip.vision_model.embeddings.position_embedding.weight"


class ClipSegNet(Frozen):
    """A frozen `CLIPSegForImageSegmentation`.

    Args:
        net: transformers' model.
        weights: the label of the weights.
        image_size: side of the input in pixels, a multiple of the patch; 352 as published.
    """

    def __init__(self, net: CLIPSegForImageSegmentation, *, weights: str = "unnamed", image_size: int = 352):
        super().__init__()
        patch = net.config.vision_config.patch_size
        if image_size < patch or image_size % patch:
            raise ModelInputError(f"expected an image size that is a multiple of {patch} pixels, got {image_size}")
        self.net = net.requires_grad_(False)
        self.weights = weights
        self.image_size = image_size
        self.preprocess = Preprocess(image_size, IMAGENET_MEAN, IMAGENET_STD)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=net.config.text_config.max_position_embeddings)
        self.eval()

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Sentences to the (N, D) that the decoder is conditioned on.

        Raises:
            ModelInputError: a sentence longer than the text tower can read.
        """
        limit = self._tokenizer.context_length
        for sentence in sentences:
            if (length := len(self._tokenizer.encode(sentence)) + 2) > limit:
                raise ModelInputError(f"expected sentences of at most {limit} tokens, got {length} in {sentence!r}")
        tokens = self._tokenizer(list(sentences)).to(self.net.device)  # padded behind the end, which is pooled
        return self.net.get_conditional_embeddings(len(tokens), tokens)

    @torch.no_grad()
    def probabilities(self, images: Tensor, conditions: Tensor) -> Tensor:
        """How much of (B, 3, S, S) preprocessed images is what (B, N, D) conditions say: (B, N, S, S) in [0, 1].

        An image is encoded once for all its conditions.
        """
        check_batch(images, self.image_size)
        seen = self.net.clip.vision_model(
            pixel_values=images, output_hidden_states=True, interpolate_pos_encoding=True, return_dict=True
        )
        count = conditions.shape[1]
        stages = [seen.hidden_states[i + 1].repeat_interleave(count, dim=0) for i in self.net.extract_layers]
        logits = self.net.decoder(stages, conditions.flatten(0, 1), return_dict=True).logits
        side = logits.shape[-1]
        return logits.reshape(len(images), count, side, side).sigmoid().float()


class ClipSeg(AnomalyModel):
    """Zero-shot only.

    Args:
        net: CLIPSeg.
        prompts: words for each product (prompts=saa_general, saa_expert or saa_naive).
        language: T_a and T_s ("both"), one of them ("general", "specific"), or "anomaly" alone ("naive").
    """

    serves: ClassVar[Sequence[str]] = (ZERO_SHOT,)

    def __init__(self, net: ClipSegNet, prompts: PromptBook, *, language: Language = "both"):
        super().__init__()
        need = "CLIPSeg; choose weights that have it (weights=clipseg or clipseg_random)"
        self.net = checked_type("net", net, ClipSegNet, need)
        books = "prompts of SAA (prompts=saa_general, saa_expert or saa_naive)"
        self.prompts = checked_type("prompts", prompts, PromptBook, books)
        self.language: Language = checked("language", language, language in LANGUAGES, f"one of {', '.join(LANGUAGES)}")
        self.preprocess = net.preprocess
        self._conditions: dict[tuple[str, torch.device], Tensor] = {}

    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score (B, 3, S, S) preprocessed images of B named categories.

        Raises:
            ModelInputError: images of another shape, not one category per image, or no prompt for a category.
        """
        pixels = stacked(images, self.device)
        maps = torch.empty(len(pixels), self.net.image_size, self.net.image_size, device=pixels.device)
        for category, members in groups(categories):
            conditions = self._conditioned(category, pixels.device).expand(len(members), -1, -1)
            maps[members] = self.net.probabilities(pixels[members], conditions).mean(dim=1)
        return Prediction(maps, maps.amax(dim=(1, 2)))

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


def load_clipseg(weights: str, *, image_size: int = 352, config: dict[str, Any] | None = None) -> ClipSegNet:
    """Build CLIPSeg and load its weights, on the CPU.

    Args:
        weights: the catalogue's name or the path of a .safetensors file of the published architecture; or a folder
            with config.json and model.safetensors (or pytorch_model.bin), as transformers keeps them; or "random:SEED"
            for the published architecture with random weights.
        image_size: side of the input in pixels.
        config: without a folder, fields of `CLIPSegConfig` in place of the published ones.

    Raises:
        ModelInputError: no such file or folder, or one that does not hold CLIPSeg.
    """
    architecture = REFINED | (config or {})
    if (seed := random_seed(weights)) is not None:
        with seeded(seed):
            net = CLIPSegForImageSegmentation(CLIPSegConfig(**architecture))
        return ClipSegNet(net, weights=weights, image_size=image_size)
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        return ClipSegNet(_of_file(find_weights(weights), architecture), weights=folder.stem, image_size=image_size)
    return ClipSegNet(_of_folder(folder), weights=folder.name, image_size=image_size)


def _of_file(path: Path, architecture: dict[str, Any]) -> CLIPSegForImageSegmentation:
    tensors = read_state(path, "the weights of CLIPSeg")
    try:
        vision = architecture["vision_config"]
        trained_at = math.isqrt(len(tensors[POSITIONS]) - 1) * vision["patch_size"]
        vision = vision | {"image_size": trained_at}
        net = CLIPSegForImageSegmentation(CLIPSegConfig(**architecture | {"vision_config": vision}))
        net.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")})
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelInputError(
            f"expected {path} to be a .safetensors file with the weights of CLIPSeg, got: {reason}; fetch it again "
            "(make weights WEIGHTS=clipseg_rd64_refined), or name a folder as transformers keeps it"
        ) from error
    return net


def _of_folder(folder: Path) -> CLIPSegForImageSegmentation:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != "clipseg":
            raise ValueError(f"a config.json of model_type {kind!r}")
        net, report = CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ValueError(f"{len(report['missing_keys'])} tensors are missing")
    except Exception as error:  # transformers raises many kinds for a folder that is not its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelInputError(
            f"expected {folder} to be a folder with CLIPSeg as transformers keeps it (config.json, model.safetensors), "
            f"got: {reason}; put the files of CIDAS/clipseg-rd64-refined there, or name another folder"
        ) from error
    return net
