"""Is memory flat? Runs the zero-shot track over 100 and over 1,000 rendered images and compares the peaks.

.venv/bin/python benchmarks/memory.py [SHOTS]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def peak_of(images: int, shots: int) -> tuple[float, float, int]:
    """(peak resident memory in MB, seconds, images scored) of one run over a single category."""
    track = "few_shot" if shots else "zero_shot"
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"shots={shots}", "categories=[plaster]", f"data.test_normal={images // 2}",
            f"data.test_per_kind={images // 2 // 6 + 1}", f"outputs={folder}",
        ]  # fmt: skip
        program = (
            "import resource, runpy, sys\n"
            f"sys.argv = ['{track}', *{settings!r}]\n"
            f"runpy.run_module('tracks.{track}', run_name='__main__')\n"
            "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
        scored = json.loads((Path(folder) / track / "latest" / "results.json").read_text())["images"]
    return float(done.stdout.rpartition("PEAK ")[2]), seconds, scored


def main() -> None:
    """Print both peaks and their ratio."""
    shots = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    peaks = []
    for images in (100, 1000):
        peak, seconds, scored = peak_of(images, shots)
        peaks.append(peak)
        print(f"{scored} images: peak {peak:.0f} MB, {seconds:.1f} s")
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
