"""From the values of a model to a fixed range, for formats that want one."""

from typing import Protocol

import numpy as np

from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row

RANGE_REMEDY = "set ARGS='map_range=[low,high]' to what its maps reach or, transductive, ARGS=normalise=category_minmax"


class Stored(Protocol):
    """A row of a store that goes into a submission."""

    @property
    def store(self) -> PredictionStore:
        """The run it is from."""

    @property
    def row(self) -> Row:
        """What the run knows of it."""


def fixed_range(store: PredictionStore, map_range: tuple[float, float] | None) -> tuple[float, float]:
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


def scale(values: np.ndarray, bounds: tuple[float, float], entry: Stored, what: str) -> np.ndarray:
    """Values with `bounds`, low and high, brought to 0 and 1; all 0 where the two are equal.

    Raises:
        TrackInputError: a value that is not finite; says `what` of which image.
    """
    low, high = bounds
    check_finite(values, entry, what)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def check_finite(values: np.ndarray, entry: Stored, what: str) -> None:
    """Refuse NaN and infinity with a TrackInputError that says `what` of which image."""
    if not np.isfinite(values).all():
        raise TrackInputError(
            f"expected a finite {what} of {entry.row.category}/{entry.row.name} in {entry.store.folder}, got NaN or "
            "infinity; run the track again"
        )
