"""Sentences to train the small text tower with: published states and templates around known and random nouns.

The noun must not decide what is a defect, since the weights will meet products never named in training: so
half of the sentences carry a random word of the tokenizer's vocabulary, or a general one, in the product's place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

GENERAL_NOUNS = (
    "object",
    "product",
    "part",
    "item",
    "surface",
    "material",
    "component",
    "workpiece",
    "sample",
    "texture",
)
DEFECT_WORDS = (
    "scratch", "crack", "dent", "hole", "stain", "spot", "contamination", "fray", "break", "chip", "pit", "bubble",
    "thread", "fibre", "bump", "discolouration", "dirt", "rust", "burr", "tear", "cut", "wrinkle", "missing part",
)  # fmt: skip


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
