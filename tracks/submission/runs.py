"""The finished runs that a submission is made of: what they have in common, and their values on a fixed range."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row
from tracks.submission.base import Range

RANGE_REMEDY = "set ARGS='map_range=[low,high]' to what its maps reach or, transductive, ARGS=normalise=category_minmax"
SAME = ("model", "weights", "weights_digest", "shots", "seed")
"""Settings that runs of one method share."""


@dataclass(frozen=True)
class StoredImage:
    """One image of a run; `target` is where it goes in a submission."""

    store: PredictionStore
    row: Row
    target: str


def finished_rows(stores: Iterable[PredictionStore]) -> Iterator[tuple[PredictionStore, Row]]:
    """Every image of every run.

    Raises:
        TrackInputError: a run without results, a category without rows, a name that no archive can hold.
    """
    for store in stores:
        if not (store.folder / "results.json").is_file():
            raise TrackInputError(
                f"expected a finished run, got {store.folder} without results.json; run the same track command again, "
                "it continues with the missing images"
            )
        for category in store.categories:
            rows = store.rows(category)
            if not rows:
                raise TrackInputError(
                    f"expected predictions of {category} in {store.folder}, got none; run the track again"
                )
            for row in rows:
                _check_encodable(store, f"{row.category}/{row.name}")
                yield store, row


def _check_encodable(store: PredictionStore, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise TrackInputError(
            f"expected names in UTF-8 for a submission, got {name!a} in {store.folder}; rename the file (or its "
            "folder) and run the track again"
        ) from error


def stored_images(
    stores: Iterable[PredictionStore], target: Callable[[PredictionStore, Row], str],
    clash: Callable[[StoredImage, StoredImage], TrackInputError] | None = None,
) -> list[StoredImage]:  # fmt: skip
    """Every image of every run with its target; `clash` says in a format's own words that two have one target.

    Raises:
        TrackInputError: as `finished_rows`, or two images with one target.
    """
    by_target: dict[str, StoredImage] = {}
    for store, row in finished_rows(stores):
        image = StoredImage(store, row, target(store, row))
        other = by_target.setdefault(image.target, image)
        if other is not image:
            raise (clash or _one_target)(other, image)
    return list(by_target.values())


def _one_target(first: StoredImage, second: StoredImage) -> TrackInputError:
    given = " and ".join(f"{i.row.category}/{i.row.name} of {i.store.folder}" for i in (first, second))
    return TrackInputError(f"expected one image for {first.target}, got {given}; submit one of them")


def check_same_method(stores: Sequence[PredictionStore]) -> None:
    """Refuse runs of unlike models, weights, shots or seeds in one submission (TrackInputError)."""
    first = stores[0]
    for store in stores[1:]:
        unlike = [key for key in SAME if store.settings.get(key) != first.settings.get(key)]
        if unlike:
            raise TrackInputError(
                f"expected runs of one method in one submission, got {first.folder} and {store.folder}, which differ "
                f"in {', '.join(unlike)}; run one of them again with the settings of the other"
            )


def fixed_range(store: PredictionStore, map_range: Range | None) -> Range:
    """The map values that become 0 and 1 under normalise=fixed, whatever the test set: `map_range`, or the model's own.

    Raises:
        TrackInputError: neither the user nor the model state a range.
    """
    if map_range is not None:
        return map_range
    key = "few_shot_map_bound" if store.settings["shots"] else "map_bound"
    bound = store.settings["protocol"].get(key)
    if bound is None:
        raise TrackInputError(
            f"expected the model of {store.folder} to state the largest value of its maps ({key} in run.json), got "
            f"nothing; {RANGE_REMEDY}"
        )
    return 0.0, float(bound)


def scale(values: np.ndarray, bounds: Range, image: StoredImage, what: str) -> np.ndarray:
    """Values with `bounds`, low and high, brought to 0 and 1; all 0 where the two are equal.

    Raises:
        TrackInputError: a value that is not finite; says `what` of which image.
    """
    low, high = bounds
    check_finite(values, image, what)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def check_finite(values: np.ndarray, image: StoredImage, what: str) -> None:
    """Refuse NaN and infinity with a TrackInputError that says `what` of which image."""
    if not np.isfinite(values).all():
        raise TrackInputError(
            f"expected a finite {what} of {image.row.category}/{image.row.name} in {image.store.folder}, got NaN or "
            "infinity; run the track again"
        )
