"""Images that are copies of others, to the byte: references of one another, judged images of references."""

import logging
from collections.abc import Sequence
from typing import TypeVar

from tracks.datasets.files import FileSample
from tracks.datasets.sample import Sample
from tracks.run.references import content_sha256

AnySample = TypeVar("AnySample", bound=Sample)

log = logging.getLogger(__name__)


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
    known = {_digest(sample): sample for sample in references}
    sizes = {_size(sample) for sample in references}
    copies = [sample for sample in judged if _size(sample) in sizes and _digest(sample) in known]
    if copies:
        log.warning(
            "of %d images to judge %d are references too (the first: %s is %s): their scores say nothing about others",
            len(judged), len(copies), copies[0].name, known[_digest(copies[0])].name,
        )  # fmt: skip


def _digest(sample: Sample) -> str:
    """Of a file's content; the name of an image that is no file, or that cannot be read, which others complain of."""
    try:
        return content_sha256(sample) if isinstance(sample, FileSample) else sample.name
    except OSError:
        return sample.name


def _size(sample: Sample) -> int | None:
    """Bytes of the image's file; None for an image that is no file."""
    return sample.path.stat().st_size if isinstance(sample, FileSample) and sample.path.is_file() else None
