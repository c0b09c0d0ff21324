"""A scorer on disk: it comes back equal, merges as one pass, stays small, and broken files are refused by name."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.scorer import Scorer
from tests.support.plain_scores import Category


def category(seed: int = 0, images: int = 9) -> Category:
    """Noise with faint defects of two types, an image of unknown kind, and one whose label alone is known."""
    rng = np.random.default_rng(seed)
    given = Category([], [], [], [])
    for i in range(images):
        mask = np.zeros((25, 20 + i), dtype=bool)
        if i % 3:
            mask[3:9, 2:8] = mask[20, 5 + i] = mask[12:15, 10:12] = True
        given.maps.append((rng.random(mask.shape) + 0.4 * mask).astype(np.float32))
        given.masks.append(mask)
        given.scores.append(float(rng.normal() + (i % 3 > 0)))
        given.labels.append(None if i == 4 else int(i % 3 > 0))
        given.types.append(("good", "crack", "hole")[i % 3])
    return given


def saved_and_loaded(scorer: Scorer, path: Path) -> Scorer:
    scorer.save(path)
    return Scorer.load(path)


def arrays_in(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def assert_same_file(one: Path, other: Path) -> None:
    ours, same = arrays_in(one), arrays_in(other)
    assert set(ours) == set(same)
    for name, array in ours.items():
        assert array.dtype == same[name].dtype, name
        np.testing.assert_array_equal(array, same[name], err_msg=name)


def assert_same_curves(one: Scorer, other: Scorer) -> None:
    ours, same = one.curves(), other.curves()
    assert ours.pro is not None
    assert same.pro is not None
    np.testing.assert_array_equal(np.stack(ours.pro), np.stack(same.pro))
    for name in ("image", "pixel", "region"):
        for array, expected in zip(vars(getattr(ours, name)).values(), vars(getattr(same, name)).values(), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_it_comes_back_equal(tmp_path: Path) -> None:
    given = category()
    given.types = ["裂纹", 'a "quoted", \\ name', "é"] * 3
    before = given.scorer()
    after = saved_and_loaded(before, tmp_path / "état 1")
    assert after.compute() == before.compute() == given.scored()
    assert_same_curves(after, before)
    after.save(tmp_path / "again")
    assert_same_file(tmp_path / "again", tmp_path / "état 1")
    assert after.compute().recall_by_type.keys() == set(given.types[1:3])


def test_uncounted_images_survive(tmp_path: Path) -> None:
    given = category()
    given.masks[1] = None
    given.masks[4] = None
    result = saved_and_loaded(given.scorer(), tmp_path / "state").compute()
    assert result == given.scored()
    assert (result.num_images, result.num_unlabelled, result.num_anomalous) == (9, 1, 5)
    assert result.reasons["pro_seg"] == "1 of 5 anomalous images have no mask"


@pytest.mark.parametrize("split", [[range(9)], [range(4), range(4, 9)], [[i] for i in range(9)], [[], range(9), []]])
def test_loaded_parts_equal_one_pass_to_the_bit(split: list, tmp_path: Path) -> None:
    given, merged = category(3), Scorer()
    for number, part in enumerate(split):
        merged.merge(saved_and_loaded(given.scorer(part), tmp_path / str(number)))
    whole = given.scorer()
    assert merged.compute() == whole.compute()
    assert_same_curves(merged, whole)
    merged.save(tmp_path / "merged")
    whole.save(tmp_path / "whole")
    assert_same_file(tmp_path / "merged", tmp_path / "whole")


def test_more_may_be_added_after_loading(tmp_path: Path) -> None:
    given = category()
    scorer = saved_and_loaded(given.scorer(range(5)), tmp_path / "state")
    scorer.compute()
    for i in range(5, 9):
        scorer.update(given.maps[i], given.masks[i], given.scores[i], given.labels[i], defect_types=given.types[i])
    assert scorer.compute() == given.scored()


@pytest.mark.parametrize("images", [[], [0], [0, 3]])
def test_without_defects(images: list[int], tmp_path: Path) -> None:
    given = category()
    scorer = saved_and_loaded(given.scorer(images), tmp_path / "state")
    assert scorer.compute() == given.scored(images)
    for i in range(9):
        if i not in images:
            scorer.merge(saved_and_loaded(given.scorer([i]), tmp_path / "state"))
    assert scorer.compute() == given.scored()


def test_settings_survive_and_still_keep_unlike_scorers_apart(tmp_path: Path) -> None:
    loaded = saved_and_loaded(Scorer(pro_fpr_limit=0.05, region_f1=False), tmp_path / "state")
    assert (loaded.pro_fpr_limit, loaded.region_f1) == (0.05, False)
    loaded.merge(Scorer(pro_fpr_limit=0.05, region_f1=False))
    with pytest.raises(ScoringInputError, match=r"\(0\.05, False\), got \(0\.3, True\)"):
        loaded.merge(Scorer())


def test_files_are_small(tmp_path: Path) -> None:
    """Less than a bit for each pixel of the maps, and nothing but a few kB without any."""
    rng, scorer = np.random.default_rng(0), Scorer()
    Scorer().save(tmp_path / "empty")
    assert (tmp_path / "empty").stat().st_size < 8_000
    mask = np.zeros((300, 300), dtype=bool)
    mask[50:80, 60:90] = True
    for i in range(20):
        scorer.update(rng.random(mask.shape).astype(np.float16), mask if i % 2 else ~mask & False, 0.5)
    scorer.save(tmp_path / "full")
    assert (tmp_path / "full").stat().st_size < 20 * mask.size / 8


def refused(path: Path) -> None:
    with pytest.raises(ScoringInputError, match=r"(?s)Expected the state of a scorer.*Scorer\.save") as caught:
        Scorer.load(path)
    assert str(path) in str(caught.value)


def foreign(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


def head(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)


FOREIGN = {
    "empty": b"",
    "text": b"image,score\n1,0.5\n",
    "npy": npy(),
    "pickle": b"\x80\x04K\x03.",
    "zip without end": b"PK\x03\x04",
    "other arrays": foreign(maps=np.zeros(3)),
    "no JSON": foreign(head=np.arange(9, dtype=np.uint8)),
    "head a list": foreign(head=head([1, 2])),
    "another format": foreign(head=head({"format": "vandkit scorer 0"})),
    "arrays missing": foreign(head=head({"format": "vandkit scorer 1", "settings": {}, "shapes": {"patterns": [2]}})),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(FOREIGN[case])
    refused(tmp_path / "state")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere")
    refused(tmp_path)


def test_every_cut_file_is_refused(tmp_path: Path) -> None:
    category().scorer().save(tmp_path / "state")
    content = (tmp_path / "state").read_bytes()
    for end in range(0, len(content), len(content) // 40):
        (tmp_path / "cut").write_bytes(content[:end])
        refused(tmp_path / "cut")


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    given = category()
    given.scorer().save(tmp_path / "state")
    content, num_refused = bytearray((tmp_path / "state").read_bytes()), 0
    for place in range(0, len(content), len(content) // 150):
        changed = content.copy()
        changed[place] ^= 0x5A
        (tmp_path / "changed").write_bytes(changed)
        try:
            assert Scorer.load(tmp_path / "changed").compute() == given.scored()
        except ScoringInputError:
            num_refused += 1
    assert num_refused > 75
