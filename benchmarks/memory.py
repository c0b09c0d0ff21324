"""Is memory flat? Runs a track over 100 and over 1,000 rendered images and compares the peaks.

python -m benchmarks.memory [SHOTS [SETTING ...]], as in 0 model=musc weights.backbone.image_size=64 model.subsets=10

Peaks count pages of files that the system may take back, such as those of `model.memory_mb=0`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import run_measured


def peak_of(images: int, shots: int, words: list[str]) -> float:
    """Peak resident memory in MB of one run over a single category, which is printed with its seconds."""
    track = "few_shot" if shots else "zero_shot"
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"shots={shots}", "categories=[plaster]", f"data.test_normal={images // 2}",
            f"data.test_per_kind={images // 2 // 6 + 1}", f"outputs={folder}", *words,
        ]  # fmt: skip
        cost = run_measured([sys.executable, "-m", f"tracks.{track}", *settings], stdout=subprocess.DEVNULL)
        if cost.exit_code:
            sys.exit(f"error: tracks.{track} ended with exit code {cost.exit_code}; its error stands above")
        scored = json.loads((Path(folder) / track / "latest" / "results.json").read_text())["images"]
    print(f"{scored} images: peak {cost.peak_memory_mb:.0f} MB, {cost.seconds:.1f} s")
    return cost.peak_memory_mb


def main() -> None:
    """Print both peaks and their ratio."""
    shots = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    small, large = (peak_of(images, shots, sys.argv[2:]) for images in (100, 1000))
    print(f"ratio of the peaks: {large / small:.3f}")


if __name__ == "__main__":
    main()
