"""`predict` on more and more photos: seconds, processor seconds and peak memory, of one process and with Ray.

    python -m benchmarks.many_photos --photos 1000,10000,100000 --engines ray model=random maps=none batch_size=32
    python -m benchmarks.many_photos --photos 300 --side 900 --engines local,ray maps=none
    python -m benchmarks.many_photos --list 1000000

Photos are JPEGs of noise, made once in a temporary folder. Seconds are the whole command's, start-up included; peaks
are memory of its own (anonymous pages: without Ray's shared store and without files), of the command's process and of
the largest of each kind that Ray started for it. With `--list` so many names are listed as `predict` lists them, links
to a single photo, and nothing is judged.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import psutil

from benchmarks.machine import ROOT, peak_mb, reset_peak

LOOK_SECONDS = 0.2
DIFFERENT = 1000
"""So many photos differ; later ones are copies, which no model knows of."""


@dataclass
class Watched:
    """What was seen of a command while it ran."""

    seconds: float = 0.0
    processor_seconds: dict[int, float] = field(default_factory=dict)
    """Of each process."""
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """Of the command ("driver") and of each kind of process below it."""


def make_photos(folder: Path, count: int, side: int) -> None:
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    known: list[bytes] = []
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        if number < DIFFERENT:
            rough = PIL.Image.fromarray(drawn.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
            rough.resize((side, side), PIL.Image.Resampling.BICUBIC).save(path, quality=90)
            known.append(path.read_bytes())
        else:
            path.write_bytes(known[number % DIFFERENT])


def watched(photos: Path, out: Path, engine: str, words: list[str]) -> Watched:
    """Run `predict`, looking at its memory five times a second."""
    settings = [str(photos), f"out={out}", f"outputs={out.parent}", f"engine={engine}", "quiet=true", "threshold=0.5"]
    found, began = Watched(), time.monotonic()
    with (out.parent / "log").open("wb") as log:
        running = psutil.Popen(
            [sys.executable, "-m", "tracks.cli", "predict", *settings, *words], cwd=ROOT, stdout=log, stderr=log
        )
        while running.poll() is None:
            look(running, found)
            time.sleep(LOOK_SECONDS)
    found.seconds = time.monotonic() - began
    if running.returncode:
        sys.exit((out.parent / "log").read_text()[-2000:])
    return found


def look(running: psutil.Popen, found: Watched) -> None:
    """Note the memory and the processor time of the process and of those below it."""
    for process in [running, *running.children(recursive=True)]:
        try:
            title = "driver" if process is running else kind_of(" ".join(process.cmdline()))
            pages = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8")
            memory, times = int(pages.split("Anonymous:")[1].split()[0]) / 1024, process.cpu_times()
            found.peaks_mb[title] = max(memory, found.peaks_mb.get(title, 0.0))
            found.processor_seconds[process.pid] = times.user + times.system
        except (psutil.Error, OSError, IndexError):
            continue  # it has just ended


def kind_of(command: str) -> str:
    """What a process of Ray's is there for."""
    return "actor" if "_Predictor" in command else "Ray's own"


def list_only(count: int) -> None:
    """Time and memory of listing, with batches cut and fingerprints read as before the first photo is judged."""
    from tracks.datasets.photos import Photos
    from tracks.run.loading import cut

    with tempfile.TemporaryDirectory() as name:
        folder, photo = Path(name) / "photos", Path(name) / "photo.jpg"
        PIL.Image.new("RGB", (64, 64)).save(photo)
        for number in range(count):
            path = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
            if not number % 1000:
                path.parent.mkdir(parents=True)
            path.symlink_to(photo)
        before, began = reset_peak(), time.perf_counter()
        samples = Photos(folder, bit_depth=8).test("object")
        listed = time.perf_counter() - began
        print(f"{len(samples)} photos listed in {listed:.1f} s, {peak_mb() - before:.0f} MB above {before:.0f} MB")
        batches = cut(samples, 8)
        marks = {sample.name: sample.fingerprint for sample in samples}
        seconds = time.perf_counter() - began
        print(f"{len(batches)} batches and {len(marks)} marks: {seconds:.1f} s, {peak_mb() - before:.0f} MB in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="1000", help="numbers with commas between them")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--list", type=int, default=0)
    given, words = parser.parse_known_args()
    if given.list:
        list_only(given.list)
        return
    for count in map(int, given.photos.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            make_photos(place / "photos", count, given.side)
            for engine in given.engines.split(","):
                found = watched(place / "photos", place / engine, engine, words)
                listed = ", ".join(f"{kind} {peak:.0f}" for kind, peak in sorted(found.peaks_mb.items()))
                processor = sum(found.processor_seconds.values())
                print(f"{count} photos, {engine}: {found.seconds:.1f} s, {processor:.1f} of processors", flush=True)
                print(f"    peak MB: {listed}", flush=True)


if __name__ == "__main__":
    main()
