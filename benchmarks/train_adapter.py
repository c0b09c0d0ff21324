"""What `make train` costs at full size: an image encoded, its tokens on disk, a step from the cache, memory.

    python -m benchmarks.train_adapter [--weights random_vitl14_336] [--images 4] [--steps 3] [--device cpu]

Random weights of the published architecture on small stand-in pictures, which the encoder sees at its own size all the
same. Steps read the same few images again and again, so from the memory of the system and not from the disk. The lines
for whole data sets are extrapolated from these few images, not measured.
"""

import argparse
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.machine import ROOT, peak_mb, write_results
from benchmarks.stand_in_trees import MVTEC, write_tree
from train.adapter import build_parts
from train.adapters.checkpoint import open_run
from train.adapters.config import read_options
from train.adapters.heads import WordHead
from train.adapters.images import TrainingImages
from train.adapters.processes import Processes
from train.adapters.record import describe
from train.adapters.source import plan_course
from train.adapters.token_cache import TokenCache
from train.adapters.tokens import LiveTokens
from train.adapters.training import AdapterTraining

COURSES = {"MVTec AD for VisA": (1725, 3, 0.2), "VisA for MVTec AD": (2162, 15, 0.0)}
"""Test images of the data set learnt from, epochs and share of mosaics: conf/course."""
PUBLISHED_BATCH = 8
Figures = dict[str, float]


class Clock:
    """Seconds since the last reading, by the wall and of this process's processors."""

    def __init__(self, device: str):
        self.device = device
        self.read()

    def read(self) -> tuple[float, float]:
        """Both, and begin anew."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        now = (time.perf_counter(), time.process_time())
        before, self._last = getattr(self, "_last", now), now
        return now[0] - before[0], now[1] - before[1]


def peak_of(device: str) -> float:
    """The largest memory so far in MB: of the GPU if that is the device, else of the process."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else peak_mb()


def configuration(options: argparse.Namespace) -> DictConfig:
    """As the command would compose it, on stand-ins of half as many categories as images."""
    tree = write_tree("mvtec", options.folder / "data")
    categories = ",".join(MVTEC[: max(1, options.images // 2)])
    settings = [
        f"weights={options.weights}", "data=mvtec", f"data.root='{tree}'", "target=visa", f"categories=[{categories}]",
        f"batch_size={options.batch}", "aug_rate=0", "workers=1",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", settings)


def measure(options: argparse.Namespace) -> Figures:
    """Encode, keep, and learn from the cache; seconds are of the wall unless they say otherwise."""
    cfg = configuration(options)
    train_options = read_options(cfg)
    backbone, prompts = build_parts(cfg)
    prompts = replace(prompts, templates=prompts.templates[: options.templates])
    course = plan_course(instantiate(cfg.data), train_options)
    backbone.to(options.device)
    images = TrainingImages(course.samples[: options.images], backbone.preprocess)
    cache = TokenCache(LiveTokens(backbone, images, options.device, workers=1), options.folder / "cache")
    cache.delete()
    figures: Figures = {"cache_bytes_an_image": cache.layout.bytes_per_image}  # the first pass, not timed
    clock = Clock(options.device)
    cache.build(options.batch)
    figures |= _both("encode_an_image", clock.read(), len(images.samples))
    figures["peak_mb_encoding"] = peak_of(options.device)
    head = WordHead(backbone, prompts, (*course.learnt, *course.held_out), train_options.seed)
    settings = describe(head, course, train_options)
    shutil.rmtree(options.folder / "run", ignore_errors=True)
    open_run(options.folder / "run", settings)
    job = AdapterTraining(head, course, train_options, options.folder / "run", Processes(0, 1, options.device))
    clock.read()
    words = len(head.text)
    figures |= _both("words_of_a_category", clock.read(), words)
    figures |= _steps(job, cache, options, clock)
    figures["peak_mb_training"] = peak_of(options.device)
    cache.delete()
    return figures


def _steps(job: AdapterTraining, cache: TokenCache, options: argparse.Namespace, clock: Clock) -> Figures:
    """Seconds of a step from the cache, after one that is not counted."""
    order = [index % cache.num_images for index in range(options.batch * (options.steps + 1))]
    for step, batch in enumerate(cache.batches(order, options.batch)):
        job._step(batch)
        if step == 0:
            clock.read()
    return _both("step_of_a_batch", clock.read(), options.steps)


def _both(name: str, seconds: tuple[float, float], count: int) -> Figures:
    return {f"{name}_s": seconds[0] / count, f"{name}_processor_s": seconds[1] / count}


def extrapolated(figures: Mapping[str, float], batch: int, kind: str = "") -> list[str]:
    """A line for each published course: all images encoded once, mosaics in each epoch, and the steps."""
    encode, step = figures[f"encode_an_image_{kind}s"], figures[f"step_of_a_batch_{kind}s"] / batch
    lines = []
    for name, (images, epochs, mosaic) in COURSES.items():
        once, mosaics = images * encode / 3600, mosaic * epochs * images * encode / 3600
        steps = epochs * images * step / 3600
        room = images * figures["cache_bytes_an_image"] / 1e9
        lines.append(
            f"{name}, {images:,} images, {epochs} epochs: {room:.1f} GB of cache; {once:.2f} h to encode all once, "
            f"{steps:.2f} h of steps, {mosaics:.2f} h of mosaics, {once + steps + mosaics:.2f} h "
            f"in all ({once * epochs + steps:.2f} h without a cache)"
        )
    return lines


def to_text(figures: Mapping[str, float], options: argparse.Namespace) -> str:
    """What was measured, then what follows from it."""
    measured = [f"{name:34} {value:,.3f}" for name, value in figures.items()]
    return "\n".join([
        f"{options.weights}, {options.images} images, batches of {options.batch}, {options.steps} steps, "
        f"{options.templates} templates, device {options.device}, {torch.get_num_threads()} threads",
        *measured, "extrapolated from these, not measured:", *extrapolated(figures, options.batch),
        "the same by the seconds of the processors:", *extrapolated(figures, options.batch, "processor_"),
    ])  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="random_vitl14_336", help="of conf/weights, such as tiny")
    parser.add_argument("--images", type=int, default=4, help="encoded and kept")
    parser.add_argument("--batch", type=int, default=PUBLISHED_BATCH)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--templates", type=int, default=35, help="of the prompts; 35 are published")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("outputs", "train_cost"), help="for data and cache")
    parser.add_argument("--out", type=Path, help="write the figures here too, as JSON")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    figures = measure(options)
    print(to_text(figures, options))
    write_results(options.out, {"figures": figures})


if __name__ == "__main__":
    main()
