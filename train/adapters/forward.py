"""What the adapters make of tokens: in training with a gradient, in validation without, there scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.scorer import Scorer
from eval.tables import mean_over_categories
from models.clip_adapter.adapter import LinearAdapter, stage_probabilities
from tracks.datasets.sample import Sample
from tracks.decide.threshold import FEW_FALSE_ALARMS, best_cut
from train.adapters.tokens import TokenBatch, TokenSource

REPORTED = ("auroc_seg", "ap_seg", "f1_seg", "auroc_cls")


def stage_maps(adapter: LinearAdapter, batch: TokenBatch, text: Mapping[str, Tensor]) -> list[Tensor]:
    """Per stage the softmax over normal and abnormal at the masks' size, (B, 2, S, S) (Eq. 2, 3).

    `text` holds (D, 2) by category; every image meets its own category's.
    """
    size = int(batch.masks.shape[-1])
    columns = text_columns(batch, text)
    adapted = adapter(batch.features.stages)
    return [
        stage_probabilities(tokens, columns, grid, size)
        for tokens, grid in zip(adapted, batch.features.grids, strict=True)
    ]


@torch.no_grad()
def zero_shot(adapter: LinearAdapter, batch: TokenBatch, text: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Image scores (B,) by Eq. 1 and maps (B, S, S) by Eq. 3, as the model gives them with its default settings."""
    embedding = batch.features.embedding[:, None]  # one token to an image
    scores = stage_probabilities(embedding, text_columns(batch, text), (1, 1), 1)[:, 1, 0, 0]
    return scores, torch.stack([stage[:, 1] for stage in stage_maps(adapter, batch, text)]).sum(dim=0)


def text_columns(batch: TokenBatch, text: Mapping[str, Tensor]) -> Tensor:
    """Each image's own category's text features, (B, D, 2)."""
    return torch.stack([text[category] for category in batch.categories])


@dataclass(frozen=True)
class Validation:
    """Mean metrics over the held-out categories, and the threshold on the image score that suits them.

    `image_threshold` is the one that the shipped weights' rule chooses, `best_cut`: highest recall less false alarms
    (Youden's J) with few of these, on average over the categories that have both kinds of images; None where none has.
    """

    mean: dict[str, float | None]
    image_threshold: float | None


def validate(
    look: Callable[[TokenBatch], tuple[Tensor, Tensor]],
    source: TokenSource,
    samples: Sequence[Sample],
    batch_size: int,
) -> Validation:
    """Zero-shot maps and image scores of all `samples`, scored at the size the backbone sees.

    `look` gives both of a batch. Metrics and the rates behind the threshold are means over categories.
    """
    scorers = {sample.category: Scorer(region_f1=False) for sample in samples}
    by_label: dict[str, tuple[list[float], list[float]]] = {category: ([], []) for category in scorers}
    first = 0
    for batch in source.batches(range(len(samples)), batch_size):
        scores, maps = look(batch)
        half_maps, masks = maps.half().cpu().numpy(), batch.masks.cpu().numpy()
        for index, (category, score) in enumerate(zip(batch.categories, scores.tolist(), strict=True)):
            sample = samples[first + index]
            scorers[category].update(half_maps[index], masks[index], score, sample.label, names=sample.name)
            by_label[category][sample.label == 1].append(score)
        first += len(batch.categories)
    mean = mean_over_categories({category: scorer.compute().metrics for category, scorer in scorers.items()})
    both = [pair for pair in by_label.values() if all(pair)]
    threshold = best_cut(both, FEW_FALSE_ALARMS).value if both else None
    return Validation({metric: mean[metric] for metric in REPORTED}, threshold)
