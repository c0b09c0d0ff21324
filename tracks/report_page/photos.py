"""The photos behind the predictions: found by name in the data set, if it is still where the run found it."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import PIL.Image

from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError
from tracks.run.store import Row


class Photos:
    """Finds the photo of a row; `remarks` says which were not found, and why."""

    def __init__(self, dataset: Dataset | None, why_none: str = "") -> None:
        self.dataset = dataset
        self.why_none = why_none
        self._missing: dict[str, list[str]] = {}
        self._samples = lru_cache(maxsize=1)(self._list)

    def find(self, row: Row) -> PIL.Image.Image | None:
        """The photo in RGB, None where it cannot be had or has changed since it was predicted."""
        if self.dataset is None:
            return None
        try:
            sample = self._samples(row.category).get(row.name)
            if sample is not None and sample.fingerprint == row.fingerprint:
                return sample.load_image()
            self._lack("no longer in the data set" if sample is None else "changed since they were predicted")
        except (TrackInputError, OSError) as error:
            self._lack("not readable", str(error))
        return None

    @property
    def remarks(self) -> list[str]:
        """Sentences about the photos that are not shown."""
        if self.dataset is None:
            return [f"The photos are not shown, only maps and masks: {self.why_none}."]
        return [f"{len(told)} of the photos to show: {what}{_first(told)}." for what, told in self._missing.items()]

    def _list(self, category: str) -> Mapping[str, Sample]:
        assert self.dataset is not None
        return {sample.name: sample for sample in self.dataset.test(category)}

    def _lack(self, what: str, detail: str = "") -> None:
        self._missing.setdefault(what, []).append(detail)


def _first(details: Sequence[str]) -> str:
    return f" (the first: {details[0]})" if details[0] else ""
