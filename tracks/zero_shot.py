"""Entry point of the zero-shot track: `python -m tracks.zero_shot data=mtd data.root=...`."""

from typing import Any

from omegaconf import DictConfig

from tracks.command.cli import command, run_main
from tracks.errors import TrackInputError
from tracks.run.track import run_track
from tracks.sweep import as_job


@command("zero_shot")
@as_job
def main(cfg: DictConfig) -> dict[str, Any]:
    """Run the track and print its table."""
    if cfg.shots != 0:
        raise TrackInputError(
            f"expected shots=0 on the zero-shot track, got {cfg.shots}; for references run `make few-shot "
            f"SHOTS={cfg.shots}`"
        )
    return run_track(cfg, "zero_shot")


if __name__ == "__main__":
    run_main(main)
