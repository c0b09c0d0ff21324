"""Is memory flat? Runs a track over 100 and over 1,000 rendered images and compares the peaks.

python -m benchmarks.memory [SHOTS [SETTING ...]], as in 0 model=musc weights.backbone.image_size=64 model.subsets=10
python -m benchmarks.memory 0 images=1000,10000 model=subspace_ad_batch: over other numbers of images

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
    print(f"{scored} images: peak {cost.peak_memory_mb:.0f} MB, {cost.seconds:.1f} s", flush=True)
    return cost.peak_memory_mb


def main() -> None:
    """Print the peaks and the ratio of the last to the first."""
    shots = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    counts = next((word.removeprefix("images=") for word in sys.argv[2:] if word.startswith("images=")), "100,1000")
    words = [word for word in sys.argv[2:] if not word.startswith("images=")]
    peaks = [peak_of(int(count), shots, words) for count in counts.split(",")]
    print(f"ratio of the peaks: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
