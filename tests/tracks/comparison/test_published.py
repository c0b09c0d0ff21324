"""What the papers print for a model, a setting and a data set, or part of one."""

import pytest

from eval.published.reader import load
from tracks.command.cli import CONF
from tracks.comparison.published import published

MVTEC = [row.words["Object"] for row in load("april_gan/5").rows if row.words["Object"] != "Mean"]
MODELS = [path.stem for path in (CONF / "model").glob("*.yaml")]


def figures_of(*arguments):
    return {(each.model, each.shots): each for each in published(*arguments)}


def test_published_means_belong_to_whole_data_sets():
    found = figures_of("mvtec", MVTEC, MODELS, [0, 1])
    assert found["winclip", 1].figures["auroc_cls"] == 93.1
    assert found["winclip", 1].deviations["auroc_cls"] == 2.0
    assert "ap_seg" not in found["winclip", 1].figures
    assert found["clip_adapter", 0].figures["f1_seg"] == 43.3
    assert found["winclip", 0].table == "april_gan/3", "a model has its figures from one table"
    assert found["utad", 0].figures == {"f1_seg": 23.48, "f1_region": 17.53}
    assert found["saa_plus", 0].table == "saa_extended/1"
    assert "several regions" in found["saa_plus", 0].note
    assert ("clip_adapter", 4) not in found


def test_for_part_of_a_data_set_only_figures_by_category_count():
    found = figures_of("mvtec", ["bottle"], MODELS, [0, 1, 2, 4])
    assert set(found) == {*(("clip_adapter", shots) for shots in (0, 1, 2, 4)), ("saa_plus", 0)}
    assert found["clip_adapter", 0].figures["auroc_cls"] == 92.0
    assert (found["clip_adapter", 1].note, found["clip_adapter", 1].deviations) == ("its category bottle", {})
    two = figures_of("mvtec", ["carpet", "grid"], MODELS, [0])
    assert two["saa_plus", 0].figures == {"f1_seg": pytest.approx((56.64 + 18.09) / 2)}
    assert two["saa_plus", 0].note == "mean over 2 of its categories"
    assert published("mvtec", ["bottle", "my own part"], MODELS, [0]) == []


def test_sets_of_one_category_and_sets_without_figures():
    assert published("mtd", ["tile"], ["saa_plus"], [0])[0].figures == {"f1_seg": 35.4, "f1_region": 30.27}
    assert published("synthetic", ["denim"], MODELS, [0, 1]) == []
