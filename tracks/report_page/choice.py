"""Which images a report shows of a category: the worst misses, the worst false alarms, and the clearest finds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.errors import TrackInputError
from tracks.report_page.html import percent, significant
from tracks.run.store import Row

VERDICTS: Mapping[tuple[int | None, str | None], tuple[str, str]] = {
    (1, GOOD): ("missed", "bad"),
    (1, DEFECT): ("found", "good"),
    (1, UNDECIDED): ("undecided", ""),
    (0, DEFECT): ("false alarm", "bad"),
    (0, GOOD): ("no alarm", "good"),
    (0, UNDECIDED): ("undecided", ""),
}
"""What the verdict of a threshold means by the label of an image, and the style of that word."""


@dataclass(frozen=True)
class Choice:
    """How many images to show of each category.

    Raises:
        TrackInputError: for anything but whole numbers from 0 on.
    """

    misses: int = 3
    false_alarms: int = 3
    hits: int = 2

    def __post_init__(self) -> None:
        for key, count in vars(self).items():
            if not isinstance(count, int) or count < 0:
                raise TrackInputError(f"expected {key} as a number of images from 0 on, got {count}")


@dataclass(frozen=True)
class Pick:
    """An image to show: why it was chosen, the verdict of the run's own threshold (None without one), whether its score
    reaches the threshold of F1-max (None without one), and the share of its defect pixels that the pixels' threshold
    finds (None without a mask).
    """

    row: Row
    why: str
    verdict: str | None
    above_f1_max: bool | None
    pixel_recall: float | None

    @property
    def tag(self) -> tuple[str, str] | None:
        """What the verdict of the run's own threshold means, and the style of that word; None if it means nothing."""
        return VERDICTS.get((self.row.label, self.verdict))

    @property
    def facts(self) -> str:
        """The rest of its caption."""
        said = [self.why, f"image score {significant(self.row.image_score)}"]
        if self.above_f1_max is not None and self.row.label is not None:
            verdict = DEFECT if self.above_f1_max else GOOD
            said.append(f"by the F1-max threshold {VERDICTS[self.row.label, verdict][0]}")
        if self.pixel_recall is not None:
            said.append(f"{percent(self.pixel_recall)}\u00a0% of its defect pixels found")
        return " · ".join(said)


@dataclass(frozen=True)
class Picks:
    """The images of a category, worst first (hits: best first); `unlabelled` ones only where nothing is labelled."""

    misses: Sequence[Pick]
    false_alarms: Sequence[Pick]
    hits: Sequence[Pick]
    unlabelled: Sequence[Pick]


def choose(
    rows: Sequence[Row], recall: Mapping[str, float], threshold: float | None, choice: Choice,
    verdicts: Mapping[str, str] = MappingProxyType({}),
) -> Picks:  # fmt: skip
    """The images to show: misses taken in turn from the lowest image scores and from the lowest pixel recalls, false
    alarms from the highest image scores of normal images, hits from those of anomalous ones that are no misses. Ties go
    by name.

    By the name of an image, `recall` is that of its pixels and `verdicts` what the run's own threshold says of it;
    `threshold` is that of F1-max.
    """

    def pick(ranked: tuple[Row, str]) -> Pick:
        row, why = ranked
        above = None if threshold is None else row.image_score >= threshold
        return Pick(row, why, verdicts.get(row.name), above, recall.get(row.name))

    anomalous = [row for row in rows if row.label == 1]
    by_score = sorted(anomalous, key=lambda row: (row.image_score, row.name))
    by_recall = sorted((row for row in anomalous if row.name in recall), key=lambda row: (recall[row.name], row.name))
    in_turn = _in_turn(_numbered(by_score, "lowest image score"), _numbered(by_recall, "lowest pixel recall"))
    missed = in_turn[: choice.misses]
    shown = {row.name for row, _ in missed}
    alarms = _numbered(_highest(row for row in rows if row.label == 0), "highest score of a normal image")
    hits = _numbered(_highest(row for row in anomalous if row.name not in shown), "highest score of an anomalous image")
    nothing_known = all(row.label is None for row in rows)
    unknown = _numbered(_highest(rows), "highest image score") if nothing_known else []
    return Picks(
        [pick(ranked) for ranked in missed],
        [pick(ranked) for ranked in alarms[: choice.false_alarms]],
        [pick(ranked) for ranked in hits[: choice.hits]],
        [pick(ranked) for ranked in unknown[: choice.misses + choice.false_alarms]],
    )


def _highest(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.image_score, row.name))


def _numbered(rows: Sequence[Row], what: str) -> list[tuple[Row, str]]:
    """Each row with its rank: "lowest image score", "2nd lowest image score"."""
    return [(row, what if rank == 1 else f"{_ordinal(rank)} {what}") for rank, row in enumerate(rows, start=1)]


def _in_turn(first: Sequence[tuple[Row, str]], second: Sequence[tuple[Row, str]]) -> list[tuple[Row, str]]:
    """One of each in turn, an image of both only where it comes up first."""
    taken: dict[str, tuple[Row, str]] = {}
    for rank in range(max(len(first), len(second))):
        for ranking in (first, second):
            if rank < len(ranking):
                taken.setdefault(ranking[rank][0].name, ranking[rank])
    return list(taken.values())


def _ordinal(rank: int) -> str:
    ending = "th" if 11 <= rank % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"
