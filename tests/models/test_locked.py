"""The lock that keeps two processes from one folder."""

import subprocess
import sys
import time
from pathlib import Path

from models.locked import alone

ROOT = Path(__file__).resolve().parents[2]
ANOTHER = """
import sys, pathlib, time
from models.locked import alone
lock, trace = map(pathlib.Path, sys.argv[1:])
with alone(lock, "the test"):
    with trace.open("a") as file:
        file.write("in "); file.flush(); time.sleep(0.1); file.write("out ")
"""


def test_processes_take_turns_say_so_and_leave_no_file(tmp_path):
    lock, trace = tmp_path / "folder" / ".lock", tmp_path / "trace"
    command = [sys.executable, "-c", ANOTHER, str(lock), str(trace)]
    with alone(lock, "the test"):
        others = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [other.stderr.readline() for other in others]
        assert not trace.exists()
    for other in others:
        other.communicate(timeout=30)
    assert all("another process is at the test; waiting" in line for line in said)
    assert trace.read_text() == "in out " * 3
    assert not lock.exists()


def test_a_process_that_died_holds_nothing(tmp_path):
    lock = tmp_path / ".lock"
    held = (
        "import sys, os, pathlib; from models.locked import alone\n"
        "with alone(pathlib.Path(sys.argv[1]), 'x'):\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", held, str(lock)], cwd=ROOT)
    started = time.monotonic()
    with alone(lock, "the test"):
        assert time.monotonic() - started < 5
