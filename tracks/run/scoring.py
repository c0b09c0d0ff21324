"""Scores out of a prediction store: in this process where that is quick, else in several that add up to the same."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from eval.category import CategoryScores, Evidence, ScoreCurves
from eval.errors import ScoringInputError
from eval.exact import exact_evidence
from eval.regions.pimo import FPR_RANGE
from eval.regions.region_f1 import LEAST_IOU
from eval.scorer import Scorer
from tracks.datasets.sample import Sample
from tracks.errors import TrackInputError
from tracks.run.legacy import transductive_image_scores
from tracks.run.store import PredictionStore, Row

log = logging.getLogger(__name__)
RULES = {
    "pro": f"exact, FPR <= {Scorer().pro_fpr_limit:g}, interpolated at the limit, 8-connected regions",
    "region_f1": f"8-connected components, one-to-one, intersection over union >= {LEAST_IOU:g}, every threshold",
    "aupimo": "exact, FPR of normal images {:.0e} to {:.0e} on a logarithmic axis, without interpolation".format(
        *FPR_RANGE
    ).replace("e-0", "e-"),
}
"""Labels of how a store is scored."""
SHARD_PIXELS = 100_000_000
"""A shard has at least so many pixels: they take about as long to score as a further process takes to start."""


class _Bar(Protocol):
    def update(self, n: float | None = 1) -> bool | None: ...


def counted_rows(samples: Sequence[Sample] | None, category: str, store: PredictionStore) -> list[Row]:
    """The rows of a category that count: those of `samples`, in their order, or all if None."""
    rows = {row.name: row for row in store.rows(category)}
    return list(rows.values()) if samples is None else [rows[sample.name] for sample in samples]


def score_category(
    samples: Sequence[Sample] | None, category: str, store: PredictionStore, image_score: str = "model",
    processes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Score a category from the store alone; `samples` fixes which images count (all rows if None).

    The result does not depend on the number of processes. Returns the metrics by id, `images`, `anomalous`,
    `recall_by_type`, and `blank_because` where a metric has no meaning.

    Raises:
        TrackInputError: a map or mask of the store is missing or broken.
        ScoringInputError: a map is not finite, or disagrees with its mask or label.
    """
    rows = counted_rows(samples, category, store)
    return as_table(category, scorer_of(rows, category, store, image_score, processes).compute())


def as_table(category: str, result: CategoryScores) -> dict[str, Any]:
    """A category's entry in results.json; says aloud what is blank and why."""
    for reason in dict.fromkeys(result.reasons.values()):
        metrics = [metric for metric, why in result.reasons.items() if why == reason]
        log.warning("%s: no %s, %s", category, ", ".join(metrics), reason)
    return {
        **result.metrics,
        "images": result.num_images,
        "anomalous": result.num_anomalous,
        "recall_by_type": result.recall_by_type,
        "blank_because": result.reasons,
    }


@dataclass(frozen=True)
class WholeScores:
    """What `Scorer` tells of a category, from maps that were stored unrounded."""

    evidence: Evidence
    region_f1: bool = True

    @property
    def pro_fpr_limit(self) -> float:
        """PRO's largest false positive rate."""
        return self.evidence.pro_fpr_limit

    def compute(self) -> CategoryScores:
        """The metrics."""
        return self.evidence.scores()

    def curves(self) -> ScoreCurves:
        """The curves behind the metrics."""
        return self.evidence.curves()


def scorer_of(
    rows: Sequence[Row], category: str, store: PredictionStore, image_score: str = "model", processes: int = 1
) -> Scorer | WholeScores:
    """A scorer that was given all of the rows, which are of one category; see `score_category`."""
    scores = image_scores(rows, image_score)
    if store.map_type is not np.float16:
        return _score_whole(rows, scores, store, processes)
    shards = _cut(rows, processes)
    with tqdm(total=len(rows), desc=f"{category}: score", unit="image", leave=False) as bar:
        if len(shards) == 1:
            return _add_rows(Scorer(), rows, scores, store, bar)
        return _score_apart(shards, scores, store, bar)


def _score_whole(rows: Sequence[Row], scores: Sequence[float], store: PredictionStore, threads: int) -> WholeScores:
    """Score maps as they are: each file is read when it is its turn, twice in all."""
    maps, masks = _Read(rows, store.read_map), _Read(rows, store.read_mask)
    return WholeScores(exact_evidence(
        maps, masks, scores, [row.label for row in rows], names=[f"{row.category}/{row.name}" for row in rows],
        defect_types=[row.defect_type for row in rows], threads=threads,
    ))  # fmt: skip


class _Read(Sequence[Any]):
    """A file of each row, read whenever it is asked for."""

    def __init__(self, rows: Sequence[Row], read: Callable[[Row], Any]) -> None:
        self._rows, self._read = rows, read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._rows[index])


def image_scores(rows: Sequence[Row], image_score: str) -> list[float]:
    """The image score of each row: the model's own, or the legacy one that needs all rows of the category."""
    if image_score == "legacy_minmax":
        legacy = transductive_image_scores(rows)
        return [legacy[row.name] for row in rows]
    return [row.image_score for row in rows]


def _add_rows(
    scorer: Scorer, rows: Sequence[Row], scores: Sequence[float], store: PredictionStore, bar: _Bar
) -> Scorer:
    for row, score in zip(rows, scores, strict=True):
        scorer.update(
            store.read_map(row), store.read_mask(row), score, row.label, f"{row.category}/{row.name}", row.defect_type
        )
        bar.update()
    return scorer


def _cut(rows: Sequence[Row], processes: int) -> list[Sequence[Row]]:
    """Runs of neighbouring rows, at most one for each process, none smaller than is worth a process."""
    pixels = sum(row.height * row.width for row in rows)
    number = max(1, min(processes, pixels // SHARD_PIXELS, len(rows)))
    bounds = [len(rows) * i // number for i in range(number + 1)]
    return [rows[first:last] for first, last in pairwise(bounds)]


def _score_apart(shards: Sequence[Sequence[Row]], scores: Sequence[float], store: PredictionStore, bar: _Bar) -> Scorer:
    """Score each shard in a process of its own, and merge what they saved, in order."""
    scorer = Scorer()
    with tempfile.TemporaryDirectory() as folder:
        states = [Path(folder) / f"{i}.npz" for i in range(len(shards))]
        workers, first = [], 0
        for shard, state in zip(shards, states, strict=True):
            names = [row.name for row in shard]
            task = {
                "folder": str(store.folder.resolve()), "category": shard[0].category, "names": names,
                "scores": list(scores[first : first + len(shard)]), "state": str(state),
            }  # fmt: skip
            workers.append(_Worker(task))
            first += len(shard)
        try:
            for worker in workers:
                worker.wait(bar)
        finally:
            for worker in workers:
                worker.stop()
        for state in states:
            scorer.merge(Scorer.load(state))
    return scorer


class _Worker:
    """A process that scores one shard: `python -m tracks.run.scoring`, task on stdin, a line per image on stdout."""

    def __init__(self, task: dict[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracks.run.scoring"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogateescape",
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"},
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task))
        self._process.stdin.close()

    def wait(self, bar: _Bar) -> None:
        """Let the bar follow until the shard is scored; raises what the shard raised."""
        assert self._process.stdout is not None
        last = ""
        for line in self._process.stdout:
            last = line.rstrip("\n")
            bar.update(int(last == "."))
        if self._process.wait() == 0:
            return
        for error in (ScoringInputError, TrackInputError):
            if last.startswith(f"{error.__name__}: "):
                raise error(last.removeprefix(f"{error.__name__}: "))
        raise RuntimeError(f"a scoring process ended with exit code {self._process.returncode}; its error stands above")

    def stop(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()


class _Dots:
    """Stands in for a progress bar: a dot on a line of its own for each image."""

    def update(self, n: float | None = 1) -> bool | None:
        print(".", flush=True)
        return None


def main() -> None:
    """Score the shard that stdin describes."""
    task = json.load(sys.stdin)
    store = PredictionStore(task["folder"])
    by_name = {row.name: row for row in store.rows(task["category"])}
    try:
        rows = [by_name[name] for name in task["names"]]
        _add_rows(Scorer(), rows, task["scores"], store, _Dots()).save(task["state"])
    except (ScoringInputError, TrackInputError) as error:
        print(f"{type(error).__name__}: " + " ".join(str(error).split()), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
