"""What all benchmarks share: the machine that they ran on, the memory and time of a process, the file of results."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "scipy", "numba", "torch", "scikit-learn", "torchmetrics", "anomalib", "ADEval")
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MAXRSS_PER_MB = 2**20 if sys.platform == "darwin" else 2**10


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
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def write_results(out: Path | None, found: Mapping[str, Any]) -> None:
    """Write the machine and what was found to a JSON file, if one is named."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(), **found}, indent=1, default=str) + "\n")


def reset_peak() -> float:
    """Forget the peak of `peak_mb`, so that it is what is held now where the system can forget; in MB.

    A system that keeps it makes the growth above it smaller, down to 0: measure in a fresh process.
    """
    if FORGET.exists():
        FORGET.write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """The peak resident memory of this process in MB (2**20 bytes), on Linux since `reset_peak`."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MAXRSS_PER_MB


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    exit_code: int
    seconds: float
    processor_seconds: float
    peak_memory_mb: float


def run_measured(command: Sequence[str], **options: Any) -> Cost:
    """Run a command in a process of its own, from the root of the repository; `options` as for `subprocess.Popen`.

    A process counts the memory of the one that started it as its own peak: a small one stands between.
    """
    reading, writing = os.pipe()
    between = [sys.executable, "-S", "-c", _BETWEEN, str(writing), *command]
    process = subprocess.Popen(between, cwd=ROOT, pass_fds=[writing], **options)
    os.close(writing)
    with os.fdopen(reading) as told:
        found = told.read()
    process.wait()
    return Cost(*json.loads(found))


_BETWEEN = f"""
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
cost = [process.returncode, time.perf_counter() - began, usage.ru_utime + usage.ru_stime]
os.write(int(sys.argv[1]), json.dumps([*cost, usage.ru_maxrss / {_MAXRSS_PER_MB}]).encode())
"""
