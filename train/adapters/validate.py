"""How the adapters do on categories that they do not learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eval.ranking.curves import f1_max
from eval.scorer import Scorer
from eval.tables import mean_over_categories
from models.clip_adapter.adapter import LinearAdapter
from tracks.datasets.sample import Sample
from train.adapters.forward import zero_shot
from train.adapters.tokens import TokenSource

REPORTED = ("auroc_seg", "ap_seg", "f1_seg", "auroc_cls")


@dataclass(frozen=True)
class Validation:
    """Mean metrics over the held-out categories, and the image score that separates their images best.

    `image_threshold` is None where all images are normal, or all anomalous.
    """

    mean: dict[str, float | None]
    image_threshold: float | None


def validate(
    adapter: LinearAdapter,
    source: TokenSource,
    samples: Sequence[Sample],
    text: Mapping[str, Tensor],
    batch_size: int,
) -> Validation:
    """Zero-shot maps and image scores of all `samples`, scored at the size the backbone sees.

    The metrics are means over categories; the threshold is the one of F1-max over all images pooled.
    """
    scorers = {sample.category: Scorer(region_f1=False) for sample in samples}
    image_scores: list[float] = []
    for batch in source.batches(range(len(samples)), batch_size):
        scores, maps = zero_shot(adapter, batch, text)
        half_maps, masks = maps.half().cpu().numpy(), batch.masks.cpu().numpy()
        first = len(image_scores)
        image_scores += scores.tolist()
        for index, category in enumerate(batch.categories):
            sample = samples[first + index]
            scorers[category].update(
                half_maps[index], masks[index], image_scores[first + index], sample.label, names=sample.name
            )
    mean = mean_over_categories({category: scorer.compute().metrics for category, scorer in scorers.items()})
    return Validation({metric: mean[metric] for metric in REPORTED}, _threshold(image_scores, samples))


def _threshold(image_scores: Sequence[float], samples: Sequence[Sample]) -> float | None:
    labels = np.array([sample.label for sample in samples], dtype=int)
    if labels.min() == labels.max():
        return None
    return f1_max(np.array(image_scores), labels).threshold
