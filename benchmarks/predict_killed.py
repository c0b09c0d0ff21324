"""`predict` on thousands of photos, killed (-9) three times and resumed: nothing lost, nothing twice, the same CSV.

    python -m benchmarks.predict_killed --photos 10000

The model is `random`, whose score depends on a photo's pixels alone: what is tried is the keeping, not a model. Two
kills come while photos are scored, one while overlays are drawn.
"""

import argparse
import csv
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.machine import ROOT

SIDE = 64
KILLS = (("scores.jsonl", 0.3), ("scores.jsonl", 0.7), ("drawn.jsonl", 0.5))
"""In which file of kept/ so large a share of the photos stands when the run is killed."""


def make_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for number in range(count):
        PIL.Image.fromarray(drawn.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{number:05d}.jpg")


def start(photos: Path, out: Path) -> subprocess.Popen:
    words = ["predict", str(photos), f"out={out}", f"outputs={out.parent}", "model=random", "model.map_size=16"]
    words += ["quiet=true", "device=cpu", "threshold=0.5"]
    return subprocess.Popen(
        [sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_at(running: subprocess.Popen, path: Path, wanted: int) -> int:
    """Kill it once the file has so many lines; returns how many it had."""
    while running.poll() is None and lines(path) < wanted:
        time.sleep(0.05)
    if running.poll() is not None:
        sys.exit(f"it ended (exit code {running.returncode}) before {path.name} had {wanted} lines")
    running.send_signal(signal.SIGKILL)
    running.wait()
    return lines(path)


def rows(out: Path) -> list[list[str]]:
    """The table without the milliseconds, which differ from run to run."""
    with (out / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        return [row[:-1] for row in csv.reader(file)]


def compare(whole: Path, killed: Path, count: int) -> None:
    expected, found = rows(whole), rows(killed)
    names = Counter(row[0] for row in found[1:])
    print(f"{len(found) - 1} rows for {count} photos, {sum(n - 1 for n in names.values())} of them twice")
    print(f"the same CSV as the uninterrupted run: {found == expected}")
    scored = lines(killed / "kept/scores.jsonl")
    print(f"scores kept: {scored}; maps: {len(list((killed / 'maps').iterdir()))}")
    files = [sorted(p.relative_to(o) for p in o.rglob("*") if p.is_file()) for o in (whole, killed)]
    print(f"the same files: {files[0] == files[1]} ({len(files[0])})")
    alike = all((whole / p).read_bytes() == (killed / p).read_bytes() for p in files[0] if p.parts[0] != "kept"
                and p.suffix in (".tiff", ".jpg"))  # fmt: skip
    print(f"maps, overlays and thumbnails equal to the bit: {alike}")
    if found != expected or files[0] != files[1] or not alike or scored != count:
        sys.exit("FAILED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    count = parser.parse_args().photos
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_photos(place / "photos", count)
        started = time.monotonic()
        if start(place / "photos", place / "whole").wait():
            sys.exit("the uninterrupted run failed")
        print(f"uninterrupted: {time.monotonic() - started:.0f} s", flush=True)
        for name, share in KILLS:
            running = start(place / "photos", place / "killed")
            had = kill_at(running, place / "killed/kept" / name, int(share * count))
            print(f"killed with {had} of {count} lines in {name}", flush=True)
        started = time.monotonic()
        if start(place / "photos", place / "killed").wait():
            sys.exit("the resumed run failed")
        print(f"resumed and finished: {time.monotonic() - started:.0f} s")
        compare(place / "whole", place / "killed", count)


if __name__ == "__main__":
    main()
