"""How long a command takes to begin: the help, torch's own import, the first photo, a second threshold, a product.

    python -m benchmarks.start --rounds 5

The shortest of all rounds, each in a process of its own, on drawn photos with the weights that ship: what else the
machine does only adds. No command can go below what imports take, torch's and those of the CLIP (open_clip, timm,
torchvision): they stand beside, measured in the same rounds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.machine import ROOT
from tracks.datasets.synthetic import Synthetic

FIRST_PHOTO = (b"DEFECT", b"OK ", b"undecided")


def seconds(*words: str, until: tuple[bytes, ...] = ()) -> float:
    """From the start of a Python process to its end, or to the first line it prints with one of some words."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        took = next((time.perf_counter() - began for line in run.stdout if any(each in line for each in until)), None)
        run.stdout.read()
    if run.returncode or (until and took is None):
        sys.exit(f"failed: {' '.join(words)}")
    return took if took is not None else time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        place, drawn = Path(folder), Synthetic(train_per_category=4, test_normal=4, test_per_kind=1)
        for name, samples in (("good", drawn.train("battery")), ("photos", drawn.test("battery")[:4])):
            (place / name).mkdir()
            for number, sample in enumerate(samples):
                sample.load_image().save(place / name / f"{number}.jpg")
        product, predict = str(place / "battery.safetensors"), ["-m", "tracks.cli", "predict", str(place / "photos")]
        predict += [f"outputs={place}"]
        seconds("-m", "tracks.cli", "fit", str(place / "good"), f"out={product}")
        for number in range(rounds):
            out = f"out={place}/{number}"
            found["vandkit --help"].append(seconds("-m", "tracks.cli", "--help"))
            found["import torch"].append(seconds("-c", "import torch"))
            found["import models.clip.backbone"].append(seconds("-c", "import models.clip.backbone"))
            found["predict, first photo"].append(seconds(*predict, out, until=FIRST_PHOTO))
            found["the same with another threshold, to its end"].append(seconds(*predict, out, "threshold=0.9"))
            given = [f"product={product}", f"{out}-product"]
            found["predict product=, first photo"].append(seconds(*predict, *given, until=FIRST_PHOTO))
    for what, times in found.items():
        print(f"{what:45} {min(times):6.2f} s")


if __name__ == "__main__":
    main()
