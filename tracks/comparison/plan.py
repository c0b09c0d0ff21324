"""Many runs as one plan: each is found where it was finished before, else run; what fails stops no other.

Every run is a track's own command in a process of its own, so that a crash or a full memory ends that run alone, and
the same plan resumes after a kill. A lock for each run keeps two plans from making it twice.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.base import FEW_SHOT, ZERO_SHOT
from models.disk import alone
from tracks.command.cli import EXIT_BAD_INPUT
from tracks.command.paths import folder_name
from tracks.comparison.finished import FinishedRun
from tracks.run.fingerprint import ROOT, settings_digest


@dataclass(frozen=True)
class PlannedRun:
    """A run of a track: `words` are the settings as its command takes them, but for the paths.

    Its folder is `out`, or one below `outputs` that the track names itself; `root` is that of the data, None where the
    words say it.
    """

    name: str
    model: str
    shots: int
    seed: int
    words: tuple[str, ...]
    outputs: Path
    out: Path | None = None
    root: Path | None = None

    @property
    def file_name(self) -> str:
        """What its log and its lock are called."""
        digest = settings_digest({"words": self.words})
        return folder_name(self.out.name if self.out else f"{self.model}-{self.shots}shot-seed{self.seed}-{digest}")


@dataclass(frozen=True)
class Outcome:
    """What became of a planned run: `finished`, or `error` in words; `crashed` where that is a fault of the program."""

    run: PlannedRun
    finished: FinishedRun | None = None
    found: bool = False
    error: str | None = None
    crashed: bool = False


Find = Callable[[PlannedRun], FinishedRun | None]
"""Where a planned run is finished already, that one."""


def setting_of(shots: int) -> str:
    """As the papers call it: zero-shot, 1-shot, 2-shot, ..."""
    return f"{shots}-shot" if shots else ZERO_SHOT


def track_of(shots: int) -> str:
    """What a model's `serves` calls it."""
    return FEW_SHOT if shots else ZERO_SHOT


def as_words(value: Any, key: str = "") -> list[str]:
    """A nested mapping as Hydra takes it on the command line: {weights: {backbone: {x: 1}}} as weights.backbone.x=1."""
    if isinstance(value, Mapping):
        return [word for name, inner in value.items() for word in as_words(inner, f"{key}.{name}" if key else name)]
    return [f"{key}={json.dumps(value, ensure_ascii=False)}"]


def run_all(plan: Sequence[PlannedRun], find: Find, logs: Path) -> Iterator[Outcome]:
    """Run one after the other what `find` does not find, each with a log of its own; a line for each is printed.

    What was refused is not asked again for another seed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    refused: dict[tuple[str, ...], str] = {}
    began, made = time.perf_counter(), 0
    for number, run in enumerate(plan, 1):
        place, kind = counted(number, len(plan)), tuple(word for word in run.words if not word.startswith("seed="))
        started = time.perf_counter()
        reason = refused.get(kind)
        outcome = Outcome(run, error=reason) if reason else find_or_run(run, find, logs, place)
        if outcome.error and not outcome.crashed:
            refused[kind] = outcome.error
        now = time.perf_counter()
        made += not outcome.found and not reason
        left = time_left(now - began, made, len(plan) - number)
        print(f"{place} {run.name}: {_told(outcome, now - started)}{left}", flush=True)
        yield outcome


def find_or_run(run: PlannedRun, find: Find, logs: Path, place: str = "") -> Outcome:
    """One run of a plan, found or made; waits where another command is at it."""
    log = logs / f"{run.file_name}.log"
    with alone(logs / f"{run.file_name}.lock", f"the run of {run.name}"):
        if there := find(run):
            return Outcome(run, there, found=True)
        print(f"{place} {run.name}: running; see {log}", flush=True)
        if code := _run_child(run, log):
            return _failed(run, code, log)
        if made := find(run):
            return Outcome(run, made)
        return Outcome(run, error=f"expected the results of the run, found none (all it said: {log})", crashed=True)


def counted(number: int, total: int) -> str:
    """[ 2/12], or [2] where the total is 0: not known."""
    return f"[{number:{len(str(total))}}/{total}]" if total else f"[{number}]"


def time_left(seconds: float, made: int, left: int) -> str:
    """What stands at the end of a line about the runs that are left, were they all to be made at the pace so far."""
    return f"; about {duration(seconds / made * left)} left" if made and left > 0 else ""


def duration(seconds: float) -> str:
    """Rounded to what an estimate is worth."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"


def score_line(score: float | None) -> str:
    """A track score in percent, in words."""
    return "no track score" if score is None else f"track score {100 * score:.1f}"


def _told(outcome: Outcome, seconds: float) -> str:
    if outcome.finished is None:
        return f"no result: {outcome.error}"
    how = "found" if outcome.found else f"{seconds:.0f} s"
    return f"{score_line(outcome.finished.results.get('score'))} ({how})"


def _run_child(run: PlannedRun, log: Path) -> int:
    """Exit code of the track's command, which locks its folder itself; its progress is also shown on a terminal."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    words = list(run.words)
    for key, path in (("out", run.out), ("outputs", run.outputs), ("data.root", run.root)):
        if path is not None:  # as a variable: whatever characters it has
            variable = f"VANDKIT_PLAN_{key.replace('.', '_').upper()}"
            environment[variable] = str(path)
            words.append(f"{key}=${{oc.env:{variable}}}")
    command = [sys.executable, "-m", f"tracks.{'few_shot' if run.shots else 'zero_shot'}", *words]
    with log.open("wb", buffering=0) as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, env=environment, bufsize=0)
        assert child.stderr is not None
        try:
            while said := child.stderr.read(4096):
                file.write(said)
                if sys.stderr.isatty():
                    sys.stderr.write(said.decode(errors="replace"))
                    sys.stderr.flush()
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def _failed(run: PlannedRun, code: int, log: Path) -> Outcome:
    """The paragraph that the command ended with, or how it ended without one."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    if code == EXIT_BAD_INPUT and (said := re.findall(r"^error: (.+)$", text, re.MULTILINE)):
        return Outcome(run, error=said[-1])
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (most often: not enough memory)" if name == "SIGKILL" else ""
        return Outcome(run, error=f"the process was ended by {name}{hint}; see {log}", crashed=True)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing was printed")
    return Outcome(run, error=f"exit code {code}: {last.strip()} (all of it: {log})", crashed=True)
