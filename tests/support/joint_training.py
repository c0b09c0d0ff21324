"""Trainings of the stand-ins in as many processes as torchrun starts; each leaves its folder below the one named.

torchrun --standalone --nproc_per_node=2 -m tests.support.joint_training FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

import train.adapters.training
from tests.support.train_stand_ins import PROMPTS, FlatDataset, break_off, small_backbone
from tracks.errors import TrackInputError
from train.adapters.checkpoint import open_run
from train.adapters.config import TrainOptions
from train.adapters.heads import WordHead
from train.adapters.processes import Processes, joined
from train.adapters.record import describe
from train.adapters.source import plan_course
from train.adapters.training import AdapterTraining

# 16 images in batches of 5: the last batch of an epoch has one, so that the second process has none.
MOSAICS = TrainOptions(target="mvtec", epochs=3, batch_size=5, validation_categories=["tube"], aug_rate=0.5)
CASES = {
    "mosaics": MOSAICS,
    "cached": replace(MOSAICS, aug_rate=0.0, cache="always", keep_cache=True, max_cache_gb=1.0),
    "defects": replace(MOSAICS, aug_rate=0.0, cache="never", dice_on_normal=False, epochs=2),
    "continued": replace(MOSAICS, checkpoint_every=2),
}
BROKEN_OFF_AFTER = 7


def training(folder: Path, options: TrainOptions, processes: Processes) -> AdapterTraining:
    """One process's part in a training of the stand-ins."""
    backbone = small_backbone()
    course = plan_course(FlatDataset(), options)
    head = WordHead(backbone, PROMPTS, (*course.learnt, *course.held_out), options.seed)
    settings = describe(head, course, options)
    processes.first_then_others(lambda: open_run(folder, settings))
    return AdapterTraining(head, course, options, folder, processes)


def fail_in_the_first(folder: Path, processes: Processes) -> None:
    """Write down how each process leaves when the first one's part fails."""

    def task() -> None:
        raise TrackInputError("no room")

    try:
        processes.first_then_others(task)
    except (TrackInputError, SystemExit) as left:
        (folder / f"left_{processes.rank}.txt").write_text(repr(left))


def note_each_call(folder: Path, processes: Processes) -> None:
    """Write down which process did a task that returns nothing, as often as it did it."""

    def task() -> None:
        with (folder / "done.txt").open("a") as file:
            file.write(str(processes.rank))

    processes.first_then_others(task)


def main() -> None:
    """Every case, one after another."""
    folder = Path(sys.argv[1])
    train.adapters.training.draw_curves = lambda *_: None
    with joined("cpu") as processes:
        break_off(training(folder / "continued", CASES["continued"], processes), BROKEN_OFF_AFTER)
        for name, options in CASES.items():
            job = training(folder / name, options, processes)
            job.run()
            torch.save(job.adapter.state_dict(), folder / f"{name}_{processes.rank}.pt")
        note_each_call(folder, processes)
        fail_in_the_first(folder, processes)


if __name__ == "__main__":
    main()
