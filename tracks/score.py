"""Entry point of `make score RUN=...`: score a run again from its store, with no model and no data set."""

import json
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from eval.tables import interval_table
from eval.uncertainty.bootstrap import mean_over
from tracks.command.cli import command, run_main
from tracks.command.given_runs import open_run
from tracks.command.names import unknown
from tracks.run.results import known_of_run, report, summarise, write_results
from tracks.run.scoring import IMAGE_SCORES, as_table, resample_rows, scorer_of, with_learnt_threshold
from tracks.run.store import PredictionStore

INTERVAL_LEVEL = 0.95


def rounding_said(folder: Path) -> dict[str, dict[str, str]]:
    """What the run said of rounding, by category: the maps in its store are rounded, so that nothing later can tell."""
    path = folder / "results.json"
    tables = json.loads(path.read_text(encoding="utf-8"))["categories"] if path.is_file() else {}
    return {name: {"rounding": table["rounding"]} for name, table in tables.items() if "rounding" in table}


def score_run(
    folder: Path, image_score: str | None, out: Path | None, processes: int, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Score every category of the store in `folder`; the results go into `out`.

    `image_score` is the run's own if None. Without `out` they go into the run folder, or where another image score is
    asked for into a folder of its name below, so that the run's results stay what its settings say.
    With `bootstrap` > 0, so many draws of the test images give a 95 % interval for each metric.
    """
    started = time.perf_counter()
    store = PredictionStore(folder)
    own = store.settings.get("image_score", "model")
    image_score = image_score or own
    if image_score not in IMAGE_SCORES:
        raise unknown("image_score", image_score, IMAGE_SCORES)
    target = out or (store.folder if image_score == own else store.folder / image_score)
    tables, draws, said = {}, {}, rounding_said(folder)
    for category in store.categories:
        rows = store.rows(category)
        scorer = scorer_of(rows, category, store, image_score, processes)
        tables[category] = as_table(
            category, with_learnt_threshold(scorer.compute(), rows, category, store)
        ) | said.get(category, {})
        if bootstrap:
            draws[category] = resample_rows(scorer, rows, category, store, image_score, bootstrap, seed)
            tables[category]["intervals"] = draws[category].intervals(INTERVAL_LEVEL)
            tables[category]["intervals_blank_because"] = draws[category].reasons
    results = summarise(store.settings, tables, image_score, known_of_run(folder))
    if bootstrap:
        of_means = mean_over(draws)
        results |= {
            "mean_intervals": of_means.intervals(INTERVAL_LEVEL), "mean_intervals_blank_because": of_means.reasons,
            "interval_level": INTERVAL_LEVEL, "interval_draws": bootstrap,
        }  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    write_results(target, results)
    report(results, target, predicted=0, latest=None)
    if bootstrap:
        print(interval_table(results))
    print(f"{results['images']} images scored in {time.perf_counter() - started:.1f} s")
    return results


@command("score")
def main(cfg: DictConfig) -> None:
    """Score and print the table."""
    score_run(
        open_run(cfg.run).folder,
        cfg.image_score,
        Path(cfg.out) if cfg.out else None,
        cfg.workers,
        cfg.bootstrap,
        cfg.seed,
    )


if __name__ == "__main__":
    run_main(main)
