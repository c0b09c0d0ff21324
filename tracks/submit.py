"""Entry point of `make submission RUN=... ARGS="format=..."`: a run's store as a challenge submission, validated."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tracks.command.cli import EXIT_BAD_INPUT, command, run_main
from tracks.command.given_runs import none_named, run_folders
from tracks.command.names import unknown
from tracks.run.store import PredictionStore
from tracks.submission import csig, kaputt2, mvtec_ad2, vand2023
from tracks.submission.archive import beside, replace_submission
from tracks.submission.base import Problem, Submission

SHOWN_PROBLEMS = 20
FORMATS: Mapping[str, tuple[Callable[..., Any], Callable[..., Submission]]] = {
    "vand2023": (vand2023.Options, vand2023.Submission),
    "mvtec_ad2": (mvtec_ad2.Options, mvtec_ad2.Submission),
    "kaputt2": (kaputt2.Options, kaputt2.Submission),
    "csig": (csig.Options, csig.Submission),
}
"""The options of each format, and what makes a submission of the stores of runs and of these options."""


def submit(submission: Submission, out: Path) -> list[Problem]:
    """Write a submission to `out` and its archive beside it, read that back; returns what is wrong with it."""
    notes: list[str] = []
    archive = replace_submission(
        out, submission.record, lambda folder: notes.extend(submission.write(folder)), submission.suffix
    )
    problems = submission.check(archive)
    for key, value in submission.record.items():
        for name, entry in value.items() if isinstance(value, Mapping) else [("", value)]:
            print(f"{key}{' of ' * bool(name)}{name}: {entry}")
    for note in notes:
        print(f"note: {note}")
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"problem, {problem}", file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"... and {len(problems) - SHOWN_PROBLEMS} more", file=sys.stderr)
    files = sum(path.is_file() for path in out.rglob("*"))
    print(f"read back: {files:,} files written, {len(problems) or 'no'} problems")
    print(f"files: {out}, {archive} ({archive.stat().st_size / 1e6:.2f} MB), {beside(out, '.json')}")
    return problems


def submit_configured(cfg: DictConfig) -> list[Problem]:
    """`submit` with the settings of conf/submit.yaml: those of vand2023 at its top, of any other below its name."""
    if cfg.format not in FORMATS:
        raise unknown("format", cfg.format, FORMATS)
    folders = run_folders(cfg.run)
    if not folders:
        raise none_named()
    options, submission = FORMATS[cfg.format]
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    chosen = settings.get(cfg.format) or {option.name: settings[option.name] for option in fields(vand2023.Options)}
    stores = [PredictionStore(folder) for folder in folders]
    out = Path(cfg.out or f"outputs/submission/{cfg.format}").expanduser()
    return submit(submission(stores, options(**chosen)), out)


@command("submit")
def main(cfg: DictConfig) -> None:
    """Write, read back and print; exit code 2 if anything is wrong with the result."""
    if submit_configured(cfg):
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    run_main(main)
