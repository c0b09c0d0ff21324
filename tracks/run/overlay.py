"""Heat-map overlays on a scale shared by all images of a category, so that good parts do not glow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from tqdm import tqdm

from eval.ranking.histogram import LARGEST, VALUES, ValueCounts
from models.images import in_rgb
from tracks.command.paths import below, shortened
from tracks.datasets.sample import Sample
from tracks.decide.decision import KeptThresholds
from tracks.decide.threshold import Threshold
from tracks.run.store import PredictionStore, Row

COLOUR_MAP = "turbo"
LONGEST_SIDE = 1024
STRONGEST = 0.7
"""Opacity of the hottest pixels; the rest of the photo shows through."""
HOTTEST, NORMAL_CEILING = 0.999, 0.999
QUIET_SHARE = 0.35
"""Without normal images to look at, this share of the scale counts as quiet."""
LEAST_SPAN = 0.5
"""The scale ends at least this share of (quiet - low) above quiet, so that a folder of good parts stays dark."""
PLAINLY_SEEN = 0.5
"""From this share of the way from quiet to high on, heat is plain to see."""
MODEL_LINE, TRUTH_LINE = (255, 255, 255), (255, 0, 255)
"""What the model marks is outlined in white, a true defect in magenta, a colour that heat never has."""


@dataclass(frozen=True)
class HeatScale:
    """Three anomaly values: `low` is usual, the photo is untouched up to `quiet`, colours run from there to `high`.

    `own` says that it is the scale of one image, not that of its category.
    """

    low: float
    quiet: float
    high: float
    own: bool = False

    def reaching(self, values: np.ndarray) -> "HeatScale":
        """The scale itself if the highest of an image's map values is plain to see on it, else the image's own.

        That one runs from half way between median and maximum to the maximum.
        """
        highest = float(values.max())
        if highest >= self.quiet + PLAINLY_SEEN * (self.high - self.quiet) and highest > self.quiet:
            return self
        low = float(np.median(values))
        low = low if low < highest else float(values.min())
        return HeatScale(low, (low + highest) / 2, highest, own=True)


def category_scale(counts: ValueCounts, bound: float | None = None) -> HeatScale:
    """The scale of a category from its map pixels, those of normal images counted as negative.

    `low` is the median and `high` the 99.9th percentile of all pixels; `quiet` is the 99.9th percentile of the
    pixels of normal images, or 35 % of the way from low to high where none are known to be normal. `bound` is the
    largest value that a map can have (None: unknown); no scale goes beyond it.
    """
    positives, negatives = counts.by_value()
    everything = positives + negatives
    if not everything.any():
        return HeatScale(0.0, 0.0, 0.0)
    low, hottest = _quantile(everything, 0.5), _quantile(everything, HOTTEST)
    if not negatives.any():
        return HeatScale(low, low + QUIET_SHARE * (hottest - low), hottest)
    quiet = max(low, _quantile(negatives, NORMAL_CEILING))
    high = max(hottest, quiet + LEAST_SPAN * (quiet - low))
    return HeatScale(low, quiet, high if bound is None else max(quiet, min(high, bound)))


def map_bound(protocol: Mapping[str, Any], with_references: bool) -> float | None:
    """The largest value of a map that a model's protocol states, None if it states none."""
    bound = protocol.get("few_shot_map_bound" if with_references else "map_bound")
    return None if bound is None else float(bound)


def count_pixels(counts: ValueCounts, anomaly_map: np.ndarray, normal: bool) -> None:
    """Let the pixels of one map, of any size, take part in the scale; values beyond float16 count as its largest."""
    counts.add(np.clip(anomaly_map, -LARGEST, LARGEST), np.full(anomaly_map.shape, not normal))


def render_overlay(
    photo: PIL.Image.Image, anomaly_map: np.ndarray, scale: HeatScale, *, called: bool = False,
    mask: np.ndarray | None = None,
) -> PIL.Image.Image:  # fmt: skip
    """The photo with its heat above it and a legend below, RGB, at most 1024 pixels long.

    `anomaly_map` is (h, w) at any size and is stretched over the photo, and so is the true `mask`, bool, whose outline
    is drawn. Opacity grows with the value from `scale.quiet` to `scale.high`. In an image `called` a defect the hottest
    is always seen (`HeatScale.reaching`), a line around what is above quiet.
    """
    small = shrunk(photo, LONGEST_SIDE)
    width, height = small.size
    heat = PIL.Image.fromarray(anomaly_map.astype(np.float32)).resize((width, height), PIL.Image.Resampling.BILINEAR)
    values = np.asarray(heat)
    scale = scale.reaching(values) if called else scale
    heat_share = _ramp(values, scale.quiet, scale.high)
    pixels, hot = np.array(small), heat_share > 0
    share = heat_share[hot]
    opacity = STRONGEST * share[:, None]
    pixels[hot] = np.rint(pixels[hot] * (1 - opacity) + _colours(share) * opacity)
    if called:
        _draw_border(pixels, values >= scale.quiet, MODEL_LINE)
    if mask is not None and mask.any():
        truth = PIL.Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), PIL.Image.Resampling.BOX)
        _draw_border(pixels, np.asarray(truth) > 0, TRUTH_LINE)  # a speck does not get lost on a smaller picture
    return PIL.Image.fromarray(np.concatenate([pixels, _legend(width, scale)]))


def shrunk(photo: PIL.Image.Image, longest: int) -> PIL.Image.Image:
    """The photo in RGB with a longer side of at most so many pixels, never enlarged; a large one in two steps."""
    return in_rgb(photo).resize(fitted(photo.size, longest), PIL.Image.Resampling.LANCZOS, reducing_gap=1.5)


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) with the longer side at most `longest`, never enlarged, never below one pixel."""
    shrink = min(1.0, longest / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def draw_overlays(store: PredictionStore, samples: Sequence[Sample], category: str, *, count: int) -> None:
    """Write <run>/overlays/<category>/<name>.png for `count` images, all if negative, none if 0.

    Anomalous and normal images share them evenly where labels are known; each kind is spread over its ranking by image
    score, so that the most and the least anomalous are among them. True masks are outlined. Overlays that an earlier
    call wrote stay.
    """
    by_name = {sample.name: sample for sample in samples}
    rows = [row for row in store.rows(category) if row.name in by_name]
    chosen = _chosen(rows, count)
    if not chosen:
        return
    counts = ValueCounts()
    for row in rows:
        count_pixels(counts, store.read_map(row), normal=False)
    scale = category_scale(counts, map_bound(store.settings.get("protocol", {}), bool(store.settings.get("shots"))))
    threshold = KeptThresholds(store.folder).threshold(category)
    for row in tqdm(chosen, desc=f"{category}: overlays", unit="image", leave=False):
        path = below(store.folder, "overlays", shortened(category), f"{shortened(row.name)}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        called = isinstance(threshold, Threshold) and threshold.is_defect(row.image_score)
        photo, anomaly_map, mask = by_name[row.name].load_image(), store.read_map(row), store.read_mask(row)
        render_overlay(photo, anomaly_map, scale, called=called, mask=mask).save(path)


def _chosen(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows, half of them normal if that many are; a single one is the most anomalous."""
    normal = [row for row in rows if row.label == 0]
    others = [row for row in rows if row.label != 0]
    if count < 0 or not normal or not others:
        return _spread(rows, count)
    num_normal = min(len(normal), max(count // 2, count - len(others)))
    return _spread(others, count - num_normal) + _spread(normal, num_normal)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows at even steps from the highest image score to the lowest."""
    ranked = sorted(rows, key=lambda row: (-row.image_score, row.name))
    if count < 0 or count >= len(ranked):
        return ranked
    return [ranked[index] for index in np.linspace(0, len(ranked) - 1, count).round().astype(int)]


def _quantile(counts: np.ndarray, share: float) -> float:
    """The smallest of `VALUES` that at least `share` of the counted pixels do not exceed."""
    ascending = np.cumsum(counts[::-1])
    return float(VALUES[::-1][np.searchsorted(ascending, share * ascending[-1])])


def _ramp(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 up to `start`, 1 from `end` on, linear in between."""
    if end <= start:
        return np.zeros_like(values)
    return np.clip((values - start) / (end - start), 0, 1)


def _colours(shares: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape to RGB in [0, 255], shape (..., 3)."""
    return _colour_table()[(shares * 255).astype(np.uint8)]


@cache
def _colour_table() -> np.ndarray:
    from matplotlib import colormaps  # not before the first overlay

    return colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3].astype(np.float32) * 255


def _draw_border(pixels: np.ndarray, inside: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A line with a black one around it, on the outer side of the True pixels; wider on a larger picture."""
    box = PIL.Image.fromarray(inside.astype(np.uint8)).getbbox()
    if box is None:
        return
    from scipy.ndimage import binary_dilation

    width = max(1, max(inside.shape) // 500)
    left, top, right, bottom = box
    margin = 2 * width
    around = np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    pixels, inside = pixels[around], inside[around]  # the rest of the picture stays
    line = binary_dilation(inside, iterations=width)
    pixels[binary_dilation(line, iterations=width) & ~line] = 0
    pixels[line & ~inside] = colour


def _legend(width: int, scale: HeatScale) -> np.ndarray:
    """A colour bar (h, width, 3) uint8 from low to high; grey where the photo is left untouched."""
    height = int(np.clip(width // 24, 12, 28))
    values = np.linspace(scale.low, scale.high, width, dtype=np.float32)
    bar = _colours(_ramp(values, scale.quiet, scale.high))
    bar[values <= scale.quiet] = 96.0
    image = PIL.Image.fromarray(np.broadcast_to(bar.astype(np.uint8), (height, width, 3)).copy())
    draw, font = PIL.ImageDraw.Draw(image), PIL.ImageFont.load_default(size=0.75 * height)
    middle = height / 2
    words = [(f"{scale.low:.3g}", 3, "lm"), (f"{scale.high:.3g}", width - 3, "rm")]
    if scale.own:
        words.append(("own scale", width // 2, "mm"))
    for text, x, anchor in words:
        draw.text((x, middle), text, fill="white", font=font, anchor=anchor, stroke_width=1, stroke_fill="black")
    return np.asarray(image)
