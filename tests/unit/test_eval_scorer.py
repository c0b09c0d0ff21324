"""The scorer: planted truth, float16 against unrounded arrays, blanks with reasons, and errors that name the image."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.scorer import IMAGE_METRICS, PIXEL_METRICS, CategoryScores, Scorer, score_arrays

ALL_METRICS = {*IMAGE_METRICS, *PIXEL_METRICS, "f1_harmonic"}


@dataclasses.dataclass
class Category:
    """Images as the scorer takes them; the even ones are normal."""

    maps: list[np.ndarray]
    masks: list
    scores: list[float]
    labels: list

    def scored(self, order: list[int] | None = None) -> CategoryScores:
        scorer = Scorer()
        for i in order if order is not None else range(len(self.maps)):
            scorer.update(self.maps[i], self.masks[i], self.scores[i], self.labels[i], name=f"{i}.png")
        return scorer.compute()

    def scored_unrounded(self) -> CategoryScores:
        return score_arrays(self.maps, self.masks, self.scores, self.labels)


def category(seed: int = 0, images: int = 8, levels: int | None = None) -> Category:
    """Noise with faint squares where the masks are; with `levels`, whole numbers that float16 holds exactly."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(images):
        mask = np.zeros((24, 30 + i), dtype=bool)
        if i % 2:
            mask[2:7, 3:9] = mask[15:17, 20:22] = mask[23, 0] = True
        noise = rng.random(mask.shape) if levels is None else rng.integers(0, levels, mask.shape)
        maps.append((noise + mask * (0.4 if levels is None else levels // 3)).astype(np.float32))
        masks.append(mask)
    return Category(maps, masks, [float(m.mean()) for m in maps], [i % 2 for i in range(images)])


def test_planted_truth() -> None:
    """One normal and one anomalous image, every number worked out by hand."""
    mask = np.array([[True, True, False, False]])
    scorer = Scorer()
    scorer.update(np.array([[0.5, 0.25, 0.25, 0.0]], np.float32), mask, 0.9, 1)
    scorer.update(np.array([[0.0, 0.0, 0.0, 0.125]], np.float32), ~mask & False, 0.2, 0)
    result = scorer.compute()
    assert set(result.metrics) == ALL_METRICS
    assert result.reasons == {}
    assert (result.num_images, result.num_anomalous, result.num_unlabelled) == (2, 1, 0)
    expected = {
        **{"auroc_cls": 1.0, "f1_cls": 1.0, "ap_cls": 1.0, "f1_cls_floor": 2 / 3, "f1_cls_threshold": 0.9},
        "auroc_seg": (6 + 5.5) / 12,
        "ap_seg": 0.5 * 1 + 0.5 * 2 / 3,
        "f1_seg": 4 / 5,
        "f1_seg_floor": 4 / 10,
        "f1_seg_threshold": 0.25,
        "pro_seg": (1 / 6 * 0.75 + (0.3 - 1 / 6)) / 0.3,
        "f1_harmonic": 2 * 0.8 / 1.8,
    }
    assert result.metrics == pytest.approx(expected, abs=1e-12)


def test_perfect_maps_score_one() -> None:
    given = category()
    given.maps = [mask.astype(np.float32) for mask in given.masks]
    given.scores = [float(label) for label in given.labels]
    metrics = given.scored().metrics
    assert {metrics[m] for m in ALL_METRICS if "floor" not in m} == {1.0}


@pytest.mark.parametrize("levels", [2, 40, 2000])
def test_equals_unrounded_scoring_where_float16_is_exact(levels: int) -> None:
    given = category(levels=levels)
    assert given.scored().metrics == pytest.approx(given.scored_unrounded().metrics, abs=1e-11)


def test_rounding_to_float16_moves_little_and_is_not_done_in_memory() -> None:
    given = category(seed=3, images=12)
    rounded, exact = given.scored().metrics, given.scored_unrounded().metrics
    assert rounded == pytest.approx(exact, abs=0.01)  # few pixels: a step of F1 is large
    assert rounded["auroc_seg"] != exact["auroc_seg"]
    assert {m: rounded[m] for m in IMAGE_METRICS} == {
        m: exact[m] for m in IMAGE_METRICS
    }  # image scores are not rounded
    given.maps = [m.astype(np.float16).astype(np.float32) for m in given.maps]
    assert given.scored().metrics == rounded


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
    assert scorer.compute() == given.scored()


def test_label_follows_from_the_mask_and_no_mask_from_a_normal_label() -> None:
    given = category()
    whole = given.scored()
    given.labels = [None] * 8
    assert given.scored() == whole
    assert given.scored_unrounded().num_anomalous == 4
    given.labels = [False, True] * 4
    given.masks[0::2] = [None] * 4
    assert given.scored() == whole


def test_image_scores_keep_their_float64_differences() -> None:
    given = category(images=2)
    given.scores = [1.0, math.nextafter(1.0, 2.0)]
    assert given.scored().metrics["auroc_cls"] == 1.0
    assert given.scored().metrics["f1_cls_threshold"] == given.scores[1]


def test_pro_limit_is_used() -> None:
    given = category()
    scorer = Scorer(pro_fpr_limit=0.05)
    for i in range(8):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
    expected = score_arrays(given.maps, given.masks, given.scores, pro_fpr_limit=0.05).metrics["pro_seg"]
    assert scorer.compute().metrics["pro_seg"] == pytest.approx(expected, abs=1e-3)
    assert given.scored().metrics["pro_seg"] != pytest.approx(expected, abs=0.05)
    with pytest.raises(ScoringInputError, match=r"0\.05, got 0\.3"):
        scorer.merge(Scorer())
    with pytest.raises(ScoringInputError, match="30"):
        Scorer(pro_fpr_limit=30)


def expect_blank(result: CategoryScores, blank: set[str], reason: str) -> None:
    assert {m for m, value in result.metrics.items() if value is None} == blank == set(result.reasons)
    assert all(math.isfinite(value) for value in result.metrics.values() if value is not None)
    for metric in blank:
        assert reason in result.reasons[metric]


@pytest.mark.parametrize("way", ["scored", "scored_unrounded"])
class TestBlanks:
    def test_without_normal_images_pixel_metrics_remain(self, way: str) -> None:
        given = category()
        given.masks = [np.arange(m.size).reshape(m.shape) < 9 for m in given.maps]
        given.labels = [1] * 8
        result = getattr(given, way)()
        expect_blank(result, {*IMAGE_METRICS, "f1_harmonic"}, "no normal image among 8")
        assert result.metrics["pro_seg"] is not None

    def test_without_anomalous_images_everything_is_blank(self, way: str) -> None:
        given = category()
        given.masks, given.labels = [None] * 8, [0] * 8
        result = getattr(given, way)()
        expect_blank(result, ALL_METRICS, "8")
        assert result.reasons["auroc_cls"] == "no anomalous image among 8"
        assert result.reasons["pro_seg"] == "no defect pixel in 8 images"
        assert result.reasons["f1_harmonic"] == "no anomalous image among 8; no defect pixel in 8 images"

    def test_missing_masks_blank_the_pixel_metrics(self, way: str) -> None:
        given = category()
        given.masks[1] = given.masks[5] = None
        result = getattr(given, way)()
        expect_blank(result, {*PIXEL_METRICS, "f1_harmonic"}, "2 of 4 anomalous images have no mask")
        assert {m: result.metrics[m] for m in IMAGE_METRICS} == {
            m: category().scored().metrics[m] for m in IMAGE_METRICS
        }

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


FLAT = np.zeros((4, 6), np.float32)
DEFECT = np.arange(24).reshape(4, 6) < 3
BAD_IMAGES: dict[str, tuple[tuple[Any, Any, Any, Any], str]] = {
    "shape of the mask": ((FLAT, DEFECT.T, 0.5, 1), r"\(4, 6\), got \(6, 4\)"),
    "NaN": ((np.where(DEFECT, np.nan, FLAT), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "inf": ((np.where(DEFECT, -np.inf, FLAT), DEFECT, 0.5, 1), "3 of 24 values NaN"),
    "grey mask": ((FLAT, DEFECT.astype(np.uint8) * 255, 0.5, 1), "bool mask.*uint8.*mask > 127"),
    "channel axis": ((FLAT[None], DEFECT, 0.5, 1), r"2-D.*\(1, 4, 6\)"),
    "no pixel": ((FLAT[:0], DEFECT[:0], 0.5, 0), r"\(0, 6\)"),
    "whole numbers": ((FLAT.astype(int), DEFECT, 0.5, 1), "array of floats.*int64"),
    "a list": ((FLAT.tolist(), DEFECT, 0.5, 1), "array of floats.*list"),
    "mask a list": ((FLAT, DEFECT.tolist(), 0.5, 1), "bool mask.*list"),
    "score NaN": ((FLAT, DEFECT, math.nan, 1), "finite image score, got nan"),
    "score inf": ((FLAT, DEFECT, -math.inf, 1), "finite image score, got -inf"),
    "label": ((FLAT, DEFECT, 0.5, 2), "label 1 .* got 2"),
    "empty mask": ((FLAT, DEFECT & False, 0.5, 1), "mask with no defect pixel"),
    "mask of a normal image": ((FLAT, DEFECT, 0.5, 0), "3 defect pixels"),
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_images_are_named_and_leave_no_trace(bad: str) -> None:
    image, message = BAD_IMAGES[bad]
    given, scorer = category(), Scorer()
    for i in range(8):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i])
    with pytest.raises(ScoringInputError, match=f"(?s)Image test/crack/7.png: .*{message}"):
        scorer.update(*image, name="test/crack/7.png")
    assert scorer.compute() == given.scored()
    with pytest.raises(ScoringInputError, match=f"(?s)Image b.png: .*{message}"):
        score_arrays(
            *([good, b] for good, b in zip((FLAT, DEFECT, 0.1, 1), image, strict=True)), names=["a.png", "b.png"]
        )


def test_values_beyond_float16_are_named_and_leave_no_trace() -> None:
    scorer = Scorer()
    with pytest.raises(ScoringInputError, match=r"Image number 1: .*70000"):
        scorer.update(FLAT + 70_000, DEFECT, 0.5)
    assert scorer.compute().num_images == 0
    assert score_arrays([FLAT + 7e4], [DEFECT], [0.5]).metrics["auroc_seg"] == 0.5


def test_unlike_lengths_are_refused() -> None:
    with pytest.raises(ScoringInputError, match="2 maps, got 1 masks, 2 scores, 2 labels and 2 names"):
        score_arrays([FLAT, FLAT], [DEFECT], [0.1, 0.2])
