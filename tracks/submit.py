"""Entry point of `make submission RUN=... ARGS="format=..."`: a run's store as a challenge submission, validated."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from tracks.command.cli import EXIT_BAD_INPUT, command, run_main
from tracks.command.given_runs import none_named, run_folders
from tracks.command.names import unknown
from tracks.run.store import PredictionStore
from tracks.submission import csig, kaputt2, mvtec_ad2
from tracks.submission.archive import beside, replace_submission
from tracks.submission.contents import Problem
from tracks.submission.scaling import fixed_range
from tracks.submission.vand2023 import write_tree
from tracks.submission.vand2023_check import validate
from tracks.submission.vand2023_plan import FORMAT, Entry, Options, expected_stems, plan, remarks

SHOWN_PROBLEMS = 20


class Submission(Protocol):
    """What a format later than VAND 2023 makes of the runs; `record` says what was done to the numbers."""

    suffix: str

    @property
    def record(self) -> Mapping[str, Any]:
        """What was done to the numbers, for the reader of a result."""

    def write(self, folder: Path) -> list[str]:
        """Fill an empty folder; returns what the user should know, a sentence each."""

    def validate(self, archive: Path) -> list[Problem]:
        """Read the archive back; returns what is wrong with it."""


PREPARED: Mapping[str, Callable[[Sequence[PredictionStore], dict[str, Any]], Submission]] = {
    "mvtec_ad2": lambda stores, options: mvtec_ad2.Submission(stores, mvtec_ad2.Options(**options)),
    "kaputt2": lambda stores, options: kaputt2.Submission(stores, kaputt2.Options(**options)),
    "csig": lambda stores, options: csig.Submission(stores, csig.Options(**options)),
}
"""What makes a submission of runs and of the part of conf/submit.yaml that has the format's name."""
FORMATS = (FORMAT, *PREPARED)


def submit(runs: Sequence[Path], out: Path, options: Options, run_number: int | None = None) -> list[Problem]:
    """Write the images of all `runs` to `out` and `out`.zip, read the zip back; returns what is wrong with it."""
    stores = [PredictionStore(folder) for folder in runs]
    entries = plan(stores, options, run_number)
    fixed = options.normalise == "fixed"
    ranges = {str(store.folder.resolve()): fixed_range(store, options.map_range) if fixed else None for store in stores}
    record = {"map_range_of_run": ranges, **options.protocol}
    notes = remarks(entries)
    archive = replace_submission(
        out, record, lambda folder: notes.extend(write_tree(entries, folder, options).remarks())
    )
    problems = validate(archive, expected_stems(entries), options.map_size)
    for key, value in {**ranges, **options.protocol}.items():
        print(f"{key}: " + (value if isinstance(value, str) else f"maps from {value or 'their own range'}"))
    _report(entries, notes, problems)
    print(f"files: {out}, {archive} ({archive.stat().st_size / 1e6:.2f} MB), {beside(out, '.json')}")
    return problems


def _report(entries: Sequence[Entry], notes: Sequence[str], problems: Sequence[Problem]) -> None:
    """Print what was written and whether it reads back right."""
    for folder, stems in expected_stems(entries).items():
        print(f"{folder}: {len(stems)} images")
    _report_problems(notes, problems)
    print(f"read back: {2 * len(entries)} files expected, {len(problems) or 'no'} problems")


def _report_problems(notes: Sequence[str], problems: Sequence[Problem]) -> None:
    for note in notes:
        print(f"note: {note}")
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"problem, {problem}", file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"... and {len(problems) - SHOWN_PROBLEMS} more", file=sys.stderr)


def submit_prepared(submission: Submission, out: Path) -> list[Problem]:
    """Write a submission to `out` and its archive beside it, read that back; returns what is wrong with it."""
    notes: list[str] = []
    archive = replace_submission(
        out, submission.record, lambda folder: notes.extend(submission.write(folder)), submission.suffix
    )
    problems = submission.validate(archive)
    for key, value in submission.record.items():
        print(f"{key}: {value}")
    _report_problems(notes, problems)
    print(f"read back: {len(problems) or 'no'} problems")
    print(f"files: {out}, {archive} ({archive.stat().st_size / 1e6:.2f} MB), {beside(out, '.json')}")
    return problems


def submit_configured(cfg: DictConfig) -> list[Problem]:
    """`submit` with the settings of conf/submit.yaml."""
    if cfg.format not in FORMATS:
        raise unknown("format", cfg.format, FORMATS)
    folders = run_folders(cfg.run)
    if not folders:
        raise none_named()
    out = Path(cfg.out or f"outputs/submission/{cfg.format}").expanduser()
    if cfg.format in PREPARED:
        stores = [PredictionStore(folder) for folder in folders]
        settings = OmegaConf.to_container(cfg[cfg.format], resolve=True)
        return submit_prepared(PREPARED[cfg.format](stores, dict(settings)), out)  # type: ignore[arg-type]
    map_range = tuple(cfg.map_range) if cfg.map_range else None
    options = Options(cfg.map_size, cfg.level, cfg.normalise, map_range, cfg.image_scores)
    return submit(folders, out, options, cfg.run_number)


@command("submit")
def main(cfg: DictConfig) -> None:
    """Write, validate and print; exit code 2 if anything is wrong with the result."""
    if submit_configured(cfg):
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    run_main(main)
