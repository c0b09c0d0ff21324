"""MVTec LOCO, MVTec AD 2, DAGM, and the sets in MVTec layout with names of their own."""

import pickle
import shutil
from pathlib import Path

import PIL.Image
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.support.dataset_stand_ins import marked, save_image, save_mask
from tracks.datasets.dagm import DAGM
from tracks.datasets.mvtec import MVTec
from tracks.datasets.mvtec_ad2 import MVTecAD2
from tracks.datasets.mvtec_loco import MVTecLOCO
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError
from tracks.run.references import resolve

CONF = Path(__file__).resolve().parents[3] / "conf" / "data"


def built(name: str, root: Path):  # type: ignore[no-untyped-def]
    """The data set of a configuration, with the rest of it at the defaults."""
    node = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), {"root": str(root)})
    return instantiate(OmegaConf.create({"categories": [], "data": node}).data)


# ---- MVTec LOCO


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    root = tmp_path / "mvtec_loco"
    for part in ("train", "validation"):
        save_image(root / "pushpins" / part / "good" / "000.png")
    for number in (2, 10):
        save_image(root / "pushpins/test/logical_anomalies" / f"{number:03d}.png")
    save_image(root / "pushpins/test/good/000.png")
    truth = root / "pushpins/ground_truth/logical_anomalies"
    save_mask(truth / "002/000.png", {(0, 0): 255})
    save_mask(truth / "002/001.png", {(5, 7): 1})
    save_mask(truth / "010/000.png", {(3, 3): 200})
    return root


def test_masks_of_an_image_are_united(loco: Path) -> None:
    dataset: Dataset = MVTecLOCO(loco)
    samples = list(dataset.test("pushpins"))
    assert [sample.name for sample in samples] == [
        "test/good/000.png", "test/logical_anomalies/002.png", "test/logical_anomalies/010.png",
    ]  # fmt: skip
    assert [sample.defect_type for sample in samples] == ["good", "logical_anomalies", "logical_anomalies"]
    assert [marked(sample.load_mask()) for sample in samples] == [set(), {(0, 0), (5, 7)}, {(3, 3)}]
    assert [sample.name for sample in dataset.train("pushpins")] == ["train/good/000.png"]
    assert dataset.protocol["mask_rule"] == "> 0 in any of an image's masks"
    assert "sPRO" in str(dataset.protocol["saturation"])


def test_every_mask_counts_for_fingerprint_size_and_pickle(loco: Path) -> None:
    sample = MVTecLOCO(loco).test("pushpins")[1]
    before = sample.fingerprint
    assert pickle.loads(pickle.dumps(sample)) == sample
    second = loco / "pushpins/ground_truth/logical_anomalies/002/001.png"
    save_mask(second, {}, size=(30, 30))
    assert sample.fingerprint != before
    with pytest.raises(TrackInputError, match=r"002\.png of 8 x 6 and .*002/001\.png of 30 x 30"):
        sample.load_mask()
    for name in ("000", "001"):
        save_mask(second.with_name(f"{name}.png"), {})
    with pytest.raises(TrackInputError, match=r"mask .*002/000\.png \(with 1 more\) to mark a defect"):
        sample.load_mask()


def test_missing_masks_of_loco(loco: Path) -> None:
    truth = loco / "pushpins/ground_truth"
    (truth / "logical_anomalies/010/000.png").unlink()
    with pytest.raises(TrackInputError, match=r"masks of .*010\.png in the folder .*logical_anomalies/010"):
        MVTecLOCO(loco)
    shutil.rmtree(truth)
    assert [sample.load_mask() is None for sample in MVTecLOCO(loco).test("pushpins")] == [False, True, True]


def test_categories_of_loco(loco: Path) -> None:
    with pytest.raises(TrackInputError, match="did you mean pushpins"):
        MVTecLOCO(loco, ["pushpin"])
    shutil.rmtree(loco / "pushpins/train")
    with pytest.raises(TrackInputError, match="shots=0"):
        MVTecLOCO(loco).train("pushpins")
    shutil.rmtree(loco / "pushpins/test")
    (loco / "pushpins/test").mkdir()
    with pytest.raises(TrackInputError, match="test images of category pushpins"):
        MVTecLOCO(loco)


# ---- MVTec AD 2


@pytest.fixture
def ad2(tmp_path: Path) -> Path:
    root = tmp_path / "mvtec_ad_2"
    for category in ("can", "vial"):
        for part, count in (("train", 3), ("validation", 2), ("test_public", 1)):
            for number in range(count):
                save_image(root / category / part / "good" / f"{number:03d}_regular.png")
        save_image(root / category / "test_public/bad/000_overexposed.png")
        save_mask(root / category / "test_public/ground_truth/bad/000_overexposed_mask.png", {(1, 6): 255})
        for number in (0, 1):
            save_image(root / category / "test_private" / f"{number:03d}_regular.png")
            save_image(root / category / "test_private_mixed" / f"{number:03d}_mixed.png")
    return root


def test_public_set(ad2: Path) -> None:
    dataset: Dataset = MVTecAD2(ad2)
    assert list(dataset.categories) == ["can", "vial"]
    samples = list(dataset.test("can"))
    assert [(sample.name, sample.label) for sample in samples] == [
        ("test_public/bad/000_overexposed.png", 1), ("test_public/good/000_regular.png", 0),
    ]  # fmt: skip
    assert [marked(sample.load_mask()) for sample in samples] == [{(1, 6)}, set()]
    assert len(resolve(dataset, "can", shots=3, seed=0)) == 3
    assert dataset.protocol == {"mask_rule": "> 0", "split": "test_public"}


@pytest.mark.parametrize(("split", "ending"), [("test_private", "regular"), ("test_private_mixed", "mixed")])
def test_private_sets_have_no_labels(ad2: Path, split: str, ending: str) -> None:
    dataset = MVTecAD2(ad2, split)  # type: ignore[arg-type]
    samples = dataset.test("vial")
    assert [sample.name for sample in samples] == [f"{split}/00{number}_{ending}.png" for number in (0, 1)]
    assert [(sample.label, sample.defect_type, sample.load_mask()) for sample in samples] == [(None, "", None)] * 2
    assert dataset.protocol["labels"] == "none"
    assert dataset.protocol["split"] == split


def test_validation_set_and_wrong_splits(ad2: Path) -> None:
    samples = MVTecAD2(ad2, "validation").test("can")
    assert [sample.name for sample in samples] == ["validation/good/000_regular.png", "validation/good/001_regular.png"]
    with pytest.raises(TrackInputError, match=r"split to be one of test_public, .*did you mean test_public"):
        MVTecAD2(ad2, "test-public")  # type: ignore[arg-type]
    shutil.rmtree(ad2 / "vial/test_private")
    with pytest.raises(TrackInputError, match=r"images of category vial in .*vial/test_private, got none"):
        MVTecAD2(ad2, "test_private")
    assert MVTecAD2(ad2, "test_private", ["can"]).categories == ("can",)


def test_masks_and_roots_of_ad2(ad2: Path) -> None:
    assert MVTecAD2(ad2 / "can").categories == ("can",)
    with pytest.raises(TrackInputError, match=r"its folder .*mvtec_ad_2 has it"):
        MVTecAD2(ad2.parent)
    save_image(ad2 / "can/test_public/bad/001_shifted.png")
    with pytest.raises(TrackInputError, match=r"mask for .*001_shifted\.png"):
        MVTecAD2(ad2)


# ---- DAGM


@pytest.fixture
def dagm(tmp_path: Path) -> Path:
    """Class10 unpacked into a folder of its own name; only defective images have masks."""
    root = tmp_path / "DAGM"
    for place in ("Class1", "Class10/Class10"):
        for part in ("Train", "Test"):
            for number in (1, 2, 3):
                save_image(root / place / part / f"{number:04d}.PNG")
            save_mask(root / place / part / "Label" / "0002_label.PNG", {(3, 1): 255})
            lines = ["1", *(f"{n}\t{int(n == 2)}\t{n:04d}.PNG\t{int(n == 2)}\t0002_label.PNG" for n in (1, 2, 3))]
            (root / place / part / "Label" / "Labels.txt").write_text("\n".join(lines))
    return root


def test_textures(dagm: Path) -> None:
    dataset: Dataset = DAGM(dagm)
    assert list(dataset.categories) == ["Class1", "Class10"]
    for category in dataset.categories:
        samples = list(dataset.test(category))
        assert [(s.name, s.label) for s in samples] == [(f"Test/000{n}.PNG", int(n == 2)) for n in (1, 2, 3)]
        assert [marked(sample.load_mask()) for sample in samples] == [set(), {(3, 1)}, set()]
        assert [sample.name for sample in dataset.train(category)] == ["Train/0001.PNG", "Train/0003.PNG"]
    assert dataset.protocol["mask_shape"] == "coarse ellipses"


def test_a_lost_mask_does_not_make_an_image_normal(dagm: Path) -> None:
    (dagm / "Class1/Test/Label/0002_label.PNG").unlink()
    with pytest.raises(TrackInputError, match=r"mask 0002_label\.PNG in .*Class1/Test/Label, as Labels\.txt"):
        DAGM(dagm)
    (dagm / "Class1/Test/Label/Labels.txt").unlink()
    assert [sample.label for sample in DAGM(dagm).test("Class1")] == [0, 0, 0]
    shutil.rmtree(dagm / "Class1/Test/Label")
    with pytest.raises(TrackInputError, match=r"Class1/Test/Label, got no such folder"):
        DAGM(dagm)


def test_other_faults_of_textures(dagm: Path) -> None:
    save_mask(dagm / "Class1/Test/Label/0009_label.PNG")
    with pytest.raises(TrackInputError, match=r"image for the mask .*0009_label\.PNG"):
        DAGM(dagm)
    assert DAGM(dagm / "Class10").categories == ("Class10",)
    with pytest.raises(TrackInputError, match=r"its folder .*DAGM holds them"):
        DAGM(dagm.parent)
    shutil.rmtree(dagm / "Class10/Class10/Train")
    with pytest.raises(TrackInputError, match="shots=0"):
        DAGM(dagm, ["Class10"]).train("Class10")


# ---- MVTec layout, or nearly so, under other names


def test_reader_of_mvtec_names_the_reader_that_fits(loco: Path, ad2: Path, dagm: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackInputError, match="a folder of masks, as in MVTec LOCO: use data=mvtec_loco"):
        MVTec(loco)
    for root, reader in ((ad2, "mvtec_ad2"), (ad2 / "can", "mvtec_ad2"), (dagm, "dagm"), (dagm / "Class1", "dagm")):
        with pytest.raises(TrackInputError, match=f"use data={reader}"):
            MVTec(root)
    for place, reader in (("ksdd2/test/1_GT.png", "ksdd2"), ("ksdd/kos01/Part0_label.bmp", "ksdd")):
        save_mask(tmp_path / place)
        with pytest.raises(TrackInputError, match=f"use data={reader}"):
            MVTec(tmp_path / Path(place).parts[0])


def test_btad_with_its_odd_names(tmp_path: Path) -> None:
    root = tmp_path / "BTech_Dataset_transformed"
    for category, image, mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        save_image(root / category / "train/ok" / f"0001.{image}")
        save_image(root / category / "test/ok" / f"0000.{image}")
        save_image(root / category / "test/ko" / f"0002.{image.upper()}")
        save_mask(root / category / "ground_truth/ko" / f"0002.{mask}", {(2, 2): 255})
    dataset = built("btad", root)
    assert (dataset.name, dataset.categories) == ("btad", ("01", "02", "03"))
    for category in dataset.categories:
        samples = dataset.test(category)
        assert [(sample.label, sample.defect_type) for sample in samples] == [(1, "ko"), (0, "good")]
        assert [marked(sample.load_mask()) for sample in samples] == [{(2, 2)}, set()]
        assert len(resolve(dataset, category, shots=1, seed=0)) == 1


@pytest.mark.parametrize(
    ("name", "category", "kind"), [("mpdd", "bracket_black", "hole"), ("dtd_synthetic", "Woven_001", "bad")]
)
def test_sets_in_mvtec_layout(tmp_path: Path, name: str, category: str, kind: str) -> None:
    save_image(tmp_path / category / "train/good/000.png")
    save_image(tmp_path / category / "test" / kind / "000.png")
    save_mask(tmp_path / category / "ground_truth" / kind / "000_mask.png", {(0, 3): 40})  # a soft edge
    dataset = built(name, tmp_path)
    assert (dataset.name, dataset.categories) == (name, (category,))
    (sample,) = dataset.test(category)
    assert marked(sample.load_mask()) == {(0, 3)}
    assert sample.defect_type == kind
    assert len(dataset.train(category)) == 1


@pytest.mark.parametrize("name", ["btad", "mpdd", "dtd_synthetic", "visa"])
def test_mvtec_ad_is_not_taken_for_another_set(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "bottle/test/good/000.png")
    with pytest.raises(Exception, match=r"(?i)expected categories of .*, got bottle in .*read by data=mvtec") as caught:
        built(name, tmp_path)
    assert isinstance(caught.value.__cause__, TrackInputError)
    assert MVTec(tmp_path, name=f"my_{name}").categories == ("bottle",)


def test_palette_masks_of_kinds_are_defects(loco: Path) -> None:
    """Masks that name kinds by colours of a palette."""
    mask = PIL.Image.new("P", (8, 6))
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.putpixel((4, 2), 2)
    mask.save(loco / "pushpins/ground_truth/logical_anomalies/010/000.png")
    assert marked(MVTecLOCO(loco).test("pushpins")[2].load_mask()) == {(2, 4)}
