"""Entry point of `make compare-runs A=... B=...`: which of two runs is better, from their stores alone."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from eval.uncertainty.bootstrap import RESAMPLED
from models.disk import write_atomically
from tracks.command.cli import command, run_main
from tracks.command.given_runs import open_run
from tracks.command.names import unknown
from tracks.comparison.pair_tables import footer, header, tables
from tracks.comparison.pairs import CompareOptions, compare_stores
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore

HEADLINE = ("auroc_cls", "f1_cls", "auroc_seg", "f1_seg", "pro_seg", "f1_harmonic")
_LONGEST_NAME = 100


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
