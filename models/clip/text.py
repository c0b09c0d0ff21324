"""Words for normal and anomalous: states x templates, and their mean in the joint space (APRIL-GAN, section 2.1)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip.backbone import ClipBackbone
from models.errors import ModelInputError

SLOT = "{}"


@dataclass(frozen=True)
class PromptEnsemble:
    """State prompts ("flawless {}") put into templates ("a photo of a {}."); `{}` is the slot in both.

    Each of `defects` adds the anomalous state "{} with <defect>", word for word ("scratch", "a deep dent").
    `clean_names` shows the category with blanks for underscores; the published method shows it as it is.
    """

    normal_states: Sequence[str]
    anomalous_states: Sequence[str]
    templates: Sequence[str]
    defects: Sequence[str] = ()
    clean_names: bool = False

    def __post_init__(self) -> None:
        for field in ("normal_states", "anomalous_states", "templates", "defects"):
            object.__setattr__(self, field, _as_tuple(getattr(self, field), field))
        for field in ("normal_states", "anomalous_states", "templates"):
            _check_slots(getattr(self, field), field)

    @property
    def label(self) -> str:
        """The words as they stand in a run's protocol: how many, and a digest of them all."""
        counts = f"{len(self.normal_states)} normal and {len(self.anomalous_states)} anomalous states"
        defects = f", the words {', '.join(self.defects)}" if self.defects else ""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"{counts} in {len(self.templates)} templates{defects} ({digest})"

    def sentences(self, category: str) -> tuple[list[str], list[str]]:
        """All normal and all anomalous sentences of a category."""
        name = category.replace("_", " ") if self.clean_names else category
        with_defects = [f"{SLOT} with {defect.strip()}" for defect in self.defects if defect.strip()]
        return self._fill(self.normal_states, name), self._fill([*self.anomalous_states, *with_defects], name)

    @torch.no_grad()
    def text_features(self, backbone: ClipBackbone, category: str) -> Tensor:
        """(D, 2) columns of length 1, normal and anomalous.

        Each sentence's embedding is brought to length 1, then their plain mean, then its length to 1.
        """
        means = [F.normalize(backbone.encode_text(group), dim=-1).mean(dim=0) for group in self.sentences(category)]
        return F.normalize(torch.stack(means, dim=1), dim=0)

    def _fill(self, states: Sequence[str], name: str) -> list[str]:
        described = [state.replace(SLOT, name) for state in states]
        return [template.replace(SLOT, state) for state in described for template in self.templates]


def _as_tuple(values: Sequence[str], field: str) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ModelInputError(f"expected {field} of the prompts to be a list of texts, got {values!r}")
    return tuple(values)


def _check_slots(values: Sequence[str], field: str) -> None:
    if not values:
        raise ModelInputError(f"expected at least one of {field} in the prompts, got none")
    for value in values:
        if value.count(SLOT) != 1:
            raise ModelInputError(
                f"expected each of {field} in the prompts to have the slot {SLOT} once, got {value!r}; write the place "
                f"of the category as {SLOT}"
            )
