"""Does an exported model say what the model says, and how much faster is it?

    python -m benchmarks.export FOLDER ... [--cases clip_adapter:0 clip_adapter:4 patchcore:4 padim:4]
        [--formats onnx openvino openvino:float16 openvino:int8_weights openvino:int8] [--photos 12] [--threads 2]
        [--rounds 3] [--out FILE]

Each FOLDER is a category of the MVTec layout. Its first good images of train are the references, photos are drawn
evenly from test. Eager and exported copies judge the same photos in turn, in one process and with as many threads, from
decoded pictures on; the ratio is the median over rounds. Start-up and memory are those of `run.py` with one photo, from
the start of Python to its verdict.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from benchmarks.machine import run_measured, write_results
from tracks.api import composed
from tracks.datasets.images import read_image
from tracks.datasets.photos import find_images
from tracks.export import original
from tracks.exporting.folder import What, check_identity, difference, write_folder
from tracks.exporting.run import Runner
from tracks.fit import fit

CASES = ("clip_adapter:0", "clip_adapter:4", "patchcore:4", "padim:4")
FORMATS = ("onnx", "openvino")


def what_of(case: str, category: Path, folder: Path) -> What:
    """A model with weights=tiny, zero-shot or fitted on the first good images of a category."""
    model, shots = case.split(":")
    settings: dict[str, Any] = {"model": model, "weights": "tiny", "category": category.name}
    if not int(shots):
        return original(composed("export", settings))
    good = folder / "good"
    good.mkdir(parents=True)
    for path in find_images(category / "train" / "good")[: int(shots)]:
        (good / path.name).symlink_to(path.resolve())
    product = folder / "product.safetensors"
    fit(composed("fit", {**settings, "references": str(good), "out": str(product), "device": "cpu"}))
    return original(composed("export", {"product": str(product)}))


def photos_of(category: Path, count: int) -> list[Path]:
    """Photos of the test part, evenly spread."""
    paths = find_images(category / "test")
    return [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]


def seconds_of(judge: Callable[[Image], Any], photos: Sequence[Image]) -> float:
    """Seconds for all photos, one at a time."""
    started = time.perf_counter()
    for photo in photos:
        judge(photo)
    return time.perf_counter() - started


def speeds(what: What, folder: Path, photos: Sequence[Image], threads: int, rounds: int) -> dict[str, float]:
    """Images a second of both, and the median ratio; the first photo of each is not counted."""
    runner = Runner(folder, threads=threads)

    def eager(photo: Image) -> None:
        with torch.inference_mode():
            what.model.predict(what.model.preprocess(photo)[None], [what.category])

    eager(photos[0])
    runner.judge(photos[0])
    pairs = [(seconds_of(eager, photos), seconds_of(runner.judge, photos)) for _ in range(rounds)]
    of_eager, of_export = (statistics.median(side) / len(photos) for side in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return {"eager_per_s": 1 / of_eager, "export_per_s": 1 / of_export, "ratio": ratio}


def main() -> None:
    """Print a line for each folder, case and format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="0: equality alone")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for category in given.folders:
        paths = photos_of(category, given.photos)
        photos = [read_image(path) for path in paths]
        for case in given.cases:
            with tempfile.TemporaryDirectory() as folder:
                what = what_of(case, category, Path(folder))
                for kind in given.formats:
                    form, _, precision = kind.partition(":")
                    if precision == "int8" and case.endswith(":0"):
                        continue
                    out = Path(folder) / kind.replace(":", "-")
                    write_folder(what, out, form, precision or "float32")
                    check_identity(what, out)
                    found = difference(what, out, photos)
                    row = {"folder": category.name, "case": case, "format": kind, **asdict(found)}
                    print(f"{category.name} {case} {kind}: {found}", flush=True)
                    if given.rounds:
                        row |= speeds(what, out, photos, given.threads, given.rounds)
                        command = [sys.executable, str(out / "run.py"), str(paths[0]), "--threads", str(given.threads)]
                        cost = run_measured(command, stdout=subprocess.DEVNULL)
                        row |= {"start_s": cost.seconds, "memory_mb": cost.peak_memory_mb}
                        print(
                            f"  {row['eager_per_s']:.2f} eager, {row['export_per_s']:.2f} exported images/s "
                            f"(x {row['ratio']:.2f}); one photo from the start {cost.seconds:.2f} s, "
                            f"{cost.peak_memory_mb:.0f} MB",
                            flush=True,
                        )
                    rows.append(row)
    write_results(given.out, {"rows": rows})


if __name__ == "__main__":
    main()
