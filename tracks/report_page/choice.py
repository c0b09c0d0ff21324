"""Which images a report shows of a category: the worst misses and the worst false alarms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tracks.errors import TrackInputError
from tracks.run.store import Row


@dataclass(frozen=True)
class Choice:
    """How many images to show of each category.

    Raises:
        TrackInputError: for anything but whole numbers from 0 on.
    """

    misses: int = 3
    false_alarms: int = 3

    def __post_init__(self) -> None:
        for key, count in (("misses", self.misses), ("false_alarms", self.false_alarms)):
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


@dataclass(frozen=True)
class Picks:
    """The images of a category, worst first; `unlabelled` ones only where nothing is labelled."""

    misses: Sequence[Pick]
    false_alarms: Sequence[Pick]
    unlabelled: Sequence[Pick]


def choose(
    rows: Sequence[Row], recall: Mapping[str, float], threshold: float | None, choice: Choice,
    verdicts: Mapping[str, str] = MappingProxyType({}),
) -> Picks:  # fmt: skip
    """The images to show: misses taken in turn from the lowest image scores and from the lowest pixel recalls, false
    alarms from the highest image scores of normal images. Ties go by name.

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
    misses = _in_turn(_numbered(by_score, "lowest image score"), _numbered(by_recall, "lowest pixel recall"))
    alarms = _numbered(_highest(row for row in rows if row.label == 0), "highest score of a normal image")
    nothing_known = all(row.label is None for row in rows)
    unknown = _numbered(_highest(rows), "highest image score") if nothing_known else []
    return Picks(
        [pick(ranked) for ranked in misses[: choice.misses]],
        [pick(ranked) for ranked in alarms[: choice.false_alarms]],
        [pick(ranked) for ranked in unknown[: choice.misses + choice.false_alarms]],
    )


def _highest(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.image_score, row.name))


def _numbered(rows: Sequence[Row], what: str) -> list[tuple[Row, str]]:
    """Each row with its place: "lowest image score", "2nd lowest image score"."""
    return [(row, what if place == 1 else f"{_ordinal(place)} {what}") for place, row in enumerate(rows, start=1)]


def _in_turn(first: Sequence[tuple[Row, str]], second: Sequence[tuple[Row, str]]) -> list[tuple[Row, str]]:
    """One of each in turn, an image of both only where it comes up first."""
    taken: dict[str, tuple[Row, str]] = {}
    for place in range(max(len(first), len(second))):
        for ranking in (first, second):
            if place < len(ranking):
                taken.setdefault(ranking[place][0].name, ranking[place])
    return list(taken.values())


def _ordinal(place: int) -> str:
    ending = "th" if 11 <= place % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
