"""AUPIMO, the area under the per-image overlap curve (Bertoldo et al., 2024, arXiv:2401.01984).

For each anomalous image the share of its defect pixels found is drawn against the false positive rate over the pixels
of *normal images alone*, on a logarithmic axis from 1e-5 to 1e-4, and the area is divided by the length of the axis.
An image's value so says how well its defects are found at a rate of false alarms low enough to live with.

Departs from the paper's code: exact instead of sampled thresholds, the share of an image at a rate is the one reached
without exceeding that rate (no interpolation), and the rate pools the pixels of all normal images, which is the same as
the mean over images where they are equally large.
"""

import numpy as np

FPR_RANGE = (1e-5, 1e-4)


def pixel_weights(negatives: np.ndarray) -> np.ndarray:
    """How much of the axis a defect pixel is found on, by its value; (K,) in [0, 1].

    `negatives` is (K,), how many pixels of normal images lie at each of K descending values, at least one in all. The
    AUPIMO of an image is the mean weight of its defect pixels: each is found at every rate from its own up.
    """
    low, high = np.log(FPR_RANGE)
    rate = np.cumsum(negatives) / int(np.sum(negatives))
    length = high - np.log(np.maximum(rate, FPR_RANGE[0]))
    return np.clip(length / (high - low), 0.0, 1.0)


def fewest_pixels() -> int:
    """With fewer pixels of normal images than this, one of them is a larger rate than the axis begins with."""
    return round(1 / FPR_RANGE[0])
