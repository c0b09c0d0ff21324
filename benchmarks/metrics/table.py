"""The rows of a comparison as a Markdown table, and what they were measured on."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.metrics.implementations import COLUMNS
from eval.table_text import markdown_table

PACKAGES = ("numpy", "scipy", "numba", "torch", "scikit-learn", "torchmetrics", "anomalib", "ADEval")


LEGEND = (
    "Each row in a process of its own, its libraries on one thread. Seconds: median of up to 5 runs after a tiny one, "
    "in brackets by part. Extra MB: the peak of the first run above what the process held with the category loaded."
)


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A pipe table: seconds (in brackets by part), memory above the maps, values to six digits; or what went wrong."""
    header = ["implementation", "computes", "seconds", "extra MB", *COLUMNS.values()]
    return markdown_table(header, map(_cells, rows), left=(0, 1))


def _cells(row: Mapping[str, Any]) -> list[str]:
    about = [row["name"], row["computes"]]
    if "error" in row:
        return [*about, row["error"], "", *[""] * len(COLUMNS)]
    values = (row["values"].get(metric) for metric in COLUMNS)
    shown = ("" if value is None else f"{value:.6f}" for value in values)
    return [*about, _seconds(row["seconds"]), f"{row['extra_mb']:.0f}", *shown]


def _seconds(parts: Mapping[str, float]) -> str:
    total = f"{sum(parts.values()):.3g}"
    if len(parts) == 1:
        return total
    return f"{total} ({', '.join(f'{name} {seconds:.3g}' for name, seconds in parts.items())})"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, versions and commit."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": bool(_git("status", "--porcelain")),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
