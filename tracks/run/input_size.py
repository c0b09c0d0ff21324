"""Images that a model sees so small that small defects vanish."""

from collections.abc import Mapping
from pathlib import Path

from PIL.Image import Image

from tracks.datasets.notices import notice
from tracks.datasets.sample import Sample

TIMES = 4
"""An image with a side of more than so many times the model's is worth a word."""


def mention_small_input(protocol: Mapping[str, object], sample: Sample, image: Image) -> None:
    """Say once in a run that its model sees images much smaller than they are, unless it cuts them into tiles."""
    side = protocol.get("model_image_size")
    if not isinstance(side, int) or max(image.size) <= TIMES * side or protocol.get("tiles", "whole") != "whole":
        return
    notice(
        f"more than {TIMES} times the {side} x {side} pixels at which the model sees it, so small defects may go "
        'unseen; ARGS="tiles=auto" looks at tiles of them as well and takes longer',
        Path(getattr(sample, "path", sample.name)),
    )
