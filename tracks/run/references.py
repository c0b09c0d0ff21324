"""Which K normal images of a category are handed out: drawn by seed, or read from a list; and copies among them."""

import hashlib
import logging
import random
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tracks.datasets.files import FileSample
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError
from tracks.run.reference_lists import content_sha256, from_list

AnySample = TypeVar("AnySample", bound=Sample)

log = logging.getLogger(__name__)

BY_NAME, SHUFFLED, SLICES = "by_name", "shuffled", "slices"
DRAWS = (BY_NAME, SHUFFLED, SLICES)
"""How references are drawn by seed where no list names them: by the digest of names, as SubspaceAD's code, as
AnomalyDINO's."""


def resolve(
    dataset: Dataset, category: str, shots: int, seed: int, manifest: str | Path | None = None, run: int = 0
) -> list[Sample]:
    """The references of one category: a draw by `seed`, or what `manifest` lists; none if `shots` is 0.

    `manifest` may be a JSON file of ours, a `selected_samples_per_run.txt` (of which `run` picks a line), a plain
    list of image paths, or a folder with such a list at `<category>/` or `<category>/train/good/`. From a JSON file
    or a plain list the first `shots` images are taken.

    Raises:
        TrackInputError: shots that are no number from 0 on or more than there are normal images, an unreadable
            list, too short a one, or one that names an image twice, unknown or changed since.
    """
    _check_shots(shots)
    if shots == 0:
        return []
    samples = dataset.train(category)
    if manifest is None:
        return choose(samples, shots, seed, category)
    _check_enough(samples, shots, category)
    return from_list(Path(manifest), dataset, category, samples, shots, run)


def choose(samples: Sequence[Sample], shots: int, seed: int, category: str) -> list[Sample]:
    """Draw K of the samples without replacement: the first K in an order that depends on seed, category and names.

    The order is that of SHA-256 over the three. So the draw of K is part of the draw of K + 1, is the same on every
    platform and with every NumPy, and does not depend on the order of the files or on what else is run.

    Raises:
        TrackInputError: shots that are no number from 0 on, or more than there are samples.
    """
    _check_shots(shots)
    _check_enough(samples, shots, category)

    def order(sample: Sample) -> tuple[bytes, str]:
        text = f"{seed}\n{category}\n{sample.name}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), sample.name

    return sorted(samples, key=order)[:shots]


def choose_shuffled(dataset: Dataset, shots: int, seed: int) -> dict[str, list[Sample]]:
    """K of the samples of each category as SubspaceAD's code draws them (CLendering/SubspaceAD at 2ca687e, main.py).

    Its generator is seeded once for a run, and shuffles the files of one category after the other in the order of their
    names: which ones a category gets depends on how many images those before it have, so on which categories are run.

    Raises:
        TrackInputError: shots that are no number from 0 on, or more than a category has samples.
    """
    _check_shots(shots)
    generator, chosen = random.Random(seed), {}
    for category in sorted(dataset.categories):
        samples = sorted(dataset.train(category), key=_file_name)
        _check_enough(samples, shots, category)
        generator.shuffle(samples)
        chosen[category] = samples[:shots]
    return chosen


def choose_slice(dataset: Dataset, category: str, shots: int, seed: int) -> list[Sample]:
    """The seed-th K of a category's samples in the order of their names, as AnomalyDINO's code takes them.

    Raises:
        TrackInputError: shots that are no number from 0 on; fewer samples than (seed + 1) K.
    """
    _check_shots(shots)
    samples, needed = dataset.train(category), (seed + 1) * shots
    if seed < 0 or needed > len(samples):
        raise TrackInputError(
            f"expected a seed from 0 on and at least {needed} normal images of {category} for draw={SLICES} with seed "
            f"{seed} and {shots} shots, got {len(samples)}; choose another seed or fewer shots"
        )
    return sorted(samples, key=_file_name)[seed * shots : (seed + 1) * shots]


def distinct(references: Sequence[AnySample]) -> list[AnySample]:
    """The references without copies of ones before them; warns of those."""
    first: dict[str, AnySample] = {}
    copies = [sample for sample in references if first.setdefault(_digest(sample), sample) is not sample]
    if copies:
        log.warning(
            "of %d references %d tell nothing new: they are copies of others (the first: %s of %s)",
            len(references), len(copies), copies[0].name, first[_digest(copies[0])].name,
        )  # fmt: skip
    return list(first.values())


def warn_of_judged_references(references: Sequence[Sample], judged: Sequence[Sample]) -> None:
    """Say which images to be judged are copies of references: any model finds those normal."""
    if not references:
        return
    known = {_digest(sample): sample for sample in references}
    sizes = {_size(sample) for sample in references}
    copies = [sample for sample in judged if _size(sample) in sizes and _digest(sample) in known]
    if copies:
        log.warning(
            "of %d images to judge %d are references too (the first: %s is %s): their scores say nothing about others",
            len(judged), len(copies), copies[0].name, known[_digest(copies[0])].name,
        )  # fmt: skip


def _file_name(sample: Sample) -> str:
    return PurePosixPath(sample.name).name


def _check_shots(shots: object) -> None:
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 0:
        raise TrackInputError(f"expected shots to be a whole number from 0 on, got {shots!r}")


def _check_enough(samples: Sequence[Sample], shots: int, category: str) -> None:
    if shots > len(samples):
        raise TrackInputError(
            f"expected at least {shots} normal images of {category} to draw {shots} references from, "
            f"got {len(samples)}; ask for fewer shots or add normal images"
        )


def _digest(sample: Sample) -> str:
    """Of a file's content; the name of an image that is no file, or that cannot be read, which others complain of."""
    try:
        return content_sha256(sample) if isinstance(sample, FileSample) else sample.name
    except OSError:
        return sample.name


def _size(sample: Sample) -> int | None:
    """Bytes of the image's file; None for an image that is no file."""
    return sample.path.stat().st_size if isinstance(sample, FileSample) and sample.path.is_file() else None
