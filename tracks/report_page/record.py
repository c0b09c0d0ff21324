"""What a run says of itself: run.json and, if it came to its end, results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tracks.errors import TrackInputError
from tracks.run.scoring import LEGACY_IMAGE_SCORE, RULES
from tracks.run.store import PredictionStore

TRACKS = {"zero_shot": "Zero-shot", "few_shot": "Few-shot"}
ABSENT = "not recorded in results.json"
EACH = "the whole command, loading and scoring included, by all images; too short if it continued an earlier one"

Interval = tuple[float, float]


@dataclass(frozen=True)
class RunRecord:
    """The settings of a run, its results ({} if it never got that far) and its folder's name."""

    settings: Mapping[str, Any]
    results: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def title(self) -> str:
        """A line that says what was run."""
        shots = int(self.settings.get("shots") or 0)
        track = TRACKS.get(str(self["track"]), str(self["track"]))
        with_shots = f", {shots} shot{'s' if shots > 1 else ''}" if shots else ""
        return f"{track}{with_shots}: {self['model']} on {self['data']}"

    def __getitem__(self, key: str) -> Any:
        """A setting, "not stated" where the run does not say."""
        return self.settings.get(key, "not stated")

    @cached_property
    def protocol(self) -> Mapping[str, Any]:
        """The label of the page's numbers: what the run and its results say, and how the page scored the store."""
        return {**self._stated["run.json"], **self._stated["results.json"], **RULES}

    @cached_property
    def otherwise(self) -> Mapping[str, Sequence[str]]:
        """For keys of the protocol of which run.json or results.json says something else: what it says."""
        return {
            key: [f"{file} says: {said[key]}" for file, said in self._stated.items() if said.get(key, value) != value]
            for key, value in self.protocol.items()
        }

    @property
    def _stated(self) -> Mapping[str, Mapping[str, Any]]:
        return {"run.json": self.settings.get("protocol") or {}, "results.json": self.results.get("protocol") or {}}

    def interval(self, metric: str, category: str | None = None) -> Interval | None:
        """Low and high end of a metric of a category, or of the mean over them (None); None where none is kept.

        `categories.<name>.intervals` and `mean_intervals` of results.json hold [low, high] or null by metric id.
        """
        kept = self.results if category is None else (self.results.get("categories") or {}).get(category, {})
        ends = (kept.get("mean_intervals" if category is None else "intervals") or {}).get(metric)
        return None if ends is None else (float(ends[0]), float(ends[1]))

    @property
    def what_intervals_are(self) -> str:
        """Words for a table's caption; empty without intervals."""
        if not any(scores.get("intervals") for scores in (self.results.get("categories") or {}).values()):
            return ""
        level = self.results.get("interval_level")
        return ", with confidence intervals" if level is None else f", with {100 * level:g} % confidence intervals"

    @property
    def cost(self) -> dict[str, str]:
        """Time per image, whole time and peak memory, in words with their units, or that they were not recorded."""
        seconds, images, memory = (self.results.get(key) for key in ("seconds", "images", "peak_memory_mb"))
        return {
            "time per image": f"{1000 * seconds / images:,.1f} ms ({EACH})" if seconds and images else ABSENT,
            "whole command": f"{seconds:,.1f} s" if seconds else ABSENT,
            "images": ABSENT if images is None else f"{images:,}",
            "peak memory": ABSENT if memory is None else f"{memory:,.0f} MB",
        }

    @property
    def image_score(self) -> str:
        """Which score ranked the images of the results: "model", or "legacy_minmax"."""
        return "legacy_minmax" if self.protocol.get("image_score") == LEGACY_IMAGE_SCORE else "model"

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before comparing the numbers with others."""
        found = []
        setting = self.protocol.get("setting", "not stated")
        if setting != "inductive":
            found.append(f"The setting is {setting}: an image's score may depend on the other test images.")
        trained_on = str(self.protocol.get("adapter_trained_on", "")).split(", ")
        split = self.protocol.get("split")
        own = {str(self["data"]), f"{self['data']}:{split}"} if split else {str(self["data"])}
        if own & set(trained_on):
            found.append("The weights were trained on the data they are scored on: these are no zero-shot numbers.")
        if not self.results:
            found.append("The run has no results.json: it was cut short, or its numbers were written elsewhere.")
        return found


def read_record(store: PredictionStore) -> RunRecord:
    """The record of a run folder.

    Raises:
        TrackInputError: results.json is there but is no JSON.
    """
    path = store.folder / "results.json"
    results: dict[str, Any] = {}
    if path.is_file():
        try:
            results = json.loads(path.read_text())
        except ValueError as error:
            raise TrackInputError(f"expected JSON in {path}, got {error}; write it again with make score") from error
    return RunRecord(store.settings, results, store.folder.resolve().name)


def unlike(found: Mapping[str, Any], made: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Which numbers of results.json differ from those scored anew, as "category metric: there x, here y"."""
    differences = []
    for name, metrics in made.items():
        there = (found.get("categories") or {}).get(name)
        if there is None:
            differences.append(f"{name}: not in results.json")
            continue
        for metric, value in metrics.items():
            other = there.get(metric, value)  # an older file may know fewer metrics
            same = value is other if value is None or other is None else abs(value - other) <= 1e-6
            if not same:
                differences.append(f"{name} {metric}: {other} in results.json, {value} here")
    return differences
