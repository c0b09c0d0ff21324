from pathlib import Path

import PIL.Image
import pytest

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.folder import Folder
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError
from tracks.run.references import resolve
from tracks.run.track import samples_to_score


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    for number in (1, 2, 10):
        save_image(root / "fine" / f"{number}.png")
    for kind, level in (("dent", 255), ("scratch", 3)):
        save_image(root / "broken" / kind / "1.jpg")
        save_mask(root / "masks" / kind / "1.png", {(2, 5): level})
    return root


def named(samples) -> list[str]:  # type: ignore[no-untyped-def]
    return [sample.name for sample in samples]


def test_folders_below_the_root(parts: Path) -> None:
    dataset: Dataset = Folder(parts, "fine", "broken", "masks", category="bracket")
    assert (dataset.name, tuple(dataset.categories)) == ("folder", ("bracket",))
    samples = list(dataset.test("bracket"))
    assert named(samples) == ["broken/dent/1.jpg", "broken/scratch/1.jpg", "fine/1.png", "fine/2.png", "fine/10.png"]
    assert [sample.defect_type for sample in samples] == ["dent", "scratch", "good", "good", "good"]
    assert [sample.label for sample in samples] == [1, 1, 0, 0, 0]
    assert [marked(sample.load_mask()) for sample in samples[:3]] == [{(2, 5)}, {(2, 5)}, set()]
    assert dataset.protocol["mask_rule"] == "> 0"
    with pytest.raises(TrackInputError, match="got 'object'"):
        dataset.test("object")


def test_references_leave_the_scores_where_there_is_one_pool(parts: Path) -> None:
    dataset = Folder(parts, "fine", "broken", "masks")
    drawn = resolve(dataset, "object", shots=2, seed=0)
    scored = samples_to_score(dataset, "object", drawn)
    assert len(scored) == 3
    assert not set(named(drawn)) & set(named(scored))
    assert dataset.protocol["reference_pool"] == "the normal test images; those drawn are not scored"


def test_normal_images_to_test_on(parts: Path) -> None:
    save_image(parts / "later" / "1.png")
    dataset = Folder(parts, "fine", "broken", "masks", "later")
    assert named(dataset.test("object")) == ["broken/dent/1.jpg", "broken/scratch/1.jpg", "later/1.png"]
    assert named(dataset.train("object")) == ["fine/1.png", "fine/2.png", "fine/10.png"]
    assert "reference_pool" not in dataset.protocol


def test_lists_of_folders_with_masks_in_pairs_or_in_one(parts: Path) -> None:
    both = ["broken/scratch", "broken/dent"]
    for masks in (["masks/scratch", "masks/dent"], "masks"):
        samples = Folder(parts, ["fine"], both, masks).test("object")
        assert [sample.mask_path.parent.name for sample in samples[:2]] == ["scratch", "dent"]  # type: ignore[union-attr]
        assert [sample.defect_type for sample in samples[:2]] == ["scratch", "dent"]
    with pytest.raises(TrackInputError, match="one for each of 2 abnormal_dir in their order, got 3"):
        Folder(parts, "fine", both, ["masks", "masks", "masks"])


def test_no_masks_and_masks_without_images(parts: Path) -> None:
    assert [s.load_mask() is None for s in Folder(parts, "fine", "broken").test("object")] == [True] * 2 + [False] * 3
    with pytest.raises(TrackInputError, match=r"abnormal_dir with the mask_dir .*masks, got none"):
        Folder(parts, "fine", mask_dir="masks")


def test_masks_are_matched_by_name(parts: Path) -> None:
    save_image(parts / "broken/dent/A.PNG")
    with pytest.raises(
        TrackInputError, match=r"mask for .*dent/A\.PNG at .*masks/dent/A_mask\.png \(or under .*dent/A"
    ):
        Folder(parts, "fine", "broken", "masks")
    save_mask(parts / "masks/dent/A_mask.bmp", {(1, 1): 255})
    samples = {sample.name: sample for sample in Folder(parts, "fine", "broken", "masks").test("object")}
    assert marked(samples["broken/dent/A.PNG"].load_mask()) == {(1, 1)}
    assert marked(samples["broken/dent/1.jpg"].load_mask()) == {(2, 5)}
    save_mask(parts / "masks/dent/A.png")
    with pytest.raises(TrackInputError, match=r"one mask for .*A\.PNG, got .*A_mask\.bmp and .*A\.png"):
        Folder(parts, "fine", "broken", "masks")


def test_masks_beside_their_images(parts: Path) -> None:
    save_image(parts / "mixed/a.png")
    save_mask(parts / "mixed/a_mask.png", {(0, 1): 9})
    samples = Folder(parts, abnormal_dir="mixed", mask_dir="mixed").test("object")
    assert named(samples) == ["mixed/a.png"]
    assert marked(samples[0].load_mask()) == {(0, 1)}


def test_folders_inside_each_other(parts: Path) -> None:
    save_image(parts / "0.png")
    dataset = Folder(parts, ".", "broken", "masks")
    assert named(dataset.train("object")) == ["0.png", "fine/1.png", "fine/2.png", "fine/10.png"]


def test_flat_folder_for_zero_shot(parts: Path) -> None:
    save_image(parts / "fine/.hidden.png")
    dataset = Folder(parts / "fine")
    samples = dataset.test("object")
    assert [(s.name, s.label, s.defect_type) for s in samples] == [(f"{n}.png", None, "") for n in (1, 2, 10)]
    assert all(sample.load_mask() is None for sample in samples)
    assert dataset.protocol["labels"] == "none"
    with pytest.raises(TrackInputError, match=r"named as data\.normal_dir.*shots=0"):
        dataset.train("object")


@pytest.mark.parametrize("given", ["PNG", [".png"], ["png"], (" .Png",)])
def test_extensions(parts: Path, given: str | list[str]) -> None:
    save_image(parts / "fine/20.PNG")
    save_image(parts / "fine/3.jpg")
    assert named(Folder(parts / "fine", extensions=given).test("object")) == ["1.png", "2.png", "10.png", "20.PNG"]


def test_extension_that_is_not_known_by_itself(parts: Path) -> None:
    PIL.Image.new("L", (8, 6), 7).save(parts / "fine" / "4.ppm")
    (sample,) = Folder(parts / "fine", extensions=[".ppm"]).test("object")
    assert sample.load_image().getpixel((0, 0)) == (7, 7, 7)


def test_absolute_folders_elsewhere(parts: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere/good/1.png")
    dataset = Folder(parts, tmp_path / "elsewhere/good", "broken", "masks")
    assert named(dataset.train("object")) == ["good/1.png"]


def test_overlaps_and_missing_folders(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackInputError, match=r"every image in one of the folders, got .*fine/1\.png in two"):
        Folder(parts, "fine", "broken", "masks", "fine")
    with pytest.raises(TrackInputError, match="every image in one of the folders"):
        Folder(parts, "fine", "fine")
    for place in ("a", "b"):
        save_image(tmp_path / place / "good/1.png")
    with pytest.raises(TrackInputError, match=r"got good/1\.png in two; .*outside the root"):
        Folder(parts, [tmp_path / "a/good", tmp_path / "b/good"], "broken")
    with pytest.raises(TrackInputError, match=r"holds no 'find'; did you mean fine\?"):
        Folder(parts, "find", "broken")
    with pytest.raises(TrackInputError, match="nothing to test on"):
        Folder(parts, "fine")
    (parts / "none").mkdir()
    with pytest.raises(TrackInputError, match=r"images in .*none, got no file ending in \.png"):
        Folder(parts, "fine", "none")


def test_sizes_levels_and_depth_reach_the_samples(parts: Path) -> None:
    save_mask(parts / "masks/dent/1.png", size=(9, 6))
    sample = Folder(parts, "fine", "broken", "masks").test("object")[0]
    with pytest.raises(TrackInputError, match=r"dent/1\.jpg of 8 x 6 and .*dent/1\.png of 9 x 6"):
        sample.load_mask()
    dataset = Folder(parts, "fine", "broken", "masks", mask_above=3, bit_depth=12)
    assert dataset.protocol == {**dataset.protocol, "mask_rule": "> 3", "bit_depth": 12}
    with pytest.raises(TrackInputError, match="level above 3"):
        dataset.test("object")[1].load_mask()
    assert dataset.test("object")[1].bit_depth == 12
