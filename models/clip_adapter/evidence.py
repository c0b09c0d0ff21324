"""What a `ClipAdapter` knows of images before that becomes a map and a score, and what it has learnt of a category."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from models.base import State
from models.clip_adapter.context_adapter import References
from models.features import ImageFeatures
from models.gaussians import PatchGaussians
from models.nearest import CategoryMemory
from models.neighbourhoods import Neighbourhoods
from models.texture import Texture

MapPart = PatchGaussians | Neighbourhoods | Texture


@dataclass
class Evidence:
    """What is known of B images.

    `text_scores` (B,) in [0, 1]; `adapter_maps` (B, S, S) in [0, number of the adapter's maps]; `learned_scores` (B,)
    in [0, 1] of an adapter that gives them; `memory_maps` (B, S, S) >= 0, or None without references; `gaussian_maps`
    (B, S, S) in [0, 1] and what share of the map they have, `gaussian_shares` (B,), or None without Gaussians;
    `neighbourhood_maps` (B, S, S) in [0, 1], or None; `texture_maps` (B, S, S) in [0, 1] and their shares
    `texture_shares` (B,), or None; `brightness` (B, h, w) of the images' cells in [0, 1], or None.
    """

    text_scores: Tensor
    adapter_maps: Tensor
    learned_scores: Tensor | None = None
    memory_maps: Tensor | None = None
    gaussian_maps: Tensor | None = None
    gaussian_shares: Tensor | None = None
    neighbourhood_maps: Tensor | None = None
    texture_maps: Tensor | None = None
    texture_shares: Tensor | None = None
    brightness: Tensor | None = None


@dataclass
class FittedCategory:
    """What was learnt of a category: its banks, the references' own leave-one-out evidence and map maximum.

    `references` is what an adapter that compares with references keeps of them, as they are and flipped; there are no
    banks, no `gaussians`, no `neighbourhoods` and no `texture` where they have no weight. The evidence, which scoring
    other images does not need, is not in a file: it is None until it is asked for.
    """

    memory: CategoryMemory | None
    gaussians: PatchGaussians | None
    neighbourhoods: Neighbourhoods | None
    texture: Texture | None
    references: list[References | None]
    evidence: Evidence | None
    typical_max: Tensor | None

    def parts(self) -> dict[str, MapPart]:
        """What gives maps of its own, as far as there is any, by its name in a file."""
        every = {"gaussians": self.gaussians, "neighbourhoods": self.neighbourhoods, "texture": self.texture}
        return {name: part for name, part in every.items() if part is not None}

    def tensors(self) -> State:
        """All of it but the evidence by name, for a file."""
        state: State = {}
        if self.memory is not None and self.typical_max is not None:
            state["typical_max"] = self.typical_max
            for i, bank in enumerate(self.memory.banks):
                state |= {f"bank{i}.tokens": bank.tokens, f"bank{i}.grid": torch.tensor(bank.grid)}
                state[f"bank{i}.images"] = torch.tensor(bank.images)
        for part, learnt in self.parts().items():
            state |= {f"{part}.{name}": tensor for name, tensor in learnt.tensors().items()}
        for view, known in enumerate(self.references):
            if known is not None:
                state |= {f"view{view}.tokens{n}": tokens for n, tokens in enumerate(known.tokens)}
                state[f"view{view}.images"] = torch.tensor(known.images or len(known.tokens[0]))
        return state

    def to(self, device: torch.device) -> None:
        """Move all of it."""
        if self.memory is not None and self.typical_max is not None:
            self.memory.to(device)
            self.typical_max = self.typical_max.to(device)
        for learnt in self.parts().values():
            learnt.to(device)
        for name, tensor in vars(self.evidence).items() if self.evidence else ():
            setattr(self.evidence, name, None if tensor is None else tensor.to(device))
        self.references = [known if known is None else known.to(device) for known in self.references]


def averaged(views: Sequence[Evidence]) -> Evidence:
    """What is seen of the images as they are and, if there is a second, of the flipped ones, flipped back."""
    if len(views) == 1:
        return views[0]
    plain, flipped = views
    learned = None
    if plain.learned_scores is not None and flipped.learned_scores is not None:
        learned = (plain.learned_scores + flipped.learned_scores) / 2
    maps = (plain.adapter_maps + flipped.adapter_maps.flip(-1)) / 2
    return Evidence((plain.text_scores + flipped.text_scores) / 2, maps, learned)


def together(parts: Sequence[Evidence], positions: Sequence[int]) -> Evidence:
    """The evidence of several groups of images as one, each image at its position, without what any of them lacks."""
    order = torch.tensor(positions).argsort()
    joined: dict[str, Any] = {}
    for field in fields(Evidence):
        values = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if any(value is None for value in values) else torch.cat(values)[order]
    return Evidence(**joined)


def maps_of(known: Sequence[MapPart], features: ImageFeatures) -> Tensor:
    """The maps (B, S, S) of B images, each by what was learnt of its own category."""
    parts, order = [], []
    for each in dict.fromkeys(known):  # images that share references together
        members = [i for i, other in enumerate(known) if other is each]
        parts.append(each.maps(features[members]))
        order += members
    return torch.cat(parts)[torch.tensor(order).argsort()]
