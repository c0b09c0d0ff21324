"""What Ctrl-C does while a command (`python -m tracks.zero_shot`) still imports its parts: one sentence, code 2."""

import os
import signal
import sys
from typing import Any

INTERRUPTED = "interrupted; what is done is kept, the same command continues from here"


def end_while_importing() -> None:
    """Let Ctrl-C end the process with one sentence where Python is about to run a module with -m, and is not yet."""
    starting = sys.argv[:1] == ["-m"]  # what stands there until the module has been found; a notebook never has it
    if starting and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def begun() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: whoever calls this catches it."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_at_once(*_: Any) -> None:
    """End the process with one sentence and code 2: a handler of signals."""
    os.write(2, f"error: {INTERRUPTED}\n".encode())
    os._exit(2)
