"""Methods on their published architectures with random weights, at the published size: seconds and memory of an image.

    python -m benchmarks.backbones anomaly_dino_448 anomaly_dino_672 musc superadd subspace_ad

Building, one reference (few-shot methods; without rotated copies, of which each costs what the reference does) and then
one picture of 900 x 900; two pictures scored by each other where a method is transductive. Seconds by the clock and of
the processor, and the peak memory since the process began: name large ones last, or one at a time. Random weights
detect nothing: what is shown is that each builds and runs, and its cost.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.machine import machine, peak_mb
from models.transductive import TransductiveModel
from tracks.api import learn, load_model, score

SIDE = 900
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "anomaly_dino_448": ("anomaly_dino", "dinov2_vits14", {"side": 448, "rotations": "none"}),
    "anomaly_dino_672": ("anomaly_dino", "dinov2_vits14", {"side": 672, "rotations": "none"}),
    "anomaly_dino_batch": ("anomaly_dino_batch", "dinov2_vits14", {"side": 672}),
    "musc": ("musc", "openai_vitl14_336", {}),
    "superadd": ("superadd", "dinov3_vith16_plus", {}),
    "subspace_ad": ("subspace_ad", "dinov2_vitg14_reg", {"rotations": 0}),
}
"""Model, weights and settings as published."""


def picture(seed: int) -> PIL.Image.Image:
    """Smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    return PIL.Image.fromarray(small).resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)


def timed(what: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, and its seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = what()
    return found, f"{time.perf_counter() - clock:6.1f} s ({time.process_time() - processor:6.1f})"


def measured(case: str) -> str:
    """One line about a case."""
    name, weights, settings = CASES[case]
    random = {"weights.backbone.weights": "random:0", **settings}
    model, built = timed(lambda: load_model(name, weights=weights, device="cpu", **random))
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    pictures = [picture(1), picture(2)] if isinstance(model, TransductiveModel) else [picture(1)]
    fitted = ""
    if not isinstance(model, TransductiveModel):
        fitted = f"  reference {timed(lambda: learn(model, picture(0)))[1]}"
    found, scored = timed(lambda: score(model, pictures))
    assert all(np.isfinite(each.anomaly_map).all() for each in found)
    what = "image    " if len(pictures) == 1 else "2 images "
    return f"{case:18} {millions:6.0f} M  built {built}{fitted}  {what} {scored}  peak {peak_mb():,.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(machine()["processor"], f"{options.threads} thread(s); seconds by the clock (of the processor)", flush=True)
    for case in options.cases:
        print(measured(case), flush=True)


if __name__ == "__main__":
    main()
