"""What the generator is asked for on one image: every caption once, and the object."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from models.saa.generator.base import Proposals, RegionGenerator
from models.saa.language.prompts import Caption, ProductPrompt


@runtime_checkable
class ObjectFinder(Protocol):
    """A generator that finds whole objects in another way than it finds defects."""

    def propose_objects(self, image: Tensor, captions: Sequence[str]) -> list[Proposals]:
        """As `propose`, for captions that name objects."""
        ...


def ask(
    generator: RegionGenerator, image: Tensor, named: str | None, wanted: Sequence[Sequence[Caption]]
) -> tuple[Proposals | None, list[list[Proposals]]]:
    """The boxes of the object that is `named`, and those of each caption of each source (Eq. 1), in one call.

    A text that several sources share is one pass. Without a name nothing is asked for the object: None.
    """
    texts = list(dict.fromkeys(caption.text for captions in wanted for caption in captions))
    names = [] if named is None else [named]
    if isinstance(generator, ObjectFinder):
        objects, found = generator.propose_objects(image, names), generator.propose(image, texts)
    else:
        everything = generator.propose(image, [*names, *texts])
        objects, found = everything[: len(names)], everything[len(names) :]
    by_text = dict(zip(texts, found, strict=True))
    return (objects[0] if objects else None), [[by_text[caption.text] for caption in captions] for captions in wanted]


def object_caption(product: ProductPrompt, raw_names: bool) -> str:
    """What to call the object: its name, or what the published code sends for it, comma included (`raw_names`)."""
    if not raw_names:
        return product.object
    return product.object_caption or f"{product.object.replace(' ', '_')},"
