"""Language and property prompts as typed data: what to look for, on what, how many, how large (SAA+, section 4.1)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from models.errors import ModelInputError, checked

SLOT = "{}"
NAIVE = "anomaly"
"""T_n, the prompt of the plain assembly (SAA, Eq. 3)."""

Language = Literal["both", "general", "specific", "naive"]
LANGUAGES = get_args(Language)


@dataclass(frozen=True)
class Caption:
    """One pass of the generator: its text, and the words by which a box is the product itself ("" for none)."""

    text: str
    filter: str = ""


@dataclass(frozen=True)
class ProductPrompt:
    """What is known of one product beforehand; nothing for a product without an entry.

    Args:
        name: what the general prompts call it; the category's name if empty.
        object: what the detector is asked for to find it whole; the same as `name`, in words, if empty.
        captions: T_s, kinds of defect in words. Each caption is one pass of the generator over its phrases.
        count: how many of the object are in a picture; 1 also where that is not known.
        top_k: how many regions a picture's map is made of (K of Eq. 8).
        area_share: theta_area, a region is smaller than this share of the object.
        overlap: theta_IoU, a region's intersection over union with the object is more than this.
        filter: a box whose words contain this is the object itself and is dropped; the same as `name` if empty.
        object_caption: how the published code calls the object, where that is not its name with a comma.
    """

    name: str = ""
    object: str = ""
    captions: Sequence[Sequence[str]] = ()
    count: int = 1
    top_k: int = 5
    area_share: float = 0.9
    overlap: float = 0.0
    filter: str = ""
    object_caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "captions", tuple(_phrases(caption, "a caption") for caption in self.captions))
        checked("count", self.count, isinstance(self.count, int) and self.count >= 1, "a whole number from 1")
        checked("top_k", self.top_k, isinstance(self.top_k, int) and self.top_k >= 1, "a whole number from 1")
        checked("area_share", self.area_share, self.area_share > 0, "above 0")
        checked("overlap", self.overlap, 0 <= self.overlap < 1, "at least 0 and below 1")

    def asked_for(self, raw_names: bool) -> str:
        """What the detector is asked for: the object's name, or what the published code sends, comma included."""
        if not raw_names:
            return self.object
        return self.object_caption or f"{self.object.replace(' ', '_')},"


@dataclass(frozen=True)
class PromptBook:
    """The prompts of one source for every product.

    Args:
        source: its name in tables and labels.
        general: T_a; a `{}` in them is the category's name.
        products: what is known of a product, by category: a `ProductPrompt` or its fields.
        default: the same for every other category.
        defects: the user's own kinds of defect, each a class-specific caption for every category.
    """

    source: str
    general: Sequence[str]
    products: Mapping[str, ProductPrompt | Mapping[str, Any]] = field(default_factory=dict)
    default: ProductPrompt | Mapping[str, Any] = field(default_factory=ProductPrompt)
    defects: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "general", _phrases(self.general, "general"))
        object.__setattr__(self, "defects", _phrases(self.defects, "defects"))
        known = {_key(name): _product(entry, name) for name, entry in self.products.items()}
        object.__setattr__(self, "products", known)
        object.__setattr__(self, "default", _product(self.default, "default"))

    @property
    def digest(self) -> str:
        """Of all words and numbers, for a run's protocol."""
        return _digest(self)

    def knows(self, category: str) -> bool:
        """Whether the category has an entry of its own."""
        return _key(category) in self.products

    def product(self, category: str) -> ProductPrompt:
        """What is known of a category, its empty words filled with its name."""
        entry = self.products.get(_key(category), self.default)
        assert isinstance(entry, ProductPrompt)
        name = entry.name or category
        return replace(entry, name=name, object=entry.object or name.replace("_", " "), filter=entry.filter or name)

    def captions(self, category: str, language: Language, raw_names: bool = False) -> tuple[Caption, ...]:
        """The passes of the generator for a category: T_a, then T_s, as far as `language` lets them.

        `raw_names` puts metal_nut into the general prompts as the published code does, not "metal nut".

        Raises:
            ModelInputError: no caption is left.
        """
        if language == "naive":
            return (Caption(NAIVE),)
        product = self.product(category)
        name, filtered = product.name, product.filter
        if not raw_names:
            name, filtered = name.replace("_", " "), filtered.replace("_", " ")
        general = [Caption(text.replace(SLOT, name), name if SLOT in text else "") for text in self.general]
        specific = [Caption(". ".join(phrases), filtered) for phrases in product.captions]
        specific += [Caption(defect, filtered) for defect in self.defects]
        chosen = [*(general if language != "specific" else ()), *(specific if language != "general" else ())]
        if not chosen:
            raise ModelInputError(
                f"expected {language} prompts for {category!r} from {self.source}, got none; name kinds of defect "
                '(PROMPT="scratch, dent", or prompts.defects=[scratch,dent]), or choose another source or language'
            )
        return tuple(dict.fromkeys(chosen))

    @property
    def label(self) -> str:
        """The source as it stands in a run's protocol."""
        own = f" and the words {', '.join(self.defects)}" if self.defects else ""
        return f"{self.source}{own}"


@dataclass(frozen=True)
class PromptChoice:
    """Several sources; for each image the model takes the one whose map agrees best with the image's saliency.

    `defects`, the user's own words, go to every source.
    """

    sources: Mapping[str, PromptBook]
    defects: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ModelInputError(f"expected two or more sources of prompts to choose from, got {list(self.sources)}")
        if self.defects:
            own = {name: replace(book, defects=self.defects) for name, book in self.sources.items()}
            object.__setattr__(self, "sources", own)

    @property
    def digest(self) -> str:
        """Of all sources, for a run's protocol."""
        return _digest(self)

    @property
    def label(self) -> str:
        """The sources as they stand in a run's protocol."""
        return f"for each image one of: {'; '.join(book.label for book in self.sources.values())}"


def _product(entry: ProductPrompt | Mapping[str, Any], name: str) -> ProductPrompt:
    if isinstance(entry, ProductPrompt):
        return entry
    known = [each.name for each in fields(ProductPrompt)]
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise ModelInputError(f"expected the prompts of {name!r} to have some of {', '.join(known)}, got {entry!r}")
    try:
        return ProductPrompt(**entry)
    except (ModelInputError, TypeError) as error:
        raise ModelInputError(f"the prompts of {name!r}: {error}") from error


def _phrases(values: Sequence[str], what: str) -> tuple[str, ...]:
    """The texts without blanks around them and without empty ones."""
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ModelInputError(f"expected {what} of the prompts to be a list of texts, got {values!r}")
    return tuple(value.strip() for value in values if value.strip())


def _key(category: str) -> str:
    """Names are the same whatever stands between their words."""
    return category.lower().replace("_", " ")


def _digest(prompts: PromptBook | PromptChoice) -> str:
    return hashlib.sha256(repr(prompts).encode()).hexdigest()[:8]
