"""Two runs over the same images: what keeps them from being compared, and the difference of every metric."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.category import CategoryScores
from eval.uncertainty.bootstrap import RESAMPLED, Resampled, mean_over
from eval.uncertainty.paired import Difference, adjust, compare
from tracks.command.names import listed
from tracks.errors import TrackInputError
from tracks.run.scoring import resample_rows, scorer_of
from tracks.run.store import PredictionStore, Row

RUN_KEYS = ("track", "model", "weights", "data", "shots", "seed")
DIGESTS = ("weights_digest", "code_digest", "device_name", "versions", "false_alarm_rate")
_SHOWN = 6

Pairs = list[tuple[Row, Row]]


@dataclass(frozen=True)
class CompareOptions:
    """How two runs are compared; the keys of conf/compare_runs.yaml of the same names say what each is."""

    common: bool = False
    bootstrap: int = 2000
    seed: int = 0
    level: float = 0.95
    image_score: str = "model"
    workers: int = 1


@dataclass(frozen=True)
class ScoredPair:
    """One category of both runs: exact metrics and draws, A's first."""

    scores: tuple[CategoryScores, CategoryScores]
    draws: tuple[Resampled, Resampled]

    def compare(self, metric: str, level: float) -> Difference | None:
        """The difference of one metric; None where a run does not have it."""
        a, b = (scores.metrics.get(metric) for scores in self.scores)
        return None if a is None or b is None else compare(metric, (a, b), self.draws, level)


def compare_stores(a: PredictionStore, b: PredictionStore, options: CompareOptions) -> dict[str, Any]:
    """The content of compare.json: both runs scored, every metric's difference by category and of the means.

    Raises:
        TrackInputError: the runs cannot be compared; see `pair_rows` and `check_same_masks`.
    """
    pairs, notes = pair_rows(a, b, options.common)
    bar = tqdm(pairs.items(), desc="compare", unit="category", leave=False)
    scored = {category: _score_pair((a, b), category, rows, options) for category, rows in bar}
    differences: dict[str, dict[str, Difference]] = {}
    for metric in RESAMPLED:
        found = {category: pair.compare(metric, options.level) for category, pair in scored.items()}
        differences[metric] = adjust({name: each for name, each in found.items() if each is not None}, options.level)
    means = [mean_over({category: pair.draws[run] for category, pair in scored.items()}) for run in (0, 1)]
    return {
        "a": _describe(a),
        "b": _describe(b),
        "differs": differing_settings(a, b),
        **{key: getattr(options, key) for key in ("bootstrap", "seed", "level", "image_score")},
        "notes": notes,
        "categories": {category: _row(pair, category, differences) for category, pair in scored.items()},
        "mean": {
            metric: _mean(metric, differences[metric], (means[0], means[1]), options.level) for metric in RESAMPLED
        },
    }


def _score_pair(
    stores: tuple[PredictionStore, PredictionStore], category: str, pairs: Pairs, options: CompareOptions
) -> ScoredPair:
    check_same_masks(*stores, pairs)
    scores, draws, rule = [], [], options.image_score
    for store, rows in zip(stores, zip(*pairs, strict=True), strict=True):
        scorer = scorer_of(rows, category, store, rule, options.workers)
        draws.append(resample_rows(scorer, rows, category, store, rule, options.bootstrap, options.seed))
        scores.append(scorer.compute())
    return ScoredPair((scores[0], scores[1]), (draws[0], draws[1]))


def _describe(store: PredictionStore) -> dict[str, Any]:
    known = {key: store.settings.get(key) for key in RUN_KEYS}
    return {"folder": str(store.folder), **known, "protocol": store.settings.get("protocol")}


def _row(pair: ScoredPair, category: str, differences: dict[str, dict[str, Difference]]) -> dict[str, Any]:
    """What compare.json says of one category."""
    found = {metric: by_category.get(category) for metric, by_category in differences.items()}
    why = {**pair.draws[1].reasons, **pair.draws[0].reasons, **pair.scores[1].reasons, **pair.scores[0].reasons}
    return {
        "images": pair.scores[0].num_images,
        "anomalous": pair.scores[0].num_anomalous,
        "metrics": {metric: asdict(each) if each else None for metric, each in found.items()},
        "blank_because": {metric: why[metric] for metric in RESAMPLED if metric in why},
    }


def _mean(
    metric: str, differences: dict[str, Difference], draws: tuple[Resampled, Resampled], level: float
) -> dict[str, Any] | None:
    """The difference of the means over the categories that have the metric."""
    if not differences:
        return None
    a, b = (math.fsum(getattr(each, run) for each in differences.values()) / len(differences) for run in "ab")
    return {**asdict(compare(metric, (a, b), draws, level)), "categories": len(differences)}


def pair_rows(a: PredictionStore, b: PredictionStore, common: bool = False) -> tuple[dict[str, Pairs], list[str]]:
    """The rows of both runs for each image, by category in the order of `a`, and notes on what was left out.

    With `common`, what only one run has is left out; without, it is an error.

    Raises:
        TrackInputError: the runs hold other images, have none in common, or disagree on an image's label, on whether
            its mask is known or on the size of its map.
    """
    notes = _differing("category", "categories", a.categories, b.categories, common)
    pairs: dict[str, Pairs] = {}
    for category in (name for name in a.categories if name in set(b.categories)):
        of_a, of_b = ({row.name: row for row in store.rows(category)} for store in (a, b))
        notes += _differing(f"image of {category}", f"images of {category}", list(of_a), list(of_b), common)
        both = [(row, of_b[name]) for name, row in of_a.items() if name in of_b]
        for one, other in both:
            _check_same_truth(one, other)
        if both:
            pairs[category] = both
    if not pairs:
        raise TrackInputError(
            f"expected two runs with images in common, got none in {a.folder} and {b.folder}; compare two runs on one "
            "data set"
        )
    return pairs, notes


def check_same_masks(a: PredictionStore, b: PredictionStore, pairs: Pairs) -> None:
    """Raise TrackInputError where the masks of the two runs differ."""
    for one, other in pairs:
        mask_a, mask_b = a.read_mask(one), b.read_mask(other)
        if mask_a is not None and mask_b is not None and not np.array_equal(mask_a, mask_b):
            pixels = f"{np.count_nonzero(mask_a)} and {np.count_nonzero(mask_b)}"
            raise TrackInputError(
                f"expected the same mask in both runs, got {pixels} defect pixels for {one.category}/{one.name}; the "
                "data or its mask rule changed between the runs: make both again from one copy of the data"
            )


def differing_settings(a: PredictionStore, b: PredictionStore) -> dict[str, list[Any]]:
    """What differs between two runs, [A's, B's] by key: what was run, with what and under which protocol."""
    of_a, of_b = (
        {**{key: store.settings.get(key) for key in (*RUN_KEYS, *DIGESTS)}, **(store.settings.get("protocol") or {})}
        for store in (a, b)
    )
    keys = [*of_a, *(key for key in of_b if key not in of_a)]
    return {key: [of_a.get(key), of_b.get(key)] for key in keys if of_a.get(key) != of_b.get(key)}


def _differing(kind: str, kinds: str, of_a: Sequence[str], of_b: Sequence[str], common: bool) -> list[str]:
    """A note on what only one run has; an error unless `common`."""
    only = {
        "A": [name for name in of_a if name not in set(of_b)],
        "B": [name for name in of_b if name not in set(of_a)],
    }
    if not any(only.values()):
        return []
    said = "; ".join(f"only {run}: {_first(names)}" for run, names in only.items() if names)
    if not common:
        raise TrackInputError(
            f"expected the same {kinds} in both runs, got {len(of_a)} in A and {len(of_b)} in B ({said}); finish the "
            "shorter run, or compare what both have with ARGS=common=true"
        )
    return [f"left out, as one run lacks each {kind}: {said}"]


def _first(names: list[str]) -> str:
    return listed(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _check_same_truth(a: Row, b: Row) -> None:
    where = f"{a.category}/{a.name}"
    if a.label != b.label:
        raise TrackInputError(
            f"expected the same label in both runs, got {a.label} and {b.label} for {where} (1 anomalous, 0 normal, "
            "None unknown); make both runs again from one copy of the data"
        )
    if (a.height, a.width) != (b.height, b.width):
        raise TrackInputError(
            f"expected maps of one size in both runs, got {a.height} x {a.width} and {b.height} x {b.width} pixels for "
            f"{where}; pixel metrics depend on it: run one of them again with resolution={b.height} or "
            f"resolution={a.height} (or both with resolution=native)"
        )
    if a.has_mask != b.has_mask:
        raise TrackInputError(
            f"expected both runs to know the same masks, got one without for {where}; run that one again with the masks"
        )
