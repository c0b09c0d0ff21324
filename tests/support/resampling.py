"""Images to draw from, their scorer and their counts; and draws made up directly."""

import numpy as np

from eval.scorer import Scorer
from eval.uncertainty.bootstrap import Resampled
from eval.uncertainty.image_counts import ImageCounts, choose_groups


def category(seed=0, normal=6, anomalous=7, side=20, lift=1.0, levels=None):
    """Images (map, mask, score, label): noise with each image's own offset, and lifted rectangles; `levels` rounds."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(normal + anomalous):
        label, mask = int(i < anomalous), np.zeros((side, side), dtype=bool)
        for _ in range(int(rng.integers(1, 3)) * label):
            (top, left), (height, width) = rng.integers(0, side - side // 3, 2), rng.integers(2, side // 3, 2)
            mask[top : top + height, left : left + width] = True
        smooth = rng.normal(size=(side // 2, side // 2)).repeat(2, axis=0).repeat(2, axis=1)
        anomaly_map = smooth / 2 + rng.normal() / 2 + lift * mask
        if levels:
            anomaly_map = np.round(anomaly_map * levels) / levels
        images.append((anomaly_map.astype(np.float16), mask, float(rng.normal() + label), label))
    return images


def scorer_of(images, pro_fpr_limit=0.3):
    """A scorer that was given these images."""
    scorer = Scorer(pro_fpr_limit)
    for image in images:
        scorer.update(*image)
    return scorer


def counts_of(images, num_groups=2048, region_f1=True):
    """Their counts by at most so many groups of values."""
    counts = ImageCounts(choose_groups(scorer_of(images).curves(), num_groups), region_f1)
    for image in images:
        counts.add(*image)
    return counts


def resampled(samples, estimate=0.0, sizes=(1_000_000,)):
    """Draws of one metric as they are, of categories of these sizes."""
    return Resampled({"auroc_cls": samples}, {"auroc_cls": estimate}, {"auroc_cls": tuple(sizes)})
