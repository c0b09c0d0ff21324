"""Never wrong in silence: each odd or wrong input has one stated outcome, a number, a blank with a reason, or an error.

| input | outcome |
|---|---|
| NaN or inf in a map or a score; a map that is no 2-D array of floats | error naming the image |
| values beyond float16 | error naming the image in `Scorer`; scored in `score_arrays` |
| values too small for float16 | rounded, in the end to 0, in `Scorer`; scored in `score_arrays` |
| mask other than bool or 0 and 1; of another shape than the map; against the label | error naming the image |
| images of different sizes | scored |
| no normal or no anomalous image; no defect or no normal pixel; masks missing | blank with a reason |
| nothing known of an image | left out and counted |
| constant scores | AUROC 0.5, AP and F1 at their floors, PRO half its limit |
| a region of one pixel | a region like any other |
"""

import math
from typing import Any

import numpy as np
import pytest

from eval.category import IMAGE_METRICS, PIXEL_METRICS, REGION_METRICS, CategoryScores
from eval.errors import ScoringInputError
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import ALL_METRICS, TOO_FEW, Category, category

ON_PIXELS = {*PIXEL_METRICS, *REGION_METRICS, "aupimo_seg"}


def expect_blank(result: CategoryScores, blank: set[str], reason: str) -> None:
    blank = blank | {"aupimo_seg"}
    assert {m for m, value in result.metrics.items() if value is None} == blank == set(result.reasons)
    assert all(math.isfinite(value) for value in result.metrics.values() if value is not None)
    for metric in blank:
        assert reason in result.reasons[metric] or (metric == "aupimo_seg" and TOO_FEW in result.reasons[metric])


@pytest.mark.parametrize("way", ["scored", "scored_unrounded"])
class TestBlanks:
    def test_without_normal_images_pixel_metrics_remain(self, way: str) -> None:
        given = category()
        given.masks = [np.arange(m.size).reshape(m.shape) < 9 for m in given.maps]
        given.labels = [1] * 8
        result = getattr(given, way)()
        expect_blank(result, {*IMAGE_METRICS, "f1_harmonic"}, "no normal image among 8")
        assert result.reasons["aupimo_seg"].startswith(f"0 {TOO_FEW}")
        assert result.metrics["pro_seg"] is not None

    def test_without_anomalous_images_everything_is_blank(self, way: str) -> None:
        given = category()
        given.masks, given.labels = [None] * 8, [0] * 8
        result = getattr(given, way)()
        expect_blank(result, ALL_METRICS, "8")
        assert result.reasons["auroc_cls"] == "no anomalous image among 8"
        assert result.reasons["pro_seg"] == result.reasons["aupimo_seg"] == "no defect pixel in 8 images"
        assert result.reasons["f1_region"] == "no defect pixel in 8 images"
        assert result.reasons["f1_harmonic"] == "no anomalous image among 8; no defect pixel in 8 images"

    def test_missing_masks_blank_the_pixel_metrics(self, way: str) -> None:
        given = category()
        given.masks[1] = given.masks[5] = None
        given.types = ["", "crack"] * 4
        result = getattr(given, way)()
        expect_blank(result, {*ON_PIXELS, "f1_harmonic"}, "2 of 4 anomalous images have no mask")
        assert {m: result.metrics[m] for m in IMAGE_METRICS} == {
            m: category().scored().metrics[m] for m in IMAGE_METRICS
        }
        assert result.recall_by_type["crack"] == {
            "images": 4, "image": result.metrics["recall_cls"], "pixel": None, "region": None,
        }  # fmt: skip

    def test_unknown_images_are_left_out_and_counted(self, way: str) -> None:
        given, known = category(images=9), category(images=8)
        given.masks[8] = given.labels[8] = None
        result = getattr(given, way)()
        assert result.metrics == getattr(known, way)().metrics
        assert (result.num_images, result.num_unlabelled, result.num_anomalous) == (9, 1, 4)

    def test_only_unknown_images(self, way: str) -> None:
        given = category()
        given.masks, given.labels = [None] * 8, [None] * 8
        result = getattr(given, way)()
        expect_blank(result, ALL_METRICS, "8 more with neither label nor mask")
        assert (result.num_images, result.num_unlabelled, result.num_anomalous) == (8, 8, 0)

    def test_all_pixels_defective(self, way: str) -> None:
        ones = np.ones((3, 3), dtype=bool)
        given = Category([np.eye(3, dtype=np.float32)] * 2, [ones, ones], [0.1, 0.2], [1, 1])
        result = getattr(given, way)()
        expect_blank(result, ALL_METRICS, "2")
        assert result.reasons["auroc_seg"] == "no normal pixel in 2 images"

    def test_no_image_at_all(self, way: str) -> None:
        result = getattr(Category([], [], [], []), way)()
        expect_blank(result, ALL_METRICS, "0")
        assert result.num_images == 0
        assert result.recall_by_type == {}


@pytest.mark.parametrize("way", ["scored", "scored_unrounded"])
@pytest.mark.parametrize("value", [0.0, -0.0, -7.5, 1e4])
@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_constant_scores_rank_nothing(way: str, value: float, limit: float) -> None:
    given = category()
    given.maps = [np.full(m.shape, value, np.float32) for m in given.maps]
    given.scores = [value] * 8
    metrics = getattr(given, way)(pro_fpr_limit=limit).metrics
    share = sum(int(m.sum()) for m in given.masks) / sum(m.size for m in given.masks)
    assert (metrics["auroc_cls"], metrics["auroc_seg"]) == (0.5, 0.5)
    assert metrics["ap_cls"] == pytest.approx(0.5)
    assert metrics["ap_seg"] == metrics["precision_seg"] == pytest.approx(share)
    assert metrics["f1_cls"] == metrics["f1_cls_floor"] == pytest.approx(2 / 3)
    assert metrics["f1_seg"] == metrics["f1_seg_floor"] == pytest.approx(2 * share / (1 + share))
    assert metrics["pro_seg"] == pytest.approx(limit / 2)
    assert metrics["f1_seg_threshold"] == metrics["f1_region_threshold"] == metrics["f1_cls_threshold"] == value
    assert (metrics["f1_region"], metrics["recall_seg"], metrics["recall_cls"]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("way", ["scored", "scored_unrounded"])
def test_one_image_of_one_pixel(way: str) -> None:
    one = np.array([[True]])
    result = getattr(Category([np.array([[3.5]])], [one], [1.0], [1]), way)()
    expect_blank(result, ALL_METRICS, "1")
    both = Category([np.array([[3.5]]), np.array([[1.0]])], [one, ~one], [1.0, 0.5], [1, 0])
    metrics = getattr(both, way)().metrics
    assert {metrics[m] for m in ALL_METRICS if "floor" not in m and "threshold" not in m} == {1.0, None}
    assert (metrics["f1_seg_threshold"], metrics["f1_region_threshold"]) == (3.5, 3.5)


def test_images_may_differ_in_size() -> None:
    """As in `category`; the same pixels in rows of another length give the same rankings of pixels."""
    given = category(levels=50)
    assert len({m.shape for m in given.maps}) == 8
    before = given.scored_unrounded().metrics
    given.maps, given.masks = [m.T.copy() for m in given.maps], [m.T.copy() for m in given.masks]
    assert given.scored_unrounded().metrics == before


FLAT = np.zeros((4, 6), np.float32)
DEFECT = np.arange(24).reshape(4, 6) < 3
BAD_IMAGES: dict[str, tuple[tuple[Any, Any, Any, Any], str]] = {
    "shape of the mask": ((FLAT, DEFECT.T, 0.5, 1), r"\(4, 6\), got \(6, 4\)"),
    "mask of more pixels": ((FLAT, np.ones((8, 12), dtype=bool), 0.5, 1), r"\(4, 6\), got \(8, 12\).*Resize"),
    "mask with an axis more": ((FLAT, DEFECT[None], 0.5, 1), r"\(4, 6\), got \(1, 4, 6\)"),
    "NaN": ((np.where(DEFECT, np.nan, FLAT), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "NaN outside defects": ((np.where(DEFECT, FLAT, np.nan), DEFECT, 0.5, 1), "21 of 24 values NaN"),
    "NaN, float16": ((np.where(DEFECT, np.float16(np.nan), np.float16(0)), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "NaN, no mask": ((np.where(DEFECT, np.nan, FLAT), None, 0.5, 1), "3 of 24 values NaN"),
    "NaN, normal": ((np.where(DEFECT, np.nan, FLAT), None, 0.5, 0), "3 of 24 values NaN"),
    "NaN, nothing known": ((np.where(DEFECT, np.nan, FLAT), None, 0.5, None), "3 of 24 values NaN"),
    "inf": ((np.where(DEFECT, -np.inf, FLAT), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "inf, float16": ((np.where(DEFECT, np.float16(np.inf), np.float16(0)), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "grey mask": ((FLAT, DEFECT.astype(np.uint8) * 255, 0.5, 1), "mask of bool.*uint8 .* such as 255.*mask > 127"),
    "soft mask": ((FLAT, DEFECT * np.float32(0.5), 0.5, 1), "mask of bool, or of 0 and 1.*float32 .* such as 0.5"),
    "numbered mask": ((FLAT, DEFECT * 2, 0.5, 1), "mask of bool, or of 0 and 1.*int64 with values such as 2"),
    "negative mask": ((FLAT, DEFECT * -1, 0.5, 1), "values such as -1"),
    "NaN in the mask": ((FLAT, np.where(DEFECT, np.nan, 0), 0.5, 1), "values such as nan"),
    "mask of text": ((FLAT, DEFECT.astype(str), 0.5, 1), "mask of bool.*array of <U5"),
    "channel axis": ((FLAT[None], DEFECT, 0.5, 1), r"2-D.*\(1, 4, 6\)"),
    "one row": ((FLAT[0], DEFECT[0], 0.5, 1), r"2-D.*\(6,\)"),
    "no pixel": ((FLAT[:0], DEFECT[:0], 0.5, 0), r"\(0, 6\)"),
    "whole numbers": ((FLAT.astype(int), DEFECT, 0.5, 1), "array of floats.*int64"),
    "a list": ((FLAT.tolist(), DEFECT, 0.5, 1), "array of floats.*list"),
    "a number": ((0.5, DEFECT, 0.5, 1), "array of floats.*float"),
    "mask a list": ((FLAT, DEFECT.tolist(), 0.5, 1), "mask of bool.*list"),
    "score NaN": ((FLAT, DEFECT, math.nan, 1), "finite image score, got nan"),
    "score inf": ((FLAT, DEFECT, -math.inf, 1), "finite image score, got -inf"),
    "no score": ((FLAT, DEFECT, None, 1), "finite image score, got None"),
    "label": ((FLAT, DEFECT, 0.5, 2), "label 1 .* got 2"),
    "label NaN": ((FLAT, DEFECT, 0.5, math.nan), "label 1 .* got nan"),
    "label a word": ((FLAT, DEFECT, 0.5, "good"), "label 1 .* got 'good'"),
    "label an array": ((FLAT, DEFECT, 0.5, np.array([1])), r"label 1 .* got array"),
    "label a list": ((FLAT, DEFECT, 0.5, [1]), r"label 1 .* got \[1\]"),
    "empty mask": ((FLAT, DEFECT & False, 0.5, 1), "mask with no defect pixel"),
    "mask of a normal image": ((FLAT, DEFECT, 0.5, 0), "3 defect pixels"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_images_are_named_and_leave_no_trace(bad: str) -> None:
    image, message = BAD_IMAGES[bad]
    given, scorer = category(), Scorer()
    for i in range(8):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
    with pytest.raises(ScoringInputError, match=f"(?s)Image test/crack/7.png: .*{message}"):
        scorer.update(*image, names="test/crack/7.png")
    assert scorer.compute() == given.scored()
    with pytest.raises(ScoringInputError, match=f"(?s)Image b.png: .*{message}"):
        score_arrays(
            *([good, b] for good, b in zip((FLAT, DEFECT, 0.1, 1), image, strict=True)), names=["a.png", "b.png"]
        )


def test_the_first_bad_image_of_a_batch_is_named_and_those_before_it_stay() -> None:
    given, scorer = category(), Scorer()
    given.maps[5] = given.maps[5] * np.nan
    with pytest.raises(ScoringInputError, match=r"Image number 6: .*NaN"):
        scorer.update(given.maps, given.masks, given.scores, given.labels)
    assert scorer.compute() == given.scored(range(5))
    with pytest.raises(ScoringInputError, match=r"Image number 6: .*NaN"):
        scorer.update(given.maps[5:], given.masks[5:], given.scores[5:])


def test_values_beyond_float16_are_named_and_leave_no_trace() -> None:
    scorer = Scorer()
    for mask, label in ((DEFECT, 1), (None, 0), (None, 1), (None, None)):
        with pytest.raises(ScoringInputError, match=r"Image number 1: .*70000"):
            scorer.update(FLAT + 70_000, mask, 0.5, label)
    assert scorer.compute().num_images == 0
    assert score_arrays([FLAT + 7e4], [DEFECT], [0.5]).metrics["auroc_seg"] == 0.5


def test_values_too_small_for_float16_tie_there_and_nowhere_else() -> None:
    tiny = np.where(DEFECT, 2e-9, 1e-9).astype(np.float32)
    given = Category([tiny], [DEFECT], [0.5], [1])
    assert given.scored().metrics["auroc_seg"] == 0.5
    assert given.scored_unrounded().metrics["auroc_seg"] == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_the_largest_values_are_scored_unrounded(dtype: type) -> None:
    largest = dtype(np.finfo(np.float64 if dtype is np.longdouble else dtype).max)
    result = score_arrays([np.where(DEFECT, largest, -largest)], [DEFECT], [0.5])
    assert {m for m, value in result.metrics.items() if value == 1.0} >= {"auroc_seg", "ap_seg", "f1_seg", "pro_seg"}
    assert result.metrics["f1_region"] == 1.0
    assert result.metrics["f1_seg_threshold"] == largest


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f4", "=f2", ">f2", "longdouble"])
def test_byte_order_and_layout_do_not_matter(kind: str) -> None:
    given = category(levels=30)
    rounded, exact = given.scored().metrics, given.scored_unrounded().metrics
    for order in (np.ascontiguousarray, np.asfortranarray, lambda one: np.tile(one, (2, 1))[: one.shape[0]]):
        given.maps = [order(m.astype(kind)) for m in given.maps]
        given.masks = [order(m) for m in given.masks]
        assert given.scored().metrics == rounded
        assert given.scored_unrounded().metrics == exact


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_masks_of_0_and_1_are_taken(kind: type) -> None:
    given = category()
    rounded, exact = given.scored(), given.scored_unrounded()
    given.masks = [m.astype(kind) for m in given.masks]
    assert given.scored() == rounded
    assert given.scored_unrounded() == exact


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([FLAT, FLAT], [DEFECT], [0.1, 0.2]), "2 maps, got 1 masks, 2 image scores, 2 labels, 2 names"),
        (([FLAT, FLAT], None, [0.1, 0.2]), "2 maps, got no masks"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1]), "got 2 masks, 1 image scores"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1, 0.2], [1]), "1 labels"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1, 0.2], 1), "no labels"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1, 0.2], None, ["a.png"]), "1 names"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1, 0.2], None, "ab"), "no names"),
        (([FLAT, FLAT], [DEFECT] * 2, [0.1, 0.2], None, None, "ab"), "no types"),
        ((FLAT, DEFECT, [0.5]), "4 maps, got 4 masks, 1 image scores"),
    ],
)
def test_unlike_lengths_are_refused(given: tuple, message: str) -> None:
    scorer = Scorer()
    with pytest.raises(ScoringInputError, match=message):
        scorer.update(*given)
    assert scorer.compute().num_images == 0
    maps, masks, scores, labels, names, types = (*given, *[None] * (6 - len(given)))
    with pytest.raises(ScoringInputError, match=message):
        score_arrays(maps, masks, scores, labels, names=names, defect_types=types)


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, 30, math.nan])
def test_limits_outside_the_rate_are_refused(limit: float) -> None:
    with pytest.raises(ScoringInputError, match="false positive rate"):
        Scorer(pro_fpr_limit=limit)
    with pytest.raises(ScoringInputError, match="false positive rate"):
        score_arrays([FLAT], [DEFECT], [0.5], pro_fpr_limit=limit)
