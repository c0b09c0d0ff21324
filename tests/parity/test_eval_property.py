"""The scorer on thousands of generated categories, against scikit-learn and plain re-derivations, to 1e-9.

The maps have 1 to 20 pixels a side of every float type: ties, few values, constant maps, both signs and both zeros,
subnormal and enormous values; the masks have regions of one pixel and of all pixels, or none. The cases are the same
in every run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.category import CategoryScores
from eval.compiled import COMPILED
from eval.ranking.curves import auroc, average_precision, f1_max
from eval.scorer import Scorer
from tests.parity.fixed_batch import results
from tests.support.plain_scores import Category, plain_metrics, plain_recalls, sklearn_f1_max

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WIDTHS: dict[int, type[np.floating]] = {16: np.float16, 32: np.float32, 64: np.float64}
KINDS = ("normal", "anomalous", "normal", "anomalous", "by its mask", "no mask, normal", "unknown")
ROUNDS_TO_FLOAT16 = 65_519.0
"""The largest whole number that float16 rounds to 65504, not to infinity."""


def repeatable(cases: int) -> Any:
    """Settings of a test of so many cases, which are the same each time."""
    ignored = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=cases, deadline=None, derandomize=True, database=None, suppress_health_check=ignored)


def finite(width: int, largest: float | None = None) -> st.SearchStrategy[float]:
    """Finite floats of so many bits: any, or near one another, or one of a few odd ones."""
    low = None if largest is None else -largest
    anything = st.floats(low, largest, width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    tiny = float(np.finfo(WIDTHS[width]).smallest_subnormal)
    odd = [0.0, -0.0, 1.0, -1.0, tiny, -tiny, largest or float(np.finfo(WIDTHS[width]).max)]
    return anything | st.integers(-20, 20).map(float) | st.sampled_from(odd)


def picked(draw: st.DrawFn, palette: np.ndarray, count: int) -> np.ndarray:
    """So many values of a palette."""
    places = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), dtype=np.uint8)
    return palette[places % palette.size]


shapes = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.just(1), st.integers(1, 20)),
    st.tuples(st.integers(1, 20), st.just(1)),
)


@st.composite
def drawn_masks(draw: st.DrawFn, height: int, width: int) -> np.ndarray:
    """No defect pixel, single ones, loose and dense groups, a block, or all."""
    kind = draw(st.sampled_from(["one", "loose", "dense", "block", "all"]))
    mask = np.zeros((height, width), dtype=bool)
    if kind == "one":
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    elif kind == "block":
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, 4)), left : left + draw(st.integers(1, 4))] = True
    else:
        bits = np.frombuffer(draw(st.binary(min_size=mask.size, max_size=mask.size)), dtype=np.uint8)
        mask[:] = bits.reshape(mask.shape) % 8 < {"loose": 1, "dense": 4, "all": 8}[kind]
    return mask


@st.composite
def drawn_categories(draw: st.DrawFn, width: int, largest: float | None = None) -> Category:
    """One to five images; in half of the categories the higher values lie on the defects."""
    palette = np.array(draw(st.lists(finite(width, largest), min_size=1, max_size=30)), dtype=WIDTHS[width])
    if draw(st.booleans()):
        palette = np.sort(palette)
    follows = draw(st.booleans())
    category = Category([], [], [], [], [])
    missing = draw(st.sampled_from([False] * 9 + [True]))
    complete = ["anomalous", "normal"] if draw(st.integers(0, 5)) else []
    for kind in complete + draw(st.lists(st.sampled_from(KINDS), min_size=not complete, max_size=3)):
        height, columns = draw(shapes)
        mask = draw(drawn_masks(height, columns))
        if kind in ("normal", "no mask, normal") or (kind == "by its mask" and draw(st.booleans())):
            mask[:] = False
        values = picked(draw, palette, mask.size).reshape(mask.shape)
        if follows:
            high, low = palette[palette.size // 2 :], palette[: palette.size // 2 + 1]
            values = np.where(mask, picked(draw, high, mask.size).reshape(mask.shape), values)
            values = np.where(mask, values, picked(draw, low, mask.size).reshape(mask.shape))
        no_mask = kind in ("no mask, normal", "unknown") or (missing and kind == "anomalous")
        labels = {"normal": 0, "no mask, normal": 0, "anomalous": int(mask.any())}
        category.maps.append(values)
        category.masks.append(None if no_mask else mask.astype(draw(st.sampled_from([bool, np.uint8, np.float32]))))
        category.scores.append(draw(st.sampled_from([0.0, 0.5, -0.0, 2.0]) | finite(64)))
        category.labels.append(labels.get(kind))
        category.types.append(draw(st.sampled_from(["", "crack", "hole"])))
    return category


limits = st.sampled_from([0.3, 1.0, 0.05]) | st.floats(1e-6, 1.0)


def check(result: CategoryScores, category: Category, limit: float) -> None:
    expected = plain_metrics(category, limit)
    assert set(result.metrics) == {*expected, "aupimo_seg"}
    assert {metric for metric, value in result.metrics.items() if value is None} == set(result.reasons)
    assert all(result.reasons.values())
    assert "aupimo_seg" in result.reasons  # far fewer than 100,000 pixels
    for metric, value in expected.items():
        assert result.metrics[metric] == (value if value is None else pytest.approx(value, abs=1e-9, rel=1e-9)), metric
    recalls = plain_recalls(category, expected)
    assert set(result.recall_by_type) == set(recalls)
    for name, row in recalls.items():
        for what, value in row.items():
            assert result.recall_by_type[name][what] == (value if value is None else pytest.approx(value, abs=1e-9))
    event("pixel metrics" if expected["pro_seg"] is not None else "no pixel metrics")
    event("image metrics" if expected["auroc_cls"] is not None else "no image metrics")
    event("some region hit" if expected["f1_region"] else "no region hit")


@repeatable(300)
@given(st.sampled_from([16, 32, 32, 64]).flatmap(drawn_categories), limits)
def test_arrays(category: Category, limit: float) -> None:
    check(category.scored_unrounded(pro_fpr_limit=limit), category, limit)


@repeatable(300)
@given(st.data(), st.sampled_from([16, 16, 32, 64]), limits)
def test_scorer(data: st.DataObject, width: int, limit: float) -> None:
    category = data.draw(drawn_categories(width, None if width == 16 else ROUNDS_TO_FLOAT16))
    result = category.scored(pro_fpr_limit=limit)
    category.maps = [one.astype(np.float16) for one in category.maps]
    check(result, category, limit)


@repeatable(200)
@given(st.sampled_from([16, 32, 64]), st.data())
def test_rankings(width: int, data: st.DataObject) -> None:
    """A list of scores alone, of any float type."""
    palette = np.array(data.draw(st.lists(finite(width), min_size=1, max_size=20)), dtype=WIDTHS[width])
    bits = np.frombuffer(data.draw(st.binary(min_size=2, max_size=60)), dtype=np.uint8)
    scores, labels = palette[bits // 2 % palette.size], bits % 2 == 1
    labels[:2] = [True, False]
    wide, best = scores.astype(np.float64), f1_max(scores, labels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, wide), abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, wide), abs=1e-9)
    value, threshold, precision, recall = sklearn_f1_max(labels, wide)
    assert best.threshold == threshold
    assert (best.value, best.precision, best.recall) == pytest.approx((value, precision, recall), abs=1e-9)


@repeatable(200)
@given(drawn_categories(16), st.data())
def test_parts_merge_to_the_bit(category: Category, data: st.DataObject) -> None:
    """Images in any parts, the parts in any order, some of them out of a file."""
    whole = category.scorer()
    of_part = data.draw(st.lists(st.integers(0, 3), min_size=len(category.maps), max_size=len(category.maps)))
    merged = Scorer()
    for part in data.draw(st.permutations(range(4))):
        scorer = category.scorer([i for i, chosen in enumerate(of_part) if chosen == part])
        if data.draw(st.booleans()):
            with TemporaryDirectory() as folder:
                scorer.save(Path(folder) / "part")
                scorer = Scorer.load(Path(folder) / "part")
        merged.merge(scorer)
    assert merged.compute() == whole.compute()
    for ours, same in zip(vars(merged.curves()).values(), vars(whole.curves()).values(), strict=True):
        assert (ours is None) == (same is None)
        for one, other in zip(arrays_of(ours), arrays_of(same), strict=True):
            np.testing.assert_array_equal(one, other)


def arrays_of(curve: Any) -> list[Any]:
    return list(curve) if isinstance(curve, tuple) else list(vars(curve).values()) if curve else []


@repeatable(200)
@given(st.sampled_from([16, 32, 64]).flatmap(drawn_categories), st.integers(1, 60))
def test_threads_and_chunks_change_nothing(category: Category, chunk_pixels: int) -> None:
    whole = category.scored_unrounded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.exact.CHUNK_PIXELS", chunk_pixels)
        assert category.scored_unrounded() == whole
        assert category.scored_unrounded(threads=2) == whole
    assert category.scored_unrounded(threads=2) == whole


@pytest.mark.skipif(not COMPILED, reason="the loops are not compiled here, so there is nothing to compare")
def test_uncompiled_loops_give_the_same_bits() -> None:
    environment = {**os.environ, "VANDKIT_PURE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity.fixed_batch"],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=300,
    )  # fmt: skip
    pure = json.loads(done.stdout)
    assert pure.pop("compiled") is False
    assert pure == json.loads(json.dumps(results()))
