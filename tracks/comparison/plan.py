"""The cells of `make compare`: one model, one number of shots, one seed, each a run of a track in its own process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.base import FEW_SHOT, ZERO_SHOT
from models.disk import alone, write_atomically
from models.weights.catalogue import catalogue
from tracks.command.cli import EXIT_BAD_INPUT
from tracks.run.cost import read_cost
from tracks.run.fingerprint import ROOT, settings_digest

SCORING = ("eval/*.py", "tracks/run/scoring.py")
OUTPUTS = "VANDKIT_COMPARE_OUTPUTS"
CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Cell:
    """What is run: `overrides` are the words of the track's command, `folder` is named after all that decides it."""

    model: str
    shots: int
    seed: int
    overrides: tuple[str, ...]
    folder: Path

    @property
    def setting(self) -> str:
        """As the papers call it."""
        return setting_of(self.shots)

    @property
    def name(self) -> str:
        """In words, for a line of the log."""
        return f"{self.setting} {self.model}" + (f" seed {self.seed}" if self.shots else "")

    @property
    def module(self) -> str:
        """The track's entry point."""
        return "tracks.few_shot" if self.shots else "tracks.zero_shot"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `results` of its run, or `error` in words; `crashed` where that is a fault of the program.

    `cost` is `tracks.run.cost.read_cost`; `references` are names by category; `found`: it had been finished before.
    """

    cell: Cell
    results: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None
    references: Mapping[str, Sequence[str]] | None = None
    found: bool = False
    error: str | None = None
    crashed: bool = False


def setting_of(shots: int) -> str:
    """zero-shot, 1-shot, 2-shot, ..."""
    return f"{shots}-shot" if shots else ZERO_SHOT


def track_of(shots: int) -> str:
    """What a model's `serves` calls it."""
    return FEW_SHOT if shots else ZERO_SHOT


def weight_stamps(config: Any) -> dict[str, list[int] | None]:
    """Size and time of change of every weight file that a plain configuration names; None for one that is not here."""
    entries, stamps = catalogue(), {}
    for text in _texts(config):
        path = entries[text].path if text in entries else Path(text)
        if text in entries or (path.suffix and path.is_file()):
            stamps[text] = [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
    return stamps


def run_all(cells: Sequence[Cell], logs: Path) -> Iterator[Outcome]:
    """Run the cells one after the other, a line for each; a model that refused these shots is not asked again."""
    refused: dict[tuple[str, int], str] = {}
    for number, cell in enumerate(cells, 1):
        started = time.perf_counter()
        reason = refused.get((cell.model, cell.shots))
        outcome = Outcome(cell, error=reason) if reason else run_cell(cell, logs)
        if outcome.error and not outcome.crashed:
            refused[cell.model, cell.shots] = outcome.error
        print(f"[{number:{len(str(len(cells)))}}/{len(cells)}] {line_of(outcome, started)}", flush=True)
        yield outcome


def line_of(outcome: Outcome, started: float) -> str:
    """What became of a cell, in one line."""
    if outcome.results is None:
        return f"{outcome.cell.name}: no result: {outcome.error}"
    score = outcome.results["score"]
    shown = "no track score" if score is None else f"track score {100 * score:.1f}"
    return f"{outcome.cell.name}: {shown} ({'found' if outcome.found else f'{time.perf_counter() - started:.0f} s'})"


def run_cell(cell: Cell, logs: Path) -> Outcome:
    """Run a cell in a process of its own, unless it was finished before; waits where another command is at it."""
    logs.mkdir(parents=True, exist_ok=True)
    with alone(logs / f"{cell.folder.name}.lock", f"the run of {cell.name}"):
        if (earlier := _finished(cell)) is not None:
            return earlier
        log = logs / f"{cell.folder.name}.log"
        code = _run_child(cell, log)
        if code:
            return _failed(cell, code, log)
        write_atomically(cell.folder / CELL_FILE, json.dumps(_mark(cell)).encode())
    outcome = _read(cell, found=False)
    assert outcome is not None
    return outcome


def _run_child(cell: Cell, log: Path) -> int:
    """Exit code of the track's command, which locks its folder itself, should this process die before it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    place = {"OUT": str(cell.folder), OUTPUTS: str(cell.folder.parent)}
    environment = {**os.environ, **place, "PYTHONPATH": os.pathsep.join(paths)}
    where = ("out=${oc.env:OUT}", f"outputs=${{oc.env:{OUTPUTS}}}")
    with log.open("wb") as file:
        command = [sys.executable, "-m", cell.module, *cell.overrides, *where]
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def _finished(cell: Cell) -> Outcome | None:
    """The outcome of a cell whose mark says that it was finished, and scored as it would be now."""
    path = cell.folder / CELL_FILE
    try:
        done = path.is_file() and json.loads(path.read_text()) == _mark(cell)
    except ValueError:
        return None
    return _read(cell, found=True) if done else None


def _mark(cell: Cell) -> dict[str, Any]:
    return {"overrides": list(cell.overrides), "scoring": _scoring_digest()}


@cache
def _scoring_digest() -> str:
    files = [path for each in SCORING for path in sorted(ROOT.glob(each))]
    return settings_digest({str(path): path.read_text(encoding="utf-8") for path in files})


def _read(cell: Cell, found: bool) -> Outcome | None:
    try:
        results = json.loads((cell.folder / "results.json").read_text())
        references = json.loads((cell.folder / "run.json").read_text())["references"]
    except (OSError, ValueError, KeyError):
        return None
    return Outcome(cell, results, read_cost(cell.folder), references, found)


def _failed(cell: Cell, code: int, log: Path) -> Outcome:
    """The paragraph that the command ended with, or how it ended without one."""
    text = log.read_text(errors="replace")
    if code == EXIT_BAD_INPUT and (said := re.findall(r"^error: (.+)$", text, re.MULTILINE)):
        return Outcome(cell, error=said[-1])
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (most often: not enough memory)" if name == "SIGKILL" else ""
        return Outcome(cell, error=f"the process was ended by {name}{hint}; see {log}", crashed=True)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing was printed")
    return Outcome(cell, error=f"exit code {code}: {last.strip()} (all of it: {log})", crashed=True)


def _texts(node: Any) -> Iterator[str]:
    """Every string below a plain container."""
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ():
        yield from _texts(child)
