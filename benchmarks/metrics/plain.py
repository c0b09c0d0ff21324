"""Three metrics in the obvious way, as their authors' code goes about them: what the cost is compared with.

Written from their descriptions; regions are labelled with SciPy. The legacy two label and compare at each threshold.
"""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage

EIGHT_CONNECTED = np.ones((3, 3))
NUM_STEPS = 200


def sorted_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """PRO as MVTec AD defines it, by sorting all pixels with what each adds to the rate and to the overlap."""
    weights = np.zeros(maps.shape)
    num_regions = 0
    for weight, mask in zip(weights, masks, strict=True):
        labels, found = scipy.ndimage.label(mask, EIGHT_CONNECTED)
        weight[mask] = 1 / np.bincount(labels.ravel())[labels[mask]]
        num_regions += found
    order = np.argsort(maps, axis=None)[::-1]
    scores = maps.ravel()[order]
    last_of_value = np.append(scores[1:] != scores[:-1], True)
    normal = ~masks.ravel()[order]
    rates = np.append(0.0, (np.cumsum(normal) / np.count_nonzero(normal))[last_of_value])
    overlaps = np.append(0.0, (np.cumsum(weights.ravel()[order]) / num_regions)[last_of_value])
    inside = rates <= limit
    x = np.append(rates[inside], limit)
    y = np.append(overlaps[inside], np.interp(limit, rates, overlaps))
    return float(np.trapezoid(y, x) / limit)


def stretched_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """The 200-threshold PRO of APRIL-GAN, at each threshold region by region."""
    low, high = maps.min(), maps.max()
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / NUM_STEPS):
        predicted = maps > threshold
        shares = [one[region].mean() for one, mask in zip(predicted, masks, strict=True) for region in _regions(mask)]
        rates.append(np.count_nonzero(predicted & ~masks) / np.count_nonzero(~masks))
        overlaps.append(np.mean(shares))
    kept = np.array(rates) < limit
    x = np.array(rates)[kept]
    return float(-np.trapezoid(np.array(overlaps)[kept], (x - x.min()) / (x.max() - x.min())))


def joint_box_f1(maps: np.ndarray, masks: np.ndarray) -> float:
    """The region F1 of SAA+, at each threshold component by component."""
    low, high = maps.min(), maps.max()
    best = 0.0
    for step in range(NUM_STEPS):
        hits = num_predicted = num_true = 0
        for predicted, mask in zip(maps > high - step * ((high - low) / NUM_STEPS), masks, strict=True):
            components, regions = _boxes(predicted), _boxes(mask)
            num_predicted, num_true = num_predicted + len(components), num_true + len(regions)
            for one in components:
                crops = [tuple(map(_around, one, other)) for other in regions]
                overlaps = [np.sum((predicted & mask)[c]) / np.sum((predicted | mask)[c]) for c in crops]
                hits += max(overlaps, default=0) >= 0.6
        best = max(best, 2 * hits / (num_predicted + num_true))
    return best


def _regions(mask: np.ndarray) -> Iterator[np.ndarray]:
    labels, found = scipy.ndimage.label(mask, EIGHT_CONNECTED)
    return (labels == number for number in range(1, found + 1))


def _boxes(binary: np.ndarray) -> list[tuple[slice, slice]]:
    return scipy.ndimage.find_objects(scipy.ndimage.label(binary, EIGHT_CONNECTED)[0])


def _around(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))
