"""Which device a command works on."""

import torch

from tracks.errors import TrackInputError


def pick_device(wanted: str) -> str:
    """A torch device name; "auto" is the GPU where there is one.

    From then on float32 means float32 on a GPU: by default torch lets convolutions round to TF32, ten bits of fraction.
    """
    torch.backends.cudnn.allow_tf32 = False
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise TrackInputError(
            f"expected a device that this machine has, got {wanted!r} ({reason}); use auto"
        ) from error
    return wanted
