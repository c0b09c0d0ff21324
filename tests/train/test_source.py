"""What may be trained on, and what is held out."""

import pytest

from tests.support.train_stand_ins import FlatDataset
from tracks.errors import TrackInputError
from train.adapters.source import hold_out, identity, labelled_samples, refuse_own_data

SOURCE = FlatDataset(name="synthetic", protocol={"split": "source"})


def test_identity_names_the_split_of_synthetic_data_only():
    assert identity(SOURCE) == "synthetic:source"
    assert identity(FlatDataset(name="mvtec", protocol={"split": "test"})) == "mvtec"


@pytest.mark.parametrize("target", ["mtd", "visa", "my_parts"])
def test_another_data_set_is_fine(target):
    refuse_own_data(FlatDataset(name="mvtec"), target, allow_same_dataset=False)


@pytest.mark.parametrize(
    ("dataset", "target"),
    [
        (FlatDataset(name="mvtec"), "mvtec"),
        (FlatDataset(name="mvtec"), "MVTec"),
        (SOURCE, "synthetic:source"),
        (FlatDataset(name="synthetic", protocol={"split": "target"}), "synthetic"),
    ],
)
def test_the_targets_own_data_set_is_refused_unless_allowed(dataset, target):
    with pytest.raises(TrackInputError, match="allow_same_dataset=true"):
        refuse_own_data(dataset, target, allow_same_dataset=False)
    refuse_own_data(dataset, target, allow_same_dataset=True)


def test_the_source_split_may_serve_the_synthetic_target_split():
    assert refuse_own_data(SOURCE, "synthetic", allow_same_dataset=False) == "synthetic"
    assert refuse_own_data(SOURCE, None, allow_same_dataset=False) == "synthetic"


def test_the_synthetic_target_split_is_no_default_source():
    with pytest.raises(TrackInputError, match="synthetic:target for both"):
        refuse_own_data(FlatDataset(name="synthetic", protocol={"split": "target"}), None, allow_same_dataset=False)


def test_no_target_is_refused():
    with pytest.raises(TrackInputError, match="expected target to name the data set"):
        refuse_own_data(FlatDataset(name="mvtec"), None, allow_same_dataset=False)


def test_a_misspelt_target_does_not_slip_past():
    with pytest.raises(TrackInputError, match="did you mean mvtec"):
        refuse_own_data(FlatDataset(name="mvtec"), "mvtek", allow_same_dataset=False)


def test_hold_out_by_name_keeps_the_order():
    assert hold_out(["a", "b", "c"], names=["b"], share=0, seed=0) == (["a", "c"], ["b"])
    assert hold_out(["a", "b", "c"], names=[], share=0, seed=0) == (["a", "b", "c"], [])


def test_hold_out_by_share_is_seeded_and_disjoint():
    names = [f"c{i}" for i in range(10)]
    learnt, held = hold_out(names, names=[], share=0.3, seed=4)
    assert len(held) == 3
    assert sorted(learnt + held) == sorted(names)
    assert hold_out(names, names=[], share=0.3, seed=4) == (learnt, held)
    assert len({tuple(hold_out(names, names=[], share=0.3, seed=seed)[1]) for seed in range(10)}) > 3
    assert len(hold_out(names, names=[], share=0.01, seed=4)[1]) == 1


@pytest.mark.parametrize(
    ("names", "share", "message"),
    [
        (["tub"], 0, "did you mean"),
        (["tube"], 0.5, "got both"),
        ([], 1.0, "less than 1"),
        ([], -0.1, "from 0 up"),
        (["plate", "tube", "cord"], 0, "category left to train on"),
    ],
)
def test_hold_out_refuses(names, share, message):
    with pytest.raises(TrackInputError, match=message):
        hold_out(["plate", "tube", "cord"], names=names, share=share, seed=0)


def test_labelled_samples_are_the_test_images_of_the_named_categories():
    samples = labelled_samples(FlatDataset(), ["tube", "plate"])
    assert [sample.category for sample in samples] == ["tube"] * 8 + ["plate"] * 8


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (FlatDataset(blots=0, holes=0), "expected anomalous test images of plate of flat, got 4 images"),
        (FlatDataset(good=0, blots=0, holes=0), "got 0 images"),
        (FlatDataset(masked=False), "expected masks for the anomalous test images of plate"),
        (FlatDataset(labelled=False), "got 8 without a label"),
    ],
)
def test_unusable_categories_are_refused(dataset, message):
    with pytest.raises(TrackInputError, match=message):
        labelled_samples(dataset, ["plate"])
