"""What a report is made from: every category of a prediction store, scored, with its curves and its worst images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from eval.category import CategoryScores, ScoreCurves
from eval.ranking.histogram import ValueCounts
from eval.scorer import Scorer
from tracks.decide.decision import KeptThresholds
from tracks.decide.threshold import Threshold
from tracks.errors import TrackInputError
from tracks.report_page.choice import Choice, Picks, choose
from tracks.run.overlay import HeatScale, category_scale, count_pixels, map_bound
from tracks.run.scoring import counted_rows, image_scores, scorer_of
from tracks.run.store import PredictionStore, Row


@dataclass(frozen=True, eq=False)
class ScoredCategory:
    """A category: its rows (image scores as they were ranked), numbers, curves, and the images to show.

    `verdicts` are what the run's own threshold says of each image, by name, empty without one; `own_threshold` is that
    threshold, None if the images were ranked by another score than it judges.
    """

    name: str
    rows: Sequence[Row]
    scores: CategoryScores
    curves: ScoreCurves
    picks: Picks
    verdicts: Mapping[str, str]
    own_threshold: float | None

    @property
    def threshold(self) -> float | None:
        """The image score at which F1 of the images is highest; None where there is none."""
        return self.scores.metrics.get("f1_cls_threshold")

    @property
    def map_sizes(self) -> str:
        """The sizes, height x width, at which its maps were scored: the one, or how many and their range."""
        sizes = sorted({(row.height, row.width) for row in self.rows}, key=lambda size: (size[0] * size[1], size))
        shown = [f"{height} x {width}" for height, width in sizes]
        if len(sizes) <= 1:
            return "".join(shown)
        return f"{len(sizes):,} sizes, {shown[0]} to {shown[-1]}"


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """All categories, and the colour scale that their maps share."""

    categories: Sequence[ScoredCategory]
    scale: HeatScale
    pro_limit: float

    @property
    def tables(self) -> dict[str, dict[str, float | None]]:
        """The metrics by category, as `eval.tables` takes them."""
        return {category.name: category.scores.metrics for category in self.categories}


def gather(store: PredictionStore, choice: Choice, image_score: str = "model", processes: int = 1) -> ScoredRun:
    """Score every category of a store, and see where the values of all maps lie.

    `image_score` says which score ranked the images: "model", or "legacy_minmax".

    Raises:
        TrackInputError: the folder holds no run of a track, or a map that does not decode.
    """
    if "categories" not in store.settings:
        raise TrackInputError(
            f"expected the run folder of a track, got {store.folder}, whose run.json names no categories; "
            "a report needs what make zero-shot or make few-shot wrote"
        )
    pixels = ValueCounts()
    categories = [_category(store, name, choice, image_score, processes, pixels) for name in store.categories]
    bound = map_bound(store.settings.get("protocol") or {}, bool(store.settings.get("shots")))
    return ScoredRun(categories, category_scale(pixels, bound), Scorer().pro_fpr_limit)


def _category(
    store: PredictionStore, name: str, choice: Choice, image_score: str, processes: int, pixels: ValueCounts
) -> ScoredCategory:
    found = counted_rows(None, name, store)
    scorer = scorer_of(found, name, store, image_score, processes)
    scores = scorer.compute()
    rows, recall = [], {}
    bar = tqdm(found, desc=f"{name}: read", unit="image", leave=False)
    for row, score in zip(bar, image_scores(found, image_score), strict=True):
        anomaly_map, mask = store.read_map(row), store.read_mask(row)
        label = int(mask.any()) if row.label is None and mask is not None else row.label  # as the scorer takes it
        rows.append(replace(row, label=label, image_score=score))
        count_pixels(pixels, anomaly_map, normal=label == 0)
        share = pixel_recall(anomaly_map, mask, scores.metrics["f1_seg_threshold"])
        if share is not None:
            recall[row.name] = share
    own = KeptThresholds(store.folder).threshold(name)
    verdicts = {row.name: own.verdict(row.image_score) for row in found} if isinstance(own, Threshold) else {}
    picks = choose(rows, recall, scores.metrics["f1_cls_threshold"], choice, verdicts)
    drawn = own.value if isinstance(own, Threshold) and image_score == "model" else None
    return ScoredCategory(name, rows, scores, scorer.curves(), picks, verdicts, drawn)


def pixel_recall(anomaly_map: np.ndarray, mask: np.ndarray | None, threshold: float | None) -> float | None:
    """The share in [0, 1] of the defect pixels of a map (H, W) that reach `threshold`; None where there are none."""
    if mask is None or threshold is None or not mask.any():
        return None
    return float(np.mean(anomaly_map[mask].astype(np.float32) >= threshold))
