"""Entry point of the few-shot track: `python -m tracks.few_shot shots=4 data=mvtec data.root=...`."""

from typing import Any

from omegaconf import DictConfig

from tracks.command.cli import command, run_main
from tracks.errors import TrackInputError
from tracks.run.track import run_track
from tracks.sweep import as_job


@command("few_shot")
@as_job
def main(cfg: DictConfig) -> dict[str, Any]:
    """Run the track and print its table."""
    if cfg.shots < 1:
        raise TrackInputError(
            f"expected shots >= 1 on the few-shot track, got {cfg.shots}; without references run `make zero-shot`"
        )
    return run_track(cfg, "few_shot")


if __name__ == "__main__":
    run_main(main)
