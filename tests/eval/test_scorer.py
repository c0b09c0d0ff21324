"""The scorer: planted truth, float16 against unrounded arrays, batches, parts and recall by defect type.

What it does with input that is odd or wrong is in test_odd_input.py.
"""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from eval.category import IMAGE_METRICS, REGION_METRICS
from eval.errors import ScoringInputError
from eval.exact import f1_above
from eval.images import CheckedImages
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import ALL_METRICS, TOO_FEW, category, plain_metrics, plain_recalls


def test_planted_truth() -> None:
    """One normal and one anomalous image, every number worked out by hand."""
    mask = np.array([[True, True, False, False]])
    scorer = Scorer()
    scorer.update(np.array([[0.5, 0.25, 0.25, 0.0]], np.float32), mask, 0.9, 1)
    scorer.update(np.array([[0.0, 0.0, 0.0, 0.125]], np.float32), ~mask & False, 0.2, 0)
    result = scorer.compute()
    assert set(result.metrics) == ALL_METRICS
    assert result.reasons == {"aupimo_seg": f"4 {TOO_FEW} for a false positive rate of 1e-05"}
    assert (result.num_images, result.num_anomalous, result.num_unlabelled) == (2, 1, 0)
    expected = {
        **{"auroc_cls": 1.0, "f1_cls": 1.0, "ap_cls": 1.0, "f1_cls_floor": 2 / 3, "f1_cls_threshold": 0.9},
        **{"precision_cls": 1.0, "recall_cls": 1.0},
        "auroc_seg": (6 + 5.5) / 12,
        "auroc_seg_low_fpr": (1 + (0.05 * (0.5 + 0.65) / 2 - 0.05**2 / 2) / (0.05 - 0.05**2 / 2)) / 2,
        "ap_seg": 0.5 * 1 + 0.5 * 2 / 3,
        "f1_seg": 4 / 5,
        "f1_seg_floor": 4 / 10,
        "f1_seg_threshold": 0.25,
        "precision_seg": 2 / 3,
        "recall_seg": 1.0,
        "pro_seg": (1 / 6 * 0.75 + (0.3 - 1 / 6)) / 0.3,
        **{
            "f1_region": 1.0,
            "f1_region_threshold": 0.25,
            "precision_region": 1.0,
            "recall_region": 1.0,
        },  # 2 of 3 pixels
        "f1_harmonic": 2 * 0.8 / 1.8,
        "aupimo_seg": None,
    }
    assert result.metrics == pytest.approx(expected, abs=1e-12)


def test_perfect_maps_of_many_pixels_have_an_aupimo_of_one() -> None:
    mask = np.zeros((250, 400), dtype=bool)
    mask[9:20, 9:20] = True
    for score in (score_arrays, scored_as_a_batch):
        metrics = score([mask.astype(np.float32), np.zeros(mask.shape, np.float32)], [mask, ~mask & False], [1.0, 0.0])
        assert {metrics.metrics[m] for m in ALL_METRICS if "floor" not in m} == {1.0}
        assert metrics.reasons == {}


def scored_as_a_batch(*images):  # type: ignore[no-untyped-def]
    scorer = Scorer()
    scorer.update(*images)
    return scorer.compute()


@pytest.mark.parametrize("limit", [0.3, 0.05])
def test_equals_the_plain_derivation(limit: float) -> None:
    given = category(seed=4, images=5, levels=25)
    given.types = ["", "a", "", "b", ""]
    for result in (given.scored(pro_fpr_limit=limit), given.scored_unrounded(pro_fpr_limit=limit)):
        metrics = {name: value for name, value in result.metrics.items() if name != "aupimo_seg"}
        assert metrics == pytest.approx(plain_metrics(given, limit), abs=1e-11)
        assert result.recall_by_type["b"] == pytest.approx(plain_recalls(given, metrics)["b"])


def test_rounding_to_float16_moves_little_and_is_not_done_in_memory() -> None:
    given = category(seed=3, images=12)
    rounded, exact = given.scored().metrics, given.scored_unrounded().metrics
    continuous = {m for m in ALL_METRICS - set(REGION_METRICS) if not m.startswith(("precision", "recall"))}
    assert {m: rounded[m] for m in continuous} == pytest.approx({m: exact[m] for m in continuous}, abs=0.01)
    assert rounded["auroc_seg"] != exact["auroc_seg"]
    assert {m: rounded[m] for m in IMAGE_METRICS} == {
        m: exact[m] for m in IMAGE_METRICS
    }  # image scores are not rounded
    given.maps = [m.astype(np.float16).astype(np.float32) for m in given.maps]
    assert given.scored().metrics == rounded
    assert given.scored_unrounded().metrics == pytest.approx(rounded, abs=1e-11)


def test_order_and_parts_do_not_matter_to_the_bit() -> None:
    given = category(seed=1)
    whole, merged = given.scored(), Scorer()
    assert given.scored([5, 2, 7, 0, 1, 6, 4, 3]) == whole
    for part in ([6, 7], [0], [], [3, 1, 2], [5, 4]):
        scorer = Scorer()
        for i in part:
            scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
        merged.merge(scorer)
    assert merged.compute() == whole


def test_merging_changes_only_the_one_merged_into() -> None:
    given = category()
    first, second = given.scorer([0, 1, 2]), given.scorer([3, 4, 5])
    first.merge(second)
    assert first.compute() == given.scored(range(6))
    first.update(given.maps[6], given.masks[6], given.scores[6], given.labels[6])
    assert second.compute() == given.scored([3, 4, 5])


def test_merging_keeps_what_could_not_be_counted() -> None:
    given, first, second = category(), Scorer(), Scorer()
    for i, scorer in enumerate([first, first, second, second]):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
    second.update(given.maps[5], None, 0.5, 1)
    second.update(given.maps[6], None, 0.5)
    first.merge(second)
    result = first.compute()
    assert (result.num_images, result.num_anomalous, result.num_unlabelled) == (6, 3, 1)
    assert result.reasons["pro_seg"] == "1 of 3 anomalous images have no mask"


def test_more_images_may_follow_a_result() -> None:
    given, scorer = category(), Scorer()
    for i in range(8):
        scorer.update(given.maps[i], given.masks[i], given.scores[i])
        scorer.compute()
        scorer.curves()
    assert scorer.compute() == given.scored()


def test_batches_equal_single_images() -> None:
    given = category()
    maps = np.stack([m[:, :30] for m in given.maps])
    masks = np.stack([m[:, :30] for m in given.masks])
    single, batch, lists = Scorer(), Scorer(), Scorer()
    for i in range(8):
        single.update(maps[i], masks[i], given.scores[i], given.labels[i], defect_types="ab"[i % 2])
    batch.update(maps, masks, np.array(given.scores), np.array(given.labels), defect_types=["a", "b"] * 4)
    lists.update(list(maps[:3]), list(masks[:3]), given.scores[:3], given.labels[:3], defect_types=["a", "b", "a"])
    lists.update(tuple(maps[3:]), list(masks[3:]), given.scores[3:], None, None, ["b", "a", "b", "a", "b"])
    assert batch.compute() == lists.compute() == single.compute()
    ragged = Scorer()
    ragged.update(given.maps, given.masks, given.scores)
    assert ragged.compute() == given.scored()


def test_image_scores_keep_their_float64_differences() -> None:
    given = category(images=2)
    given.scores = [1.0, math.nextafter(1.0, 2.0)]
    assert given.scored().metrics["auroc_cls"] == 1.0
    assert given.scored().metrics["f1_cls_threshold"] == given.scores[1]


def test_pixels_keep_their_float64_differences_even_beside_float32() -> None:
    """A normal float64 pixel just above the defect, which float32 would tie with it."""
    maps = [np.array([[1.0, 0.0]], np.float32), np.array([[np.nextafter(1.0, 2.0), 0.0]])]
    masks = [np.array([[True, False]]), np.array([[False, False]])]
    for order in ([0, 1], [1, 0]):
        metrics = score_arrays([maps[i] for i in order], [masks[i] for i in order], [0.0, 0.0]).metrics
        assert metrics["auroc_seg"] == pytest.approx(2 / 3)
        assert metrics["f1_region_threshold"] == 1.0


def test_pro_limit_is_used() -> None:
    given = category()
    scorer = Scorer(pro_fpr_limit=0.05)
    for i in range(8):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
    expected = score_arrays(given.maps, given.masks, given.scores, pro_fpr_limit=0.05).metrics["pro_seg"]
    assert scorer.compute().metrics["pro_seg"] == pytest.approx(expected, abs=1e-3)
    assert given.scored().metrics["pro_seg"] != pytest.approx(expected, abs=0.05)
    with pytest.raises(ScoringInputError, match=r"\(0\.05, True\), got \(0\.3, True\)"):
        scorer.merge(Scorer())


@pytest.mark.parametrize("threshold", [0.0, 7.0, 7.5, 1e3])
def test_f1_above_a_known_threshold(threshold: float) -> None:
    given = category(seed=6, images=5, levels=20)
    given.masks[0] = given.masks[2] = None  # normal by its label; nothing known
    given.labels[2] = None
    images = CheckedImages(given.maps, given.masks, given.scores, given.labels)
    counted = given.completed()
    truth, values = (np.concatenate([each.ravel() for each in one]) for one in (counted.masks, counted.maps))
    assert f1_above(images, threshold) == pytest.approx(f1_score(truth, values > threshold))
    assert f1_above(CheckedImages(given.maps[:1], [None], [0.0], [0]), threshold) is None


def test_recall_by_type() -> None:
    """Two types by hand: the long defect is found at each threshold, the faint one only as an image."""
    row = np.array([[True, True, True, False, False, False]])
    scorer = Scorer()
    scorer.update(np.array([[9, 9, 9, 0, 0, 0]], np.float32), row, 0.9, 1, defect_types="long")
    scorer.update(np.array([[9, 8, 9, 0, 0, 0]], np.float32), row, 0.2, 1, defect_types="long")
    scorer.update(np.array([[0, 1, 0, 2, 2, 2]], np.float32), row, 0.8, 1, defect_types="faint")
    scorer.update(np.array([[5, 0, 5, 0, 5, 0]], np.float32), row & False, 0.1, 0, defect_types="good")
    scorer.update(np.array([[0, 9, 9, 0, 0, 0]], np.float32), row, 0.7, 1)  # no type given
    result = scorer.compute()
    assert (result.metrics["f1_seg_threshold"], result.metrics["f1_region_threshold"]) == (8, 8)
    assert result.metrics["f1_cls_threshold"] == 0.2
    assert result.recall_by_type == {
        "faint": {"images": 1, "image": 1.0, "pixel": 0.0, "region": 0.0},
        "long": {"images": 2, "image": 1.0, "pixel": 1.0, "region": 1.0},
    }
    assert result.metrics["recall_region"] == 3 / 4


def test_recall_of_regions_is_not_rounded_beside_float64() -> None:
    """The best threshold lies just above 1, where a float32 map of 1 has not reached it."""
    above = np.nextafter(1.0, 2.0)
    maps = [np.array([[1.0, 0, 1, 0, 1, 0, 1]], np.float32), np.array([[above, 0, 0]])]
    masks = [np.arange(7)[None] == 0, np.arange(3)[None] == 0]
    result = score_arrays(maps, masks, [1.0, 1.0], defect_types=["wide", "narrow"])
    assert result.metrics["f1_region_threshold"] == above  # 2 / (1 + 2) there, 4 / (5 + 2) at 1
    assert (result.recall_by_type["wide"]["region"], result.recall_by_type["narrow"]["region"]) == (0.0, 1.0)


def test_curves_end_in_the_metrics() -> None:
    given = category(seed=2)
    scorer = given.scorer()
    curves, metrics = scorer.curves(), scorer.compute().metrics
    assert curves.image is not None
    assert curves.pixel is not None
    assert curves.region is not None
    assert curves.pro is not None
    assert (curves.image.auroc(), curves.pixel.auroc()) == (metrics["auroc_cls"], metrics["auroc_seg"])
    assert curves.pixel.f1_max().threshold == metrics["f1_seg_threshold"]
    assert curves.region.f1_max().value == metrics["f1_region"]
    rate, overlap = curves.pro
    assert (rate[0], overlap[0], rate[-1], overlap[-1]) == pytest.approx((0, 0, 1, 1))
    inside = np.linspace(0, 0.3, 200_001)
    assert np.trapezoid(np.interp(inside, rate, overlap), inside) / 0.3 == pytest.approx(metrics["pro_seg"], abs=1e-4)
    empty = Scorer().curves()
    assert (empty.image, empty.pixel, empty.pro, empty.region) == (None,) * 4


class CountedReads:
    """A sequence that makes each map anew when it is asked for it."""

    def __init__(self, maps: list[np.ndarray]):
        self.maps = maps
        self.reads = 0

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int) -> np.ndarray:
        self.reads += 1
        return self.maps[i].copy()


def test_maps_may_be_read_as_they_are_asked_for() -> None:
    given = category()
    lazy = CountedReads(given.maps)
    result = score_arrays(lazy, given.masks, given.scores, given.labels)  # type: ignore[arg-type]
    assert result == given.scored_unrounded()
    assert lazy.reads == 2 * len(given.maps)
