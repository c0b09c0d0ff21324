"""Entry point of `vandkit export product=bracket.safetensors format=onnx out=folder`: a model without torch.

The folder judges photos by itself: `python folder/run.py photo.jpg`. Without a product the model of the settings is
exported as it judges a category zero-shot. `check=folder` compares a folder with its original instead.
"""

from pathlib import Path

import numpy as np
import PIL.Image
from omegaconf import DictConfig, OmegaConf
from PIL.Image import Image

from models.tiles import WHOLE, Tiled
from tracks.command.cli import command, run_main
from tracks.datasets.images import read_image
from tracks.datasets.photos import find_images
from tracks.decide.kept import facts_of
from tracks.decide.product import read_product
from tracks.decide.settings import DEFAULT_CATEGORY
from tracks.errors import TrackInputError
from tracks.exporting.folder import Difference, What, check_identity, difference, write_folder
from tracks.exporting.network import check_format
from tracks.run.build import build_model

SHAPES = ((300, 300), (500, 200), (200, 500))
"""Noise on which an export is compared with the model where no photos are named."""


def export(cfg: DictConfig) -> Difference:
    """Write a folder, or check one; returns how far it is from the model.

    Raises:
        TrackInputError: anything in the settings that the user can mend; a folder of other weights or settings; a
            float32 copy that does not say what the model says.
    """
    if bool(cfg.out) == bool(cfg.check):
        raise TrackInputError("expected out=folder to write, or check=folder to compare, got both or neither")
    what, folder = original(cfg), Path(cfg.out or cfg.check).expanduser()
    if cfg.out:
        check_format(cfg.format, cfg.precision, 0 if what.product is None else len(what.product.images))
        write_folder(what, folder, cfg.format, cfg.precision)
    check_identity(what, folder)
    found = difference(what, folder, compared_photos(cfg))
    print(found)
    if cfg.out and cfg.precision == "float32" and not found.is_rounding:
        raise TrackInputError(
            f"expected the export to say what the model says, got more than rounding: {found}; use another format"
        )
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6
    print(f"{folder}: {size:.1f} MB; python {folder / 'run.py'} photo.jpg")
    return found


def original(cfg: DictConfig) -> What:
    """The model of a product, or of the settings, and its threshold."""
    product = read_product(cfg.product) if cfg.product else None
    if product and product.region is not None:
        raise TrackInputError(
            f"expected a product of whole photos, got {cfg.product}, which was fitted with a region of interest that "
            "the exported runner does not cut out; fit it without roi, on photos that are cut already"
        )
    cfg = product.settings(cfg) if product else cfg
    category = str(cfg.category or DEFAULT_CATEGORY)
    model = build_model(cfg, "cpu")
    if product:
        product.load_into(model)
        threshold = product.judged or product.facts.reference_threshold(product.names, cfg.false_alarm_rate)
    else:
        threshold = facts_of(model, category, []).weights_threshold
    tiles = model.tiles if isinstance(model, Tiled) else WHOLE
    settings = {"config": OmegaConf.to_container(cfg.model, resolve=True), "tiles": tiles}
    return What(model, category, threshold, settings, cfg.bit_depth, product)


def compared_photos(cfg: DictConfig) -> list[Image]:
    """The photos of `images`; without any, noise of several shapes."""
    if cfg.images:
        return [read_image(path, cfg.bit_depth) for path in find_images(Path(cfg.images).expanduser())]
    drawn = np.random.default_rng(0)
    noise = [drawn.integers(0, 256, (height // 10, width // 10, 3)).astype(np.uint8) for width, height in SHAPES]
    return [PIL.Image.fromarray(each).resize(size) for each, size in zip(noise, SHAPES, strict=True)]


@command("export")
def main(cfg: DictConfig) -> None:
    """Export and print."""
    export(cfg)


if __name__ == "__main__":
    run_main(main)
