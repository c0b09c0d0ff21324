"""Entry point of `make compare-runs A=... B=...`: which of two runs is better, from their stores alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from eval.category import CategoryScores
from eval.uncertainty.bootstrap import RESAMPLED, Resampled, mean_over
from eval.uncertainty.paired import Difference, adjust, compare
from models.disk import write_atomically
from tracks.command.cli import command, run_main
from tracks.command.given_runs import open_run
from tracks.command.names import unknown
from tracks.comparison.pairing import RUN_KEYS, Pairs, check_same_masks, differing_settings, pair_rows
from tracks.comparison.run_tables import footer, header, tables
from tracks.errors import TrackInputError
from tracks.run.scoring import resample_rows, scorer_of
from tracks.run.store import PredictionStore, Row

HEADLINE = ("auroc_cls", "f1_cls", "auroc_seg", "f1_seg", "pro_seg", "f1_harmonic")
_LONGEST_NAME = 100


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
    scored = {category: _score_pair(a, b, category, rows, options) for category, rows in bar}
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
    a: PredictionStore, b: PredictionStore, category: str, pairs: Pairs, options: CompareOptions
) -> ScoredPair:
    check_same_masks(a, b, pairs)
    of_a = _score(a, category, [row for row, _ in pairs], options)
    of_b = _score(b, category, [row for _, row in pairs], options)
    return ScoredPair((of_a[0], of_b[0]), (of_a[1], of_b[1]))


def _score(
    store: PredictionStore, category: str, rows: Sequence[Row], options: CompareOptions
) -> tuple[CategoryScores, Resampled]:
    scorer = scorer_of(rows, category, store, options.image_score, options.workers)
    draws = resample_rows(scorer, rows, category, store, options.image_score, options.bootstrap, options.seed)
    return scorer.compute(), draws


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


def compare_configured(cfg: DictConfig) -> dict[str, Any]:
    """Compare, print and write, with the settings of conf/compare_runs.yaml."""
    metrics = list(cfg.metrics)
    for metric in metrics:
        if metric not in RESAMPLED:
            raise unknown("metric", metric, RESAMPLED)
    a, b = _open_runs(cfg.a, cfg.b)
    options = CompareOptions(**{key: cfg[key] for key in CompareOptions.__dataclass_fields__})
    results = compare_stores(a, b, options)
    folder = Path(cfg.out).expanduser() if cfg.out else _default_folder(a, b)
    folder.mkdir(parents=True, exist_ok=True)
    print(header(results) + "\n" + tables(results, metrics or HEADLINE, details=bool(metrics)) + "\n" + footer(results))
    everything = [metric for metric in RESAMPLED if results["mean"][metric]]
    text = "\n".join((header(results), tables(results, everything, details=True), footer(results)))
    write_atomically(folder / "compare.md", text)
    write_atomically(folder / "compare.json", (json.dumps(results, indent=2) + "\n").encode())
    print(f"files: {folder}: compare.md (every metric), compare.json")
    return results


def _open_runs(a: str | None, b: str | None) -> tuple[PredictionStore, PredictionStore]:
    if not a or not b:
        raise TrackInputError(
            f"expected two finished runs to compare, got A={a or ''} and B={b or ''}; name both folders, for example "
            "`make compare-runs A=outputs/zero_shot/latest B=outputs/few_shot/latest`"
        )
    stores = open_run(a, "A"), open_run(b, "B")
    if stores[0].folder.resolve() == stores[1].folder.resolve():
        raise TrackInputError(f"expected two different runs, got {stores[0].folder.resolve()} twice; name another as B")
    return stores


def _default_folder(a: PredictionStore, b: PredictionStore) -> Path:
    names = [store.folder.resolve().name[-_LONGEST_NAME:] for store in (a, b)]
    return Path("outputs") / "compare" / "__".join(names)


@command("compare_runs")
def main(cfg: DictConfig) -> None:
    """Compare two runs."""
    compare_configured(cfg)


if __name__ == "__main__":
    run_main(main)
