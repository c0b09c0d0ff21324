"""The auxiliary data set: whether it may be trained on, what is held out of it, what is learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import closest_name
from tracks.command.names import unknown
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError
from train.adapters.config import TrainOptions

KNOWN_TARGETS = ("synthetic", "mvtec", "visa", "mtd", "ksdd2")
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Course:
    """What is learnt from and what is validated on: no category is in both."""

    trained_on: str
    target: str
    learnt: list[str]
    samples: list[Sample]
    held_out: list[str]
    validation_samples: list[Sample]


def plan_course(dataset: Dataset, options: TrainOptions) -> Course:
    """Choose categories and samples as the options say.

    Raises:
        TrackInputError: as the functions below.
    """
    target = refuse_own_data(dataset, options.target, options.allow_same_dataset)
    for name in options.categories:
        if name not in dataset.categories:
            raise unknown("category", name, dataset.categories)
    chosen = [name for name in dataset.categories if not options.categories or name in options.categories]
    learnt, held_out = hold_out(
        chosen, names=options.validation_categories, share=options.validation_share, seed=options.seed
    )
    return Course(
        trained_on=identity(dataset),
        target=target,
        learnt=learnt,
        samples=labelled_samples(dataset, learnt),
        held_out=held_out,
        validation_samples=labelled_samples(dataset, held_out),
    )


def identity(dataset: Dataset) -> str:
    """What the header calls the data: the data set's name, with the split where it has more than one ("a:b")."""
    if dataset.name != SYNTHETIC:
        return dataset.name
    return f"{SYNTHETIC}:{dataset.protocol['split']}"


def refuse_own_data(dataset: Dataset, target: str | None, allow_same_dataset: bool) -> str:
    """Refuse to make weights for a data set out of that data set; returns the name of the target.

    `target` is a name, or for the synthetic data "synthetic" (its target split) or "synthetic:<split>". None is
    understood where the data is synthetic: its target split.

    Raises:
        TrackInputError: no target is named, or it is the data set trained on and that was not allowed.
    """
    own = identity(dataset)
    if target is None and dataset.name == SYNTHETIC:
        target = SYNTHETIC
    if target is None:
        raise TrackInputError(
            f"expected target to name the data set that the weights are for, got none; with data {own} say for "
            f"example target={'visa' if dataset.name == 'mvtec' else 'mvtec'}, so that nothing is tested on what it "
            "was trained on"
        )
    _refuse_misspelt(target.lower())
    wanted = f"{SYNTHETIC}:target" if target.lower() == SYNTHETIC else target.lower()
    if wanted == own.lower() and not allow_same_dataset:
        raise TrackInputError(
            f"expected other data to train on than the target's own, got {own} for both; every number measured there "
            "would be flattered. Train on another data set, or say allow_same_dataset=true (the weights' header will "
            "name what they were trained on)"
        )
    return target


def hold_out(
    categories: Sequence[str], *, names: Sequence[str], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Divide categories into those trained on and those validated on; in the order given, none in both.

    Either by `names`, or a `share` of them drawn by `seed` (rounded, at least one if the share is not 0).

    Raises:
        TrackInputError: an unknown name, both ways at once, a share outside [0, 1), or nothing left to train on.
    """
    for name in names:
        if name not in categories:
            raise unknown("validation category", name, categories)
    if names and share:
        raise TrackInputError(
            f"expected validation_categories or validation_share, got both ({', '.join(names)}; {share:g}); drop one"
        )
    if not 0 <= share < 1:
        raise TrackInputError(f"expected validation_share from 0 up to less than 1, got {share:g}")
    held = set(names)
    if share:
        count = max(1, round(share * len(categories)))
        held = set(np.random.default_rng(seed).permutation(np.array(categories))[:count].tolist())
    learnt = [name for name in categories if name not in held]
    if not learnt:
        raise TrackInputError(
            f"expected a category left to train on, got all {len(categories)} held out ({', '.join(categories)}); "
            "hold out fewer"
        )
    return learnt, [name for name in categories if name in held]


def labelled_samples(dataset: Dataset, categories: Sequence[str]) -> list[Sample]:
    """All test images of the categories: the only split with outlined defects.

    Raises:
        TrackInputError: a category without images, with an image of unknown label, without an anomalous image, or
            whose first anomalous image has no mask.
    """
    chosen: list[Sample] = []
    for category in categories:
        samples = list(dataset.test(category))
        _check_usable(samples, f"{category} of {identity(dataset)}")
        chosen += samples
    return chosen


def _check_usable(samples: Sequence[Sample], where: str) -> None:
    unlabelled = [sample.name for sample in samples if sample.label is None]
    if unlabelled:
        raise TrackInputError(
            f"expected every test image of {where} to be labelled, got {len(unlabelled)} without a label (the first: "
            f"{unlabelled[0]}); train on a data set with labels and masks"
        )
    anomalous = [sample for sample in samples if sample.label == 1]
    if not anomalous:
        raise TrackInputError(
            f"expected anomalous test images of {where}, got {len(samples)} images and none anomalous; the adapters "
            "learn from defects, so leave the category out with categories=[...]"
        )
    if anomalous[0].load_mask() is None:
        raise TrackInputError(
            f"expected masks for the anomalous test images of {where}, got none for {anomalous[0].name}; train on a "
            "data set with outlined defects"
        )


def _refuse_misspelt(target: str) -> None:
    name = target.partition(":")[0]
    near = closest_name(name, KNOWN_TARGETS, likeness=0.75)
    if name not in KNOWN_TARGETS and near:
        raise TrackInputError(
            f"expected target to be {', '.join(KNOWN_TARGETS)} or a name of your own, got {target!r}; did you mean "
            f"{near}?"
        )
