"""Entry point of `make score RUN=...`: score a run again from its store, with no model and no data set."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tracks.cli import command, run_main
from tracks.scoring import score_category
from tracks.store import PredictionStore
from tracks.track import cost_of_run, report, summarise, write_results


def score_run(folder: Path, image_score: str, out: Path | None, processes: int) -> dict[str, Any]:
    """Score every category of the store in `folder`; the results go into `out` (the run folder if None)."""
    started = time.perf_counter()
    store = PredictionStore(folder)
    tables = {category: score_category(None, category, store, image_score, processes) for category in store.categories}
    results = summarise(store.settings, tables, image_score, cost_of_run(folder))
    target = out or store.folder
    target.mkdir(parents=True, exist_ok=True)
    write_results(target, results, cfg=None)
    report(results, target, predicted=0, latest=store.folder)
    print(f"{results['images']} images scored in {time.perf_counter() - started:.1f} s")
    return results


@command("score")
def main(cfg: DictConfig) -> None:
    """Score and print the table."""
    score_run(Path(cfg.run), cfg.image_score, Path(cfg.out) if cfg.out else None, cfg.workers)


if __name__ == "__main__":
    run_main(main)
