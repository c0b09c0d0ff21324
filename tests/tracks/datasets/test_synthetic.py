"""The rendered data set: counts, names, labels, pickling and the folder it can be written to."""

import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tracks.datasets.sample import Dataset, Sample
from tracks.datasets.synthetic import HELD_OUT_KINDS, SOURCE, TARGET, VALIDATION, Synthetic
from tracks.datasets.synthetic.__main__ import main
from tracks.errors import TrackInputError


def _as_dataset(data: Dataset) -> Dataset:
    return data


def test_counts_names_and_labels() -> None:
    data = _as_dataset(Synthetic())
    assert tuple(data.categories) == TARGET
    for category in data.categories:
        train, test = data.train(category), data.test(category)
        assert len(train) == 16
        assert all(sample.label == 0 and sample.defect_type == "good" for sample in train)
        assert sum(sample.label == 0 for sample in test) == 20
        assert sum(sample.label == 1 for sample in test) == 24
        names = [sample.name for sample in [*train, *test]]
        assert len(set(names)) == len(names)
        assert all(sample.name == f"test/{sample.defect_type}/{sample.name[-7:]}" for sample in test)
        assert len({sample.fingerprint for sample in [*train, *test]}) == len(names)


def test_target_has_kinds_never_trained_on_and_source_has_none() -> None:
    for split, some in (("target", True), ("validation", True), ("source", False)):
        data = Synthetic(split)  # type: ignore[arg-type]
        for category in data.categories:
            kinds = data.kinds(category)
            assert len(kinds) == len(set(kinds)) == 6
            assert any(kind in HELD_OUT_KINDS for kind in kinds) == some
    assert tuple(Synthetic("source").categories) == SOURCE
    assert tuple(Synthetic("validation").categories) == VALIDATION


def test_a_sample_is_small_lazy_and_agrees_with_its_mask() -> None:
    sample: Sample = Synthetic(image_size=96).test("candles")[-1]
    packed = pickle.dumps(sample)
    assert len(packed) < 1000
    copy = pickle.loads(packed)
    assert copy == sample
    image, mask = copy.load_image(), copy.load_mask()
    assert image.mode == "RGB"
    assert image.size == (96, 96)
    assert mask.shape == (96, 96)
    assert mask.any()
    mask[:] = False
    assert copy.load_mask().any(), "a caller's change reached the next caller"


def test_normal_samples_have_empty_masks() -> None:
    data = Synthetic(image_size=64)
    for sample in [data.train("denim")[0], data.test("denim")[0]]:
        np.testing.assert_array_equal(sample.load_mask(), np.zeros((64, 64), bool))


def test_train_and_test_images_and_seeds_differ() -> None:
    first, second = Synthetic(image_size=64), Synthetic(image_size=64, seed=1)
    images = [
        np.asarray(sample.load_image())
        for sample in (first.train("marble")[0], first.test("marble")[0], second.train("marble")[0])
    ]
    assert (images[0] != images[1]).mean() > 0.3
    assert (images[0] != images[2]).mean() > 0.3
    assert first.train("marble")[0].fingerprint != second.train("marble")[0].fingerprint


def test_protocol_labels() -> None:
    labels = Synthetic("validation", seed=3, image_size=128).protocol
    assert labels["split"] == "validation"
    assert labels["data_seed"] == 3
    assert labels["image_size"] == 128


def test_bad_settings_are_named() -> None:
    with pytest.raises(TrackInputError, match="'test'"):
        Synthetic("test")  # type: ignore[arg-type]
    with pytest.raises(TrackInputError, match="test_normal must be 0 or more; got -1"):
        Synthetic(test_normal=-1)
    with pytest.raises(TrackInputError, match=r"target split has no category 'leather'.*denim"):
        Synthetic().test("leather")


def test_written_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path), "--split", "target", "--category", "marble", "--image-size", "64", "--seed", "2"])
    assert "60 images written" in capsys.readouterr().out
    data = Synthetic("target", 2, 64)
    assert len(list((tmp_path / "marble/train/good").glob("*.png"))) == 16
    for sample in data.test("marble")[18:23]:
        stored = np.asarray(PIL.Image.open(tmp_path / "marble" / sample.name))
        np.testing.assert_array_equal(stored, np.asarray(sample.load_image()))
        truth = tmp_path / "marble/ground_truth" / sample.defect_type / f"{Path(sample.name).stem}_mask.png"
        assert truth.exists() == bool(sample.label)
        if sample.label:
            np.testing.assert_array_equal(np.asarray(PIL.Image.open(truth)) == 255, sample.load_mask())


def test_unknown_category_on_the_command_line_exits_with_2(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        main([str(tmp_path), "--category", "leather"])
    assert error.value.code == 2
