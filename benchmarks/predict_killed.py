"""`predict` on thousands of photos, killed (-9) again and again: nothing lost, nothing twice, the same CSV and maps.

    python -m benchmarks.predict_killed --photos 10000
    python -m benchmarks.predict_killed --photos 600 --workers 10

The model is `random`, whose score depends on a photo's pixels alone: what is tried is the keeping, not a model. The
command is killed twice while photos are scored and once while overlays are drawn, and started again. With `--workers`
so many kills more, at random moments, are of the processes in which Ray decodes and predicts (`engine=ray`).
"""

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import psutil

from benchmarks.machine import ROOT

SIDE = 64
KILLS = (("scores.jsonl", 0.3), ("scores.jsonl", 0.7), ("drawn.jsonl", 0.5))
"""In which file of kept/ so large a share of the photos stands when the command is killed."""
WORKER = "ray::MapWorker(MapBatches(_Predictor))"
"""What Ray calls the processes that decode and predict, while they do."""


def make_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for number in range(count):
        PIL.Image.fromarray(drawn.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{number:05d}.jpg")


def start(photos: Path, out: Path, engine: str = "local") -> psutil.Popen:
    words = ["predict", str(photos), f"out={out}", f"outputs={out.parent}", "model=random", "model.map_size=16"]
    words += ["quiet=true", "device=cpu", "threshold=0.5", f"engine={engine}"]
    return psutil.Popen(
        [sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_for(running: psutil.Popen, path: Path, wanted: int) -> int:
    """Wait until the file has so many lines; returns how many it has."""
    while running.poll() is None and lines(path) < wanted:
        time.sleep(0.05)
    if running.poll() is not None:
        sys.exit(f"it ended (exit code {running.returncode}) before {path.name} had {wanted} lines")
    return lines(path)


def end(running: psutil.Popen) -> None:
    """Kill a command, and what it started, which without it would end a little later."""
    below = running.children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.wait()
    for process in below:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def kill_workers(running: psutil.Popen, path: Path, moments: list[int]) -> None:
    """Kill a worker of Ray, whichever, each time that the file has as many lines as a moment says."""
    for moment in moments:
        had = wait_for(running, path, moment)
        while not (found := workers(running)):
            time.sleep(0.05)
        chosen, title = random.choice(found)
        chosen.kill()
        print(f"killed {title} with {had} photos scored", flush=True)


def workers(running: psutil.Popen) -> list[tuple[psutil.Process, str]]:
    """Processes in which Ray decodes or predicts just now."""
    found = []
    for process in running.children(recursive=True):
        try:
            title = " ".join(process.cmdline()).strip()
        except psutil.Error:
            continue  # it has just ended
        if title.startswith(WORKER):
            found.append((process, title))
    return found


def rows(out: Path) -> list[list[str]]:
    """The table without the milliseconds, which differ from run to run."""
    with (out / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        return [row[:-1] for row in csv.reader(file)]


def compare(whole: Path, killed: Path, count: int) -> None:
    expected, found = rows(whole), rows(killed)
    names = Counter(row[0] for row in found[1:])
    twice = sum(number - 1 for number in names.values())
    print(f"{len(found) - 1} rows for {count} photos, {count - len(names)} missing, {twice} twice")
    print(f"the same CSV as the uninterrupted run of one process: {found == expected}")
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
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    count, engine = given.photos, "ray" if given.workers else "local"
    random.seed(given.seed)
    moments = sorted(random.sample(range(1, int(count * 0.95)), given.workers))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_photos(place / "photos", count)
        started = time.monotonic()
        if start(place / "photos", place / "whole").wait():
            sys.exit("the uninterrupted run failed")
        print(f"uninterrupted: {time.monotonic() - started:.0f} s", flush=True)
        before = 0
        for name, share in KILLS:
            wanted = int(share * count)
            running = start(place / "photos", place / "killed", engine)
            scored = wanted if name == "scores.jsonl" else count
            due = [moment for moment in moments if before < moment <= scored]
            kill_workers(running, place / "killed/kept/scores.jsonl", due)
            before = scored
            had = wait_for(running, place / "killed/kept" / name, wanted)
            end(running)
            print(f"killed the command with {had} of {count} lines in {name}", flush=True)
        started = time.monotonic()
        if start(place / "photos", place / "killed", engine).wait():
            sys.exit("the resumed run failed")
        print(f"resumed and finished: {time.monotonic() - started:.0f} s")
        compare(place / "whole", place / "killed", count)


if __name__ == "__main__":
    main()
