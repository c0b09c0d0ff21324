"""Images a second and memory of both model families, for growing batches, until the device is full.

    python -m benchmarks.device --device cuda [--only clip] [--batches 1 16 64 256] [--out FILE]
    python -m benchmarks.device --device cuda --only "clip shipped, zero" --batches 1 16 128 --graph
    python -m benchmarks.device --device cpu --only "ViT-L/14-336 518 px bfloat16" --batches 1 --compare

Architectures are the published ones with random weights (they detect nothing), and the small weights that ship. Images
are noise, preprocessed beforehand and on the processor: a batch's way to the device counts, decoding does not. With
`--compare` lower precisions stand beside float32: how much faster in processor time, one batch after the other in one
process, and how far scores and maps (between 0 and 1) of the first batch are from float32's. With `--graph` a batch
that lies on the GPU is judged as written, and by its kernels alone, replayed as one CUDA graph: what launching costs.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

import tracks.command.config  # noqa: F401  (registers the schema)
from benchmarks.machine import ROOT, machine, write_results
from models.base import AnomalyModel, Prediction, as_batch
from tracks.run.build import pick_device
from tracks.run.cost import Stopwatch, held_bytes

CATEGORY = "object"


@dataclass(frozen=True)
class Case:
    """A model by its settings, its precision, and how many references it has."""

    name: str
    model: str
    weights: str
    batches: tuple[int, ...]
    precision: str = "float32"
    shots: int = 0


LARGE, SMALL, BY_IMAGE = (1, 16, 64, 256), (1, 16, 64, 256, 1024), (1, 4)
PRECISIONS = ("bfloat16", "float16", "float32")
# A model is made once for cases that follow one another with the same weights, so those without references stand first.
CASES = (
    Case("clip shipped, zero-shot", "clip_adapter", "tiny", SMALL),
    Case("clip shipped bfloat16, zero-shot", "clip_adapter", "tiny", SMALL, "bfloat16"),
    Case("clip shipped, 4-shot", "clip_adapter", "tiny", SMALL, shots=4),
    Case("clip shipped bfloat16, 4-shot", "clip_adapter", "tiny", SMALL, "bfloat16", 4),
    *(
        Case(f"clip ViT-L/14-336 518 px {each}, zero-shot", "clip_adapter", "random_vitl14_336", LARGE, each)
        for each in PRECISIONS
    ),
    Case("clip ViT-L/14-336 518 px bfloat16, 4-shot", "clip_adapter", "random_vitl14_336", LARGE, "bfloat16", 4),
    Case("saa_plus shipped, 1000 x 750, zero-shot", "saa_plus", "tiny", BY_IMAGE),
    *(
        Case(f"saa_plus official, 1000 x 750 {each}, zero-shot", "saa_plus", "saa_random", BY_IMAGE, each)
        for each in PRECISIONS
    ),
    Case("saa_plus official, 1000 x 750 bfloat16, 4-shot", "saa_plus", "saa_random", BY_IMAGE, "bfloat16", 4),
)


@dataclass
class Measured:
    """What one case took at one batch size; `error` in place of figures where it did not run."""

    case: str
    batch: int
    images_per_second: float = 0.0
    memory_mb: float = 0.0
    bank_mb: float = 0.0
    fit_seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        """A line of the table."""
        numbers = f"{self.images_per_second:.2f} | {self.memory_mb:.0f} | {self.bank_mb:.1f} | {self.fit_seconds:.2f}"
        return f"| {self.case} | {self.batch} | {self.error or numbers} |"


def pictures(model: AnomalyModel, count: int, seed: int = 0) -> list[Tensor]:
    """Preprocessed smooth noise; of more than eight, the same ones again."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (min(count, 8), 20, 15, 3)).astype(np.uint8)
    drawn = [model.preprocess(PIL.Image.fromarray(each).resize((750, 1000))) for each in coarse]
    return [drawn[i % len(drawn)] for i in range(count)]


@lru_cache(maxsize=1)
def _built(model: str, weights: str) -> AnomalyModel:
    """The model on the processor; cases with the same weights follow one another, so that they are made once."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("few_shot", [f"model={model}", f"weights={weights}"])
    return instantiate(cfg.model).eval()


def prepared(case: Case, device: torch.device, precision: str) -> tuple[AnomalyModel, float]:
    """The model in a precision, having learnt the references in it; and the seconds of that."""
    model = _built(case.model, case.weights).to(device)
    for part in model.modules():
        if hasattr(part, "precision"):
            part.precision = precision
    fitting = Stopwatch(device)
    if case.shots:
        with torch.inference_mode(), fitting:
            model.fit(as_batch(pictures(model, case.shots, 1), str(device)), CATEGORY)
    return model, fitting.seconds


def compared(case: Case, device: torch.device, batch: int, rounds: int = 3) -> str:
    """How a batch in the precision of a case differs from float32: seconds of processor time each, scores, maps."""
    said: dict[str, tuple[float, Prediction]] = {}
    for precision in ("float32", case.precision):
        model, _ = prepared(case, device, precision)
        images, categories = as_batch(pictures(model, batch), str(device)), [CATEGORY] * batch
        times = []
        with torch.inference_mode():
            model.predict(images, categories)
            for _ in range(rounds):
                began = time.process_time()
                prediction = model.predict(images, categories)
                times.append(time.process_time() - began)
        said[precision] = min(times), prediction
    (whole, exact), (less, found) = said["float32"], said[case.precision]
    scores = float((found.image_scores - exact.image_scores).abs().max())
    maps = (found.anomaly_maps - exact.anomaly_maps).abs()
    return (
        f"beside float32: {less:.2f} in place of {whole:.2f} s of processor time (x {whole / less:.2f}); "
        f"scores differ by {scores:.1e}, maps by {float(maps.max()):.1e} (on average {float(maps.mean()):.1e})"
    )


def replayed(case: Case, device: torch.device, batch: int, rounds: int = 30) -> str:
    """Milliseconds of a batch that is on the GPU, as written and as one CUDA graph; by the clock."""
    model, _ = prepared(case, device, case.precision)
    images, categories = as_batch(pictures(model, batch), str(device)), [CATEGORY] * batch
    graph, aside, took = torch.cuda.CUDAGraph(), torch.cuda.Stream(), []
    with torch.inference_mode():
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is made once must not be made within the graph
                model.predict(images, categories)
        torch.cuda.synchronize(device)
        with torch.cuda.graph(graph):
            model.predict(images, categories)
        for call in (lambda: model.predict(images, categories), graph.replay):
            call()
            watch = Stopwatch(device)
            with watch:
                for _ in range(rounds):
                    call()
            took.append(1000 * watch.seconds / rounds)
    return f"{took[0]:.2f} ms, as one graph {took[1]:.2f} ms (x {took[0] / took[1]:.2f})"


def measured(case: Case, device: torch.device, seconds: float, batches: tuple[int, ...]) -> Iterator[Measured]:
    """A row for each batch size, until one does not fit."""
    model, fit_seconds = prepared(case, device, case.precision)
    with torch.inference_mode():
        for batch in batches:
            row = Measured(case.name, batch, bank_mb=held_bytes(model) / 2**20, fit_seconds=fit_seconds)
            try:
                _predict(model, row, device, seconds)
            except torch.OutOfMemoryError:
                row.error = "out of memory"
            yield row
            if row.error:
                return


def _predict(model: AnomalyModel, row: Measured, device: torch.device, seconds: float) -> None:
    """Batches for so many seconds, after one that does not count."""
    images, categories = pictures(model, row.batch), [CATEGORY] * row.batch
    watch, done = Stopwatch(device), 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model.predict(as_batch(images, str(device)), categories)
    began = time.perf_counter()
    while not done or time.perf_counter() - began < seconds:
        with watch:
            model.predict(as_batch(images, str(device)), categories)
        done += row.batch
    row.images_per_second = done / watch.seconds
    if device.type == "cuda":
        row.memory_mb = torch.cuda.max_memory_allocated(device) / 2**20


def main() -> None:
    """Print the table row by row, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--batches", type=int, nargs="+", help="images in a batch, in place of each case's own")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row, besides the model's making")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no case is begun")
    parser.add_argument("--compare", action="store_true", help="lower precisions beside float32, by the smallest batch")
    parser.add_argument("--graph", action="store_true", help="each batch as one CUDA graph beside the plain call")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"expected --only to be part of a case's name: {'; '.join(case.name for case in CASES)}")
    device, began, rows = torch.device(pick_device(options.device)), time.perf_counter(), []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine()["processor"])
    print(f"{name}, torch {torch.__version__}\n")
    print("| model | batch | images/s | memory, MB | bank, MB | fit, s |\n| --- | --: | --: | --: | --: | --: |")
    for case in cases:
        if time.perf_counter() - began > options.limit:
            print(f"| {case.name} | not begun: over {options.limit:g} s |", flush=True)
            continue
        batches = tuple(options.batches or case.batches)
        if options.compare and case.precision != "float32":
            print(f"| {case.name} | {batches[0]} | {compared(case, device, batches[0])} |", flush=True)
            continue
        if options.graph:
            for batch in batches:
                print(f"| {case.name} | {batch} | {replayed(case, device, batch)} |", flush=True)
            continue
        for row in measured(case, device, options.seconds, batches):
            rows.append(row)
            print(row, flush=True)
    write_results(options.out, {"device": name, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
