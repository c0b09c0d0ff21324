"""The text tower of the small weights: the sentences it learns from, and how it learns, alone and before the images.

Sentences are published states and templates around known and random nouns. The noun must not decide what is a defect,
since the weights will meet products never named in training: so half of the sentences carry a random word of the
tokenizer's vocabulary, or a general one, in the product's place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

STATE_COSINE = 0.975
PAIRS = 6000
NAMES_PER_PRODUCT = 32
GENERAL_NOUNS = (
    "object", "product", "part", "item", "surface", "material", "component", "workpiece", "sample", "texture",
)  # fmt: skip
DEFECT_WORDS = (
    "scratch", "crack", "dent", "hole", "stain", "spot", "contamination", "fray", "break", "chip", "pit", "bubble",
    "thread", "fibre", "bump", "discolouration", "dirt", "rust", "burr", "tear", "cut", "wrinkle", "missing part",
)  # fmt: skip  # fmt: skip


@dataclass(frozen=True)
class CaptionSampler:
    """Draws one normal and one anomalous sentence about a product."""

    normal_states: Sequence[str]
    anomalous_states: Sequence[str]
    templates: Sequence[str]
    nouns: Sequence[str]
    context_length: int

    def pair(self, category: str, rng: np.random.Generator) -> tuple[str, str]:
        """(normal, anomalous) sentences with the same noun and template."""
        noun = self._noun(category, rng)
        template = _pick(self.templates, rng)
        normal = _pick(self.normal_states, rng).format(noun)
        if rng.random() < 0.3:
            anomalous = f"{noun} with {_pick(DEFECT_WORDS, rng)}"
        else:
            anomalous = _pick(self.anomalous_states, rng).format(noun)
        return template.format(normal), template.format(anomalous)

    def name(self, category: str, rng: np.random.Generator) -> str:
        """A sentence that only names the product."""
        return _pick(self.templates, rng).format(_as_words(category))

    def _noun(self, category: str, rng: np.random.Generator) -> str:
        draw = rng.random()
        if draw < 0.4:
            return _as_words(category)
        if draw < 0.6:
            return _pick(GENERAL_NOUNS, rng)
        return " ".join(_pick(self.nouns, rng) for _ in range(rng.integers(1, 4)))


def vocabulary_nouns(minimum: int = 3) -> list[str]:
    """The tokenizer's whole words of plain letters, at least `minimum` long."""
    words = (token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>"))
    return sorted(word for word in words if len(word) >= minimum and word.isascii() and word.isalpha())


def _as_words(category: str) -> str:
    return category.replace("_", " ")


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True)
class Words:
    """Sentences as token ids: `pairs` (P, 2, L) normal and anomalous, `names` (M, N, L) naming each of M products."""

    pairs: Tensor
    names: Tensor

    @staticmethod
    def draw(sampler: CaptionSampler, categories: Sequence[str], seed: int) -> "Words":
        """A fixed pool for a seed."""
        rng = np.random.default_rng(seed)
        pairs = [text for i in range(PAIRS) for text in sampler.pair(categories[i % len(categories)], rng)]
        names = [sampler.name(category, rng) for category in categories for _ in range(NAMES_PER_PRODUCT)]
        length = sampler.context_length
        return Words(
            open_clip.tokenize(pairs, length).view(PAIRS, 2, length),
            open_clip.tokenize(names, length).view(len(categories), NAMES_PER_PRODUCT, length),
        )

    @torch.no_grad()
    def embedded(self, clip: CLIP, device: str) -> tuple[Tensor, Tensor]:
        """Directions (P, D, 2), columns normal and anomalous, and names (M, N, D), all of unit length."""
        parts = torch.cat([self.pairs.flatten(0, 1), self.names.flatten(0, 1)]).split(256)
        text = torch.cat([clip.encode_text(part.to(device), normalize=True) for part in parts])
        pairs = text[: 2 * PAIRS].unflatten(0, (PAIRS, 2)).transpose(1, 2)
        return pairs, text[2 * PAIRS :].unflatten(0, self.names.shape[:2])


def teach_words(clip: CLIP, words: Words, cfg: Any, device: str) -> None:
    """Train the text tower alone: one direction for every normal product, another, near it, for every damaged one.

    Within what that leaves free, products keep apart. It is fixed afterwards: learning together with the images,
    both towers settle on one embedding for everything.
    """
    parameters = [parameter for name, parameter in clip.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.text_learning_rate, weight_decay=cfg.weight_decay)
    generator = torch.Generator().manual_seed(cfg.seed)
    apart = 1 - torch.eye(len(words.names), device=device)
    for step in tqdm(range(cfg.text_steps), desc="words", unit="step"):
        rows = torch.randint(len(words.pairs), (16,), generator=generator)
        named = words.names[:, int(torch.randint(NAMES_PER_PRODUCT, (), generator=generator))]
        text = clip.encode_text(torch.cat([words.pairs[rows].flatten(0, 1), named]).to(device), normalize=True)
        normal, anomalous = text[:32:2], text[1:32:2]
        products = text[32:] @ text[32:].T
        loss = (
            (normal @ anomalous.T + 0.5).relu().mean()
            + 0.5 * (1 - normal @ normal.T).mean()
            + 0.5 * (1 - anomalous @ anomalous.T).mean()
            + 0.5 * ((products - 0.5) * apart).relu().mean()
        )
        for group in optimizer.param_groups:
            group["lr"] = cfg.text_learning_rate * min(1, (step + 1) / 50, 4 * (1 - step / cfg.text_steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    draw_together(clip, words.pairs[:500].to(device), STATE_COSINE)
    for parameter in parameters:
        parameter.requires_grad_(False)
    clip.logit_scale.requires_grad_(True)


@torch.no_grad()
def draw_together(clip: CLIP, pairs: Tensor, cosine: float) -> None:
    """Shift all sentence embeddings by one vector, so that normal and anomalous ones meet at this cosine.

    Taught apart, the two directions would saturate the softmax of the published temperature; in a CLIP trained on
    photographs they lie close together. `pairs` is (P, 2, L) token ids. The shift goes into the last norm's bias.
    """
    text = clip.encode_text(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
    normal, anomalous = text.mean(0)
    away = torch.linalg.lstsq(clip.text_projection.T, (anomalous - normal)[:, None]).solution[:, 0]
    shift = torch.ones_like(away) - away * (away.sum() / away.square().sum())
    direction = shift @ clip.text_projection
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        together = functional.cosine_similarity(normal + middle * direction, anomalous + middle * direction, dim=0)
        low, high = (middle, high) if together < cosine else (low, middle)
    clip.ln_final.bias.add_(low * shift)
