"""What rounding to float16 costs is measured and said; what ties by itself, or hardly loses, is not."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from eval.exact import count_exactly
from eval.images import CheckedImages
from eval.ranking.histogram import LARGEST_CHANGE, RoundingSample, rank_loss
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import Category, category

LOSSES = {
    "tiny": lambda maps: maps * 1e-8,
    "far from 0": lambda maps: maps + 1000,
    "sigmoid near 1": lambda maps: 1 / (1 + np.exp(-4 * maps - 6)),
    "the highest saturate": lambda maps: np.where(maps > 0.9, 1 - 1e-5 / maps, maps / 2),
}


def planted(side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(8, side, side) maps and masks; every other image has a square defect that scores 0.3 more."""
    masks = np.zeros((8, side, side), dtype=bool)
    masks[::2, 10:20, 10:20] = True
    return np.random.default_rng(0).random(masks.shape) + 0.3 * masks, masks


def given_to_a_scorer(maps: np.ndarray, masks: np.ndarray) -> Scorer:
    scorer = Scorer(region_f1=False)
    scorer.update(maps, masks, np.zeros(len(maps)))
    return scorer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_lost_ranking_is_said_with_its_size_and_remedy(kind: str, dtype: type) -> None:
    maps, masks = planted()
    maps = LOSSES[kind](maps).astype(dtype)
    with pytest.warns(UserWarning, match=r"float16 .* changes AUROC .*score_arrays"):
        result = given_to_a_scorer(maps, masks).compute()
    true = score_arrays(list(maps), list(masks), [0.0] * 8, region_f1=False).metrics
    assert true["ap_seg"] - result.metrics["ap_seg"] > 10 * LARGEST_CHANGE
    for metric in ("auroc_seg", "ap_seg"):
        assert result.rounding[metric] == pytest.approx(result.metrics[metric] - true[metric], abs=0.02)


def test_the_change_is_exact_where_the_sample_is_every_pixel() -> None:
    maps, masks = (of[:, :22, :22] for of in planted())
    maps = maps + 1000
    sample = RoundingSample()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        sample.add(anomaly_map, mask)
    exact, rounded = (score_arrays(list(of), list(masks), [0.0] * 8).metrics for of in (maps, maps.astype(np.float16)))
    expected = {metric: rounded[metric] - exact[metric] for metric in ("auroc_seg", "ap_seg")}
    assert sample.change() == pytest.approx(expected, abs=1e-12)


def test_a_sample_keeps_the_share_of_the_defects() -> None:
    maps, masks = planted(500)  # a regular step would follow a column of the image
    sample = RoundingSample()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        sample.add(anomaly_map, mask)
    values, weights = sample.pixels()
    assert values.size < 8 * 500 + 4 * 100 + 1
    assert weights[weights > 0].sum() == masks.sum()
    assert -weights[weights < 0].sum() == pytest.approx((~masks).sum(), rel=0.01)
    assert values[weights < 0].mean() == pytest.approx(maps[~masks].mean(), abs=0.02)


def test_of_many_images_a_sample_keeps_a_part_that_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = planted()
    whole, thinned, parts = RoundingSample(), RoundingSample(), [RoundingSample(), RoundingSample()]
    for anomaly_map, mask in zip(maps + 100, masks, strict=True):
        whole.add(anomaly_map, mask)
    monkeypatch.setattr("eval.ranking.histogram.MOST_PIXELS", 4000)
    for number, (anomaly_map, mask) in enumerate(zip(maps + 100, masks, strict=True)):
        thinned.add(anomaly_map, mask)
        parts[number % 2].add(anomaly_map, mask)
    parts[0].merge(parts[1])
    for sample in (thinned, parts[0]):
        values, weights = sample.pixels()
        assert values.size <= 4000 < whole.pixels()[0].size
        assert np.abs(weights).sum() == pytest.approx(np.abs(whole.pixels()[1]).sum(), rel=0.01)
        assert sample.change() == pytest.approx(whole.change(), abs=0.02)
    assert abs(whole.change()["auroc_seg"]) > 1e-4


@pytest.mark.parametrize(
    "maps",
    [
        pytest.param(lambda maps: maps, id="as models score"),
        pytest.param(lambda maps: np.round(maps * 3) / 3, id="few values, tied before"),
        pytest.param(lambda maps: np.where(maps > 0.9, maps, 1e-9), id="nothing outside regions"),
        pytest.param(lambda maps: (maps * 1000).astype(np.float16), id="float16"),
    ],
)
def test_what_loses_nothing_is_not_said(maps) -> None:
    given, masks = planted()
    given = maps(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = given_to_a_scorer(given if given.dtype == np.float16 else given.astype(np.float32), masks).compute()
    assert max(map(abs, result.rounding.values()), default=0) <= LARGEST_CHANGE
    assert (result.rounding == {}) == (given.dtype == np.float16)


def test_merged_loaded_and_whole_say_the_same(tmp_path: Path) -> None:
    maps, masks = planted()
    maps = maps + 1000
    merged = Scorer(region_f1=False)
    for part in ([5, 1, 7], [0, 2, 3, 4], [6]):
        given_to_a_scorer(maps[part], masks[part]).save(tmp_path / "part")
        merged.merge(Scorer.load(tmp_path / "part"))
    with pytest.warns(UserWarning, match="float16"):
        assert merged.compute() == given_to_a_scorer(maps, masks).compute()


@pytest.mark.parametrize("kind", [slice(0, None, 2), slice(1, None, 2), slice(0, 0)])
def test_without_both_kinds_of_pixels_nothing_is_said(kind: slice) -> None:
    maps, masks = planted()
    result = given_to_a_scorer(maps[kind] * 1e-9, masks[kind] | masks[kind].any(axis=(1, 2), keepdims=True)).compute()
    assert result.rounding == {}
    assert rank_loss({}) == ""


def test_exact_counts_have_the_curves_of_unrounded_maps() -> None:
    given: Category = category()
    small = [anomaly_map.astype(np.float64) * 1e-12 for anomaly_map in given.maps]
    exact = count_exactly(CheckedImages(small, given.masks, given.scores, given.labels))
    same = count_exactly(CheckedImages(given.maps, given.masks, given.scores, given.labels))
    assert exact.compute().metrics["ap_seg"] == pytest.approx(same.compute().metrics["ap_seg"], abs=1e-12)
    curve, expected = exact.curves(), same.curves()
    np.testing.assert_allclose(curve.pro, expected.pro, atol=1e-12)
    assert curve.pixel.average_precision() == exact.compute().metrics["ap_seg"]
