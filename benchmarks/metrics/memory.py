"""The most memory this process has held, on Linux since it was last asked to forget, elsewhere since its start."""

import resource
import sys
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> float:
    """Forget the peak, so that it is what is held now where the system can forget; in MB.

    A system that keeps it makes the growth above it smaller, down to 0: measure in a fresh process.
    """
    if FORGET.exists():
        FORGET.write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """The peak resident memory in MB (2**20 bytes)."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
