"""The finished runs that a submission is made of, and what they have in common."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row

SAME = ("model", "weights", "weights_digest", "shots", "seed")
"""Settings that runs of one method share."""


@dataclass(frozen=True)
class StoredImage:
    """One image of a run; `place` is where it goes in a submission."""

    store: PredictionStore
    row: Row
    place: str


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


def placed(stores: Iterable[PredictionStore], place: Callable[[Row], str]) -> list[StoredImage]:
    """Every image of every run with its place.

    Raises:
        TrackInputError: as `finished_rows`, or two images with one place.
    """
    by_place: dict[str, StoredImage] = {}
    for store, row in finished_rows(stores):
        image = StoredImage(store, row, place(row))
        other = by_place.setdefault(image.place, image)
        if other is not image:
            raise TrackInputError(
                f"expected one image for {image.place}, got {other.row.category}/{other.row.name} of "
                f"{other.store.folder} and {row.category}/{row.name} of {store.folder}; submit one of them"
            )
    return list(by_place.values())


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
