"""Which source of prompts an image speaks for, without a label: the one that the other evidence agrees with."""

from collections.abc import Sequence

import torch
from torch import Tensor


def most_agreed(maps: Sequence[Tensor], witness: Tensor | None) -> int:
    """The number of the map that agrees best with the others and with a witness, by mean correlation.

    Looks at one image alone, so a choice stays inductive. Of equals the first; a constant map agrees with nothing.

    Args:
        maps: one map (H, W) per source, two or more, all of one size.
        witness: (H, W) evidence that no words went into, the image's saliency; None for none.
    """
    everything = [*maps, *([] if witness is None else [witness])]
    rows = torch.stack([each.flatten() for each in everything]).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    rows = torch.where(lengths > 1e-12, rows / lengths.clamp(min=1e-12), 0.0)
    agreement = rows @ rows.t()
    agreement.fill_diagonal_(0)
    return int(agreement[: len(maps)].mean(dim=1).argmax())
