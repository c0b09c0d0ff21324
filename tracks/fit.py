"""Entry point of `vandkit fit references=good out=bracket.safetensors`: learn good parts once, judge by them for good.

`vandkit predict photos product=bracket.safetensors` then starts without them. `product=... add=folder` adds good parts:
all that are known are learnt together, since what is usual among them depends on all (a model whose knowledge adds up
learns the new ones alone, with the same result). `product=... ok=folder
defect=folder` refits the threshold on judged photos.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from models.base import AnomalyModel, State
from models.references import Prepared
from models.tiles import WHOLE, Tiled
from tracks.command.cli import command, run_main
from tracks.datasets.files import FileSample
from tracks.datasets.notices import counted_notices
from tracks.datasets.photos import Photos
from tracks.datasets.region import cropped
from tracks.decide.kept import facts_of
from tracks.decide.product import Product, packed, read_product, unpacked
from tracks.decide.settings import DEFAULT_CATEGORY, region_of
from tracks.decide.threshold import ENOUGH_PHOTOS, Threshold, best_cut
from tracks.errors import TrackInputError
from tracks.run.build import build_model, check_run_settings, pick_device
from tracks.run.fingerprint import weights_digest
from tracks.run.references import distinct
from tracks.run.runner import RunnerOptions, fit_images, score_images

MAP_SIDE = 16
"""Maps of judged photos are not looked at."""


@counted_notices()
def fit(cfg: DictConfig) -> Product:
    """Make a product, or go on with one; returns what was written.

    Raises:
        TrackInputError: anything in the settings or the folders that the user can mend.
    """
    check_settings(cfg)
    known = read_product(cfg.product) if cfg.product else None
    cfg = cfg if known is None else known.settings(cfg)
    out = Path(cfg.out or cfg.product).expanduser()
    options = RunnerOptions(MAP_SIDE, cfg.batch_size, cfg.workers, pick_device(cfg.device), strict=False)
    model = build_model(cfg, options.device)
    if known is None or cfg.add:
        product = learnt(cfg, model, known, options.device)
    else:
        known.load_into(model)
        product = known
    if cfg.ok:
        product = replace(product, judged=judged_threshold(*judged_scores(cfg, model, product, options)))
    threshold = product.judged or product.facts.reference_threshold(product.names, cfg.false_alarm_rate)
    print(f"threshold {threshold.value:.4f}: {threshold.source}", *threshold.remarks, sep="\n")
    product.write(out)
    print(f"{out}: {len(product.names)} references, {out.stat().st_size / 1e6:.1f} MB ({_sizes(product)})")
    return product


def check_settings(cfg: DictConfig) -> None:
    """Refuse values that no type can refuse."""
    check_run_settings(cfg)
    if bool(cfg.references) == bool(cfg.product):
        raise TrackInputError(
            "expected references=folder with photos of good parts, or product=file to go on with, got "
            f"{'both' if cfg.product else 'neither'}; for example `vandkit fit references=good out=bracket.safetensors`"
        )
    if not (cfg.out or cfg.product):
        raise TrackInputError("expected a file to write, got none; name it, for example out=bracket.safetensors")
    if Path(cfg.out or cfg.product).suffix != ".safetensors":
        raise TrackInputError(f"expected a file that ends in .safetensors, got {cfg.out or cfg.product}")
    if bool(cfg.ok) != bool(cfg.defect):
        raise TrackInputError("expected judged photos of both kinds, got one; give ok=folder and defect=folder")
    if cfg.add and not cfg.product:
        raise TrackInputError("expected a product to add good parts to, got none; name it with product=file")
    if cfg.product and not (cfg.add or cfg.ok):
        raise TrackInputError(
            "expected something to do with the product, got none; give add=folder, or ok= and defect="
        )


def learnt(cfg: DictConfig, model: AnomalyModel, known: Product | None, device: str) -> Product:
    """The product of a folder of good parts, after those of a product if there is one already."""
    category = str(cfg.category or DEFAULT_CATEGORY)
    folder = Path(cfg.add if known else cfg.references).expanduser()
    region = known.region if known else region_of(cfg)
    samples = cropped(distinct(photos_in(cfg, folder, category)), region)
    bar = tqdm(samples, desc=f"{category}: references", unit="image", leave=False)
    images, names = [packed(model.preprocess(sample.load_image())) for sample in bar], [one.name for one in samples]
    if known:
        new = [i for i, image in enumerate(images) if not any(_same(image, each) for each in known.images)]
        print(f"{len(new)} of {len(images)} photos are new; {len(known.images)} were known")
        images = known.images + [images[i] for i in new]
        names = known.names + [f"{folder.name}/{names[i]}" for i in new]
    add: Callable[..., None] | None = getattr(model, "add", None)
    if known and add:  # to the bit as if all had been learnt together
        known.load_into(model)
        add(Prepared(images[len(known.images) :], unpacked), category)
    else:
        fit_images(model, Prepared(images, unpacked), category, device)
    facts = facts_of(model, category, names, region)
    if facts.refused:
        raise TrackInputError(f"{facts.refused}; such a model cannot be kept as a product")
    if known and known.judged and not cfg.ok:
        print("the threshold is that of the references again; give ok= and defect= to refit it on judged photos")
    depth = known.bit_depth if known else next((sample.bit_depth for sample in samples), None)
    return Product(
        category, OmegaConf.to_container(cfg.model, resolve=True), model.tiles if isinstance(model, Tiled) else WHOLE,  # type: ignore[arg-type]
        list(cfg.prompts.defects), depth, weights_digest(model), names, facts, None, model.state(category), images,
        region=region,
    )  # fmt: skip


def photos_in(cfg: DictConfig, folder: str | Path, category: str) -> Sequence[FileSample]:
    """All photos of a folder."""
    return Photos(folder, category, cfg.recursive, bit_depth=cfg.bit_depth).test(category)


def judged_scores(
    cfg: DictConfig, model: AnomalyModel, product: Product, options: RunnerOptions
) -> tuple[list[float], list[float]]:
    """The scores of photos judged good and of photos judged defect; those that cannot be read are said."""
    both: list[list[float]] = []
    for folder in (cfg.ok, cfg.defect):
        found = []
        samples = cropped(photos_in(cfg, folder, product.category), product.region)
        for loaded, scored in score_images(model, samples, product.category, options):
            if scored is None:
                print(f"unreadable, {loaded.unreadable}".encode(errors="replace").decode())
            else:
                found.append(scored.image_score)
        if not found:
            raise TrackInputError(f"expected photos that can be read in {folder}, got none")
        both.append(found)
    return both[0], both[1]


def judged_threshold(ok: Sequence[float], defect: Sequence[float]) -> Threshold:
    """The threshold with the highest recall less false alarms (Youden's J), half way to the next lower score.

    Of several that are equal the one that finds most.
    """
    good, bad = np.asarray(ok), np.asarray(defect)
    best = best_cut([(ok, defect)])
    value = best.value if best.below is None else (best.below + best.value) / 2
    found, alarms = int((bad >= value).sum()), int((good >= value).sum())
    source = (
        f"highest recall less false alarms on {len(good)} photos judged OK and {len(bad)} judged DEFECT: {found} of "
        f"{len(bad)} defects found, {alarms} of {len(good)} good ones called defects"
    )
    if min(len(good), len(bad)) < ENOUGH_PHOTOS:
        source += f"; fewer than {ENOUGH_PHOTOS} of a kind, so take it as a first guess"
    why = (
        ""
        if best.recall > best.false_alarms
        else "the judged defects score no higher than the good ones: the model tells them not apart"
    )
    return Threshold(value, source, alarms / len(good), undecided=why)


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _sizes(product: Product) -> str:
    """Where the room of the file goes."""
    learnt_bytes = sum(tensor.nbytes for tensor in product.state.values())
    image_bytes = sum(tensor.nbytes for image in product.images for tensor in image.values())
    return f"{learnt_bytes / 1e6:.1f} MB learnt, {image_bytes / 1e6:.1f} MB the references, for adding more"


@command("fit")
def main(cfg: DictConfig) -> None:
    """Fit and print."""
    fit(cfg)


if __name__ == "__main__":
    run_main(main)
