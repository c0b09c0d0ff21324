"""WinCLIP and PatchCore beside anomalib's: seconds of each stage, memory, and how far their outputs agree.

    python -m benchmarks.baselines [--winclip 0 4] [--patchcore 4 16 40] [--threads 1] [--out FILE.json]

Both sides have the published architecture (ViT-B-16-plus-240, WideResNet50) with the same random weights and see the
same random pictures, each side in a process of its own. Times are the least of the repeats. Words and bank are those
of one side for both when outputs are compared, since anomalib's templates and its coreset, which starts at random and
measures distances by a random projection, are others. Random weights detect nothing: what is compared is the
arithmetic and its cost. anomalib is an extra (`.venv/bin/pip install -e '.[peers]'`); without it the table says so.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines_sides import SIDES
from benchmarks.machine import machine
from eval.table_text import markdown_table

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"words": "words", "references": "references", "coreset": "coreset", "images": "an image"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
AGREEMENT = {"scores": "image scores", "patches": "distances of patches", "maps": "maps"}


def compare(method: str, shots: int, settings: Mapping[str, Any], limit: float, only: str) -> dict[str, Any]:
    """Every side of a method with K references: what was measured, and how far each agrees with the first."""
    case = {**settings, "method": method, "shots": shots}
    with tempfile.TemporaryDirectory() as folder:
        sides = [name for place, name in enumerate(SIDES[method]) if place == 0 or only in name]
        rows = {name: _run(name, Path(folder), case, limit) for name in sides}
        for name in sides[1:]:
            if "error" not in rows[name]:
                rows[name]["agreement"] = dict(_agreement(Path(folder), sides[0], name))
    return rows


def _run(name: str, folder: Path, case: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """One side in a process of its own; or `error`."""
    if "anomalib" in name and not importlib.util.find_spec("anomalib"):
        return {"error": "not installed"}
    print(f"{case['method']}, {case['shots']} references: {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.baselines_sides", name, str(folder), json.dumps(case)]
    threads = dict.fromkeys(THREADS, str(case["threads"]))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **threads}, timeout=limit, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _agreement(folder: Path, first: str, name: str) -> Iterator[tuple[str, Any]]:
    """By output, the largest difference from the first side's, and the range of the first's values."""
    one, other = (torch.load(folder / f"{side}.pt") for side in (first, name))
    for key in one:
        if key == "radius":
            yield key, {"first": float(one[key]), "other": float(other[key])}
        elif one[key].shape == other[key].shape:
            yield key, {"difference": _most(one[key] - other[key]), "range": float(one[key].max() - one[key].min())}


def _most(difference: Tensor) -> float:
    return float(difference.abs().max())


def table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Seconds by stage of each side, and how many times those of our published set-up they are."""
    stages = [stage for stage in STAGES if any(stage in row.get("seconds", {}) for row in rows.values())]
    header = ["", *(f"{STAGES[stage]}, s" for stage in stages), "extra MB"]
    lines = []
    ours = rows.get("vandkit", {}).get("seconds", {})
    for name, row in rows.items():
        if "error" in row:
            lines.append([name, row["error"], *[""] * len(stages)])
            continue
        cells = [_cell(row["seconds"][stage], ours.get(stage), name == "vandkit") for stage in stages]
        lines.append([name, *cells, f"{row['extra_mb']:.0f}"])
    return markdown_table(header, lines)


def _cell(seconds: float, ours: float | None, is_ours: bool) -> str:
    return f"{seconds:.3g}" if is_ours or not ours else f"{seconds:.3g} (x {seconds / ours:.2f})"


def sentences(rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """How far each side agrees with the first."""
    first = next(iter(rows))
    for name, row in rows.items():
        found = row.get("agreement", {})
        parts = [
            f"{what} differ by up to {found[key]['difference']:.1e} (they range over {found[key]['range']:.1e})"
            for key, what in AGREEMENT.items()
            if key in found
        ]
        if "text" in found:
            parts.append(f"words of its own prompts by up to {found['text']['difference']:.1e}")
        if "radius" in found:
            radius = found["radius"]
            parts.append(f"farthest row from the bank {radius['other']:.4g}, there {radius['first']:.4g}")
        if parts:
            yield f"{name}, against {first}: {'; '.join(parts)}."


def main() -> None:
    """Print the tables and write the numbers."""
    settings = _settings()
    case = {
        name: getattr(settings, name)
        for name in ("images", "batch", "repeats", "threads", "device", "processor_time", "coreset", "clip", "seed")
    }
    result: dict[str, Any] = {"machine": machine(), "settings": case, "comparisons": []}
    time = "of the process" if settings.processor_time else "by the wall"
    print(
        f"{result['machine']['processor']}, {settings.threads} threads, time {time}, coreset {settings.coreset:g}",
        flush=True,
    )
    for method, several in (("winclip", settings.winclip), ("patchcore", settings.patchcore)):
        for shots in several:
            rows = compare(method, shots, case, settings.limit, settings.only)
            print(f"\n{method}, {shots} references\n\n{table(rows)}\n" + "\n".join(sentences(rows)), flush=True)
            result["comparisons"].append({"method": method, "references": shots, "sides": rows})
            if settings.out:
                settings.out.write_text(json.dumps(result, indent=1) + "\n")


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--winclip", type=int, nargs="*", default=[0, 4], metavar="K", help="references; 0: zero-shot")
    parser.add_argument("--patchcore", type=int, nargs="*", default=[4, 16, 40], metavar="K", help="references")
    parser.add_argument("--coreset", type=float, default=0.1, help="share of the patches that PatchCore keeps")
    parser.add_argument("--clip", default="ViT-B-16-plus-240", help="WinCLIP's, by open_clip's name")
    parser.add_argument("--images", type=int, default=4, help="to predict")
    parser.add_argument("--batch", type=int, default=4, help="images at a time")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processor-time", action="store_true", help="of this process; for 1 thread on a busy machine")
    parser.add_argument("--only", default="", help="part of the names of the sides to run beside the first")
    parser.add_argument("--limit", type=float, default=1200, help="most seconds for one side of one case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    settings = parser.parse_args()
    names = sorted({name for sides in SIDES.values() for name in sides})
    if not any(settings.only in name for name in names):
        parser.error(f"--only: expected part of one of the names {'; '.join(names)}; got {settings.only!r}")
    return settings


if __name__ == "__main__":
    main()
