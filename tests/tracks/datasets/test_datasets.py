import inspect
import os
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hydra.utils import get_method
from omegaconf import OmegaConf

from models.errors import closest_name
from tests.support.dataset_stand_ins import save_image as save
from tests.support.dataset_stand_ins import save_mask
from tracks.command.names import missing_path, unknown
from tracks.datasets import formats
from tracks.datasets.files import FileSample, list_images, natural_key
from tracks.datasets.mtd import MTD, UNMARKED
from tracks.datasets.mvtec import MVTec
from tracks.datasets.notices import counted_notices
from tracks.datasets.photos import Listed, Photos
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError

CONF = Path(__file__).resolve().parents[3] / "conf"
REAL_DATA = os.environ.get("VANDKIT_REAL_DATA")
on_real_data = pytest.mark.skipif(not REAL_DATA, reason="VANDKIT_REAL_DATA names no folder with mtd, mvtec and piped")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two categories; images 0, 1, 2 and 10 so that natural order differs from that of the alphabet."""
    root = tmp_path / "parts"
    for category in ("bolt", "nut"):
        for number in (0, 1, 2, 10):
            save(root / category / "train" / "good" / f"{number}.png")
            save(root / category / "test" / "crack" / f"{number}.png")
            save_mask(root / category / "ground_truth" / "crack" / f"{number}_mask.png")
        save(root / category / "test" / "good" / "7.png")
    return root


# ---- MVTec


def test_names_labels_and_order(tree: Path) -> None:
    dataset: Dataset = MVTec(tree)
    assert dataset.name == "parts"
    assert list(dataset.categories) == ["bolt", "nut"]
    assert dataset.protocol == {"mask_rule": "> 0"}
    samples: list[Sample] = list(dataset.test("nut"))
    crack = [f"test/crack/{number}.png" for number in (0, 1, 2, 10)]
    assert [sample.name for sample in samples] == [*crack, "test/good/7.png"]
    assert [sample.label for sample in samples] == [1, 1, 1, 1, 0]
    assert [sample.defect_type for sample in samples] == ["crack"] * 4 + ["good"]
    assert {sample.category for sample in samples} == {"nut"}
    assert [sample.name for sample in dataset.train("nut")] == [f"train/good/{number}.png" for number in (0, 1, 2, 10)]
    assert {sample.label for sample in dataset.train("nut")} == {0}


def test_masks_of_normal_and_anomalous_images(tree: Path) -> None:
    samples = MVTec(tree).test("bolt")
    expected = np.zeros((6, 8), dtype=bool)
    np.testing.assert_array_equal(samples[-1].load_mask(), expected)
    expected[0, 0] = True
    np.testing.assert_array_equal(samples[0].load_mask(), expected)
    assert samples[0].load_image().size == (8, 6)
    assert samples[0].load_image().getpixel((0, 0)) == (100, 100, 100)


def test_a_root_that_is_one_category(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MVTec(tree / "bolt").categories == ("bolt",)
    monkeypatch.chdir(tree / "nut")
    assert MVTec(".").categories == ("nut",)


def test_chosen_categories_keep_their_order_and_others_are_not_looked_at(tree: Path) -> None:
    (tree / "nut" / "ground_truth" / "crack" / "2_mask.png").unlink()
    assert MVTec(tree, ["bolt"]).categories == ("bolt",)
    with pytest.raises(TrackInputError, match="one of bolt, got 'nut'"):
        MVTec(tree, ["bolt"]).test("nut")
    with pytest.raises(TrackInputError, match=r"mask for .*2\.png"):
        MVTec(tree, [])


def test_masks_are_matched_by_name_never_by_position(tree: Path) -> None:
    save(tree / "bolt" / "ground_truth" / "crack" / "0_mask.png", 0)  # would be the first in line
    save_mask(tree / "bolt" / "ground_truth" / "crack" / "00_mask.png")
    (tree / "bolt" / "test" / "crack" / "0.png").unlink()
    samples = MVTec(tree).test("bolt")
    for sample in samples[:3]:
        assert sample.mask_path == tree / "bolt" / "ground_truth" / "crack" / f"{sample.path.stem}_mask.png"


def test_other_suffixes_hidden_files_and_strangers(tree: Path) -> None:
    crack, truth = tree / "bolt" / "test" / "crack", tree / "bolt" / "ground_truth" / "crack"
    save(crack / "upper.PNG")
    save(crack / "photo.Jpeg")
    save(crack / "b.BMP")
    save_mask(truth / "upper.png")  # VisA's naming
    save_mask(truth / "photo_mask.bmp")
    save_mask(truth / "b_mask.TIF")
    save(crack / "._0.png")
    (crack / "Thumbs.db").write_bytes(b"x")
    (crack / "notes.txt").write_text("x")
    (tree / ".cache").mkdir()
    names = [sample.path.name for sample in MVTec(tree).test("bolt")]
    assert names == ["0.png", "1.png", "2.png", "10.png", "b.BMP", "photo.Jpeg", "upper.PNG", "7.png"]


def test_two_files_for_one_mask(tree: Path) -> None:
    truth = tree / "bolt" / "ground_truth" / "crack"
    save_mask(truth / "1.png")
    with pytest.raises(TrackInputError, match=r"one mask for .*crack/1\.png, got .*1_mask\.png and .*/1\.png"):
        MVTec(tree)
    (truth / "1.png").unlink()
    save_mask(truth / "1_mask.bmp")
    with pytest.raises(TrackInputError, match=r"one mask for 1_mask, got .*1_mask\.bmp and .*1_mask\.png"):
        MVTec(tree)


def test_two_images_for_one_mask(tree: Path) -> None:
    save(tree / "bolt" / "test" / "crack" / "1.jpg")
    with pytest.raises(TrackInputError, match=r"one image for 1, got .*1\.jpg and .*1\.png"):
        MVTec(tree)


def test_no_masks_at_all_is_allowed_but_one_missing_is_not(tree: Path) -> None:
    truth = tree / "bolt" / "ground_truth" / "crack"
    (truth / "10_mask.png").unlink()
    with pytest.raises(TrackInputError, match=r"crack/10\.png named 10_mask\.png or 10\.png in .*ground_truth/crack"):
        MVTec(tree)
    for path in truth.iterdir():
        path.unlink()
    truth.rmdir()
    samples = MVTec(tree).test("bolt")
    assert [sample.load_mask() is None for sample in samples] == [True] * 4 + [False]


def test_mask_of_another_size(tree: Path) -> None:
    path = save_mask(tree / "bolt" / "ground_truth" / "crack" / "0_mask.png", size=(9, 6))
    with pytest.raises(TrackInputError, match=rf"crack/0\.png of 8 x 6 and {path} of 9 x 6 \(width x height\); make"):
        MVTec(tree).test("bolt")[0].load_mask()
    save_mask(path, size=(6, 8))
    with pytest.raises(TrackInputError, match="agree once turned"):
        MVTec(tree).test("bolt")[0].load_mask()


def test_mask_without_a_defect_pixel_at_the_rule(tree: Path) -> None:
    path = save_mask(tree / "bolt" / "ground_truth" / "crack" / "0_mask.png", {(0, 0): 100})
    assert MVTec(tree, mask_above=99).test("bolt")[0].load_mask()[0, 0]  # type: ignore[index]
    with pytest.raises(TrackInputError, match=rf"{path} to mark a defect \(a level above 127\), got none above 100"):
        MVTec(tree, mask_above=127).test("bolt")[0].load_mask()


def test_rotated_photo_and_its_upright_mask(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    for path in (tmp_path / "part/test/crack/a.jpg", tmp_path / "part/test/good/a.jpg"):
        path.parent.mkdir(parents=True)
        PIL.Image.new("RGB", (16, 8)).save(path, exif=exif)
    save_mask(tmp_path / "part/ground_truth/crack/a.png", size=(8, 16))
    crack, good = MVTec(tmp_path).test("part")
    assert crack.load_image().size == good.load_image().size == (8, 16)
    assert crack.load_mask().shape == good.load_mask().shape == (16, 8)  # type: ignore[union-attr]


def test_zero_shot_data_need_no_train_folder(tree: Path) -> None:
    for path in (tree / "bolt" / "train" / "good").iterdir():
        path.unlink()
    dataset = MVTec(tree / "bolt")
    assert len(dataset.test("bolt")) == 5
    with pytest.raises(TrackInputError, match=r"normal images of bolt in .*train/good.*shots=0"):
        dataset.train("bolt")


def test_unknown_category_and_missing_root_name_the_nearest(tree: Path) -> None:
    with pytest.raises(TrackInputError, match=r"one of bolt, nut, got 'Bolts'; did you mean bolt\?"):
        MVTec(tree, ["Bolts"])
    with pytest.raises(TrackInputError, match=r"got 'not'; did you mean nut\?"):
        MVTec(tree).train("not")
    with pytest.raises(TrackInputError, match=r"holds no 'prats'; did you mean parts\?"):
        MVTec(tree.parent / "prats")
    with pytest.raises(TrackInputError, match=r"holds no 'prats'"):
        MVTec(tree.parent / "prats" / "bolt")
    with pytest.raises(TrackInputError, match="got a file"):
        MVTec(save(tree.parent / "file.png"))


def test_empty_category(tree: Path) -> None:
    (tree / "cap" / "test" / "good").mkdir(parents=True)
    with pytest.raises(TrackInputError, match=r"test images of category cap in folders of .*cap/test"):
        MVTec(tree)
    assert MVTec(tree, ["bolt", "nut"]).categories == ("bolt", "nut")


@pytest.mark.parametrize(
    ("made", "remedy"),
    [
        ("MT_Free/Imgs/a.jpg", "data=mtd"),
        ("candle/Data/Images/Normal/a.jpg", "VisA"),
        ("inner/bolt/test/good/a.png", "inner has this layout"),
        ("a.png", "make predict"),
        ("x/y/a.png", "the folder that holds the folders"),
    ],
)
def test_another_layout_is_recognised(tmp_path: Path, made: str, remedy: str) -> None:
    save(tmp_path / made)
    with pytest.raises(TrackInputError, match=f"expected the layout <category>/test/good.*{remedy}"):
        MVTec(tmp_path)


def test_a_root_inside_a_category_is_recognised(tree: Path) -> None:
    with pytest.raises(TrackInputError, match=f"inside the category {tree / 'bolt'}"):
        MVTec(tree / "bolt" / "test")


@pytest.mark.parametrize("above", [-1, 255, True, "127"])
def test_mask_threshold_is_checked(tree: Path, above: object) -> None:
    with pytest.raises(TrackInputError, match="mask_above"):
        MVTec(tree, mask_above=above)  # type: ignore[arg-type]


# ---- samples


def test_sample_is_picklable_and_its_fingerprint_follows_image_and_mask(tree: Path) -> None:
    sample = MVTec(tree).test("bolt")[0]
    assert pickle.loads(pickle.dumps(sample)) == sample
    before = sample.fingerprint
    assert before == sample.fingerprint == MVTec(tree).test("bolt")[0].fingerprint
    os.utime(sample.path, ns=(1, 1))
    changed = sample.fingerprint
    assert changed != before
    assert sample.mask_path is not None
    save(sample.mask_path, 255)
    os.utime(sample.mask_path, ns=(2, 2))
    assert sample.fingerprint not in (before, changed)
    sample.path.unlink()
    with pytest.raises(TrackInputError, match=r"0\.png"):
        _ = sample.fingerprint


def test_bit_depth_reaches_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "part" / "test" / "good" / "a.png"
    path.parent.mkdir(parents=True)
    PIL.Image.fromarray(np.full((4, 4), 1023, dtype=np.uint16)).save(path)
    assert MVTec(tmp_path).test("part")[0].load_image().getpixel((0, 0)) == (63, 63, 63)
    dataset = MVTec(tmp_path, bit_depth=10)
    assert dataset.test("part")[0].load_image().getpixel((0, 0)) == (255, 255, 255)
    assert dataset.protocol["bit_depth"] == 10


def test_natural_order() -> None:
    names = ["b", "a10", "a2", "a02", "a", "10", "9", "a2b", "A1", "ä1"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["9", "10", "A1", "a", "a02", "a2", "a2b", "a10", "b", "ä1"]


# ---- magnetic tiles


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    root = tmp_path / "tiles"
    for folder, stem, level in (
        ("MT_Free", "free_2", 0), ("MT_Free", "free_10", 0), ("MT_Blowhole", "hole", 255), ("MT_Crack", "faint", 100),
        ("MT_Uneven", "vague", 200), ("MT_Uneven", UNMARKED[0], 0),
    ):  # fmt: skip
        save(root / folder / "Imgs" / f"{stem}.jpg")
        save_mask(root / folder / "Imgs" / f"{stem}.png", {(0, 0): level})
    (root / "README.md").write_text("x")
    return root


def test_tiles_are_one_category_and_masks_are_never_images(tiles: Path) -> None:
    dataset: Dataset = MTD(tiles, mask_above=0)
    assert list(dataset.categories) == ["magnetic_tile"]
    samples = {sample.name: sample for sample in dataset.test("magnetic_tile")}
    assert {name: (sample.label, sample.defect_type) for name, sample in samples.items()} == {
        "MT_Blowhole/Imgs/hole.jpg": (1, "blowhole"),
        "MT_Crack/Imgs/faint.jpg": (1, "crack"),
        "MT_Free/Imgs/free_2.jpg": (0, "good"),
        "MT_Free/Imgs/free_10.jpg": (0, "good"),
        "MT_Uneven/Imgs/vague.jpg": (1, "uneven"),
    }
    assert [sample.load_mask().sum() for sample in samples.values()] == [1, 1, 0, 0, 1]  # type: ignore[union-attr]
    assert [sample.name for sample in dataset.train("magnetic_tile")] == [
        "MT_Free/Imgs/free_2.jpg",
        "MT_Free/Imgs/free_10.jpg",
    ]
    with pytest.raises(TrackInputError, match="did you mean magnetic_tile"):
        dataset.test("magnetic tile")


def test_tile_masks_are_read_above_127_by_default(tiles: Path) -> None:
    dataset = MTD(tiles)
    assert dataset.protocol["mask_rule"] == "> 127"
    faint = next(sample for sample in dataset.test("magnetic_tile") if sample.path.stem == "faint")
    with pytest.raises(TrackInputError, match=r"faint\.png.*above 127\), got none above 100; lower mask_above"):
        faint.load_mask()


def test_tiles_with_empty_masks_are_left_out_and_said_so(tiles: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = MTD(tiles)
    assert "1 of 6 images are left out" in caplog.text
    assert dataset.protocol["unmarked_images"] == "1 with an empty mask, left out"
    assert "not scored" in str(dataset.protocol["reference_pool"])
    published = MTD(tiles, mask_above=0, unmarked="normal")
    assert published.protocol["unmarked_images"] == "1 with an empty mask, normal"
    added = set(published.test("magnetic_tile")) - set(MTD(tiles, mask_above=0).test("magnetic_tile"))
    assert [(sample.path.stem, sample.label) for sample in added] == [(UNMARKED[0], 0)]
    assert len(published.train("magnetic_tile")) == 2
    with pytest.raises(TrackInputError, match="did you mean normal"):
        MTD(tiles, unmarked="normals")  # type: ignore[arg-type]


def test_tile_without_mask_and_other_layouts(tiles: Path, tree: Path) -> None:
    (tiles / "MT_Crack" / "Imgs" / "faint.png").unlink()
    with pytest.raises(TrackInputError, match=r"mask of .*faint\.jpg at .*faint\.png"):
        MTD(tiles)
    with pytest.raises(TrackInputError, match=r"MT_Free, MT_Blowhole.*data=mvtec"):
        MTD(tree)
    with pytest.raises(TrackInputError, match=f"its folder {tiles} holds such folders"):
        MTD(tiles.parent)
    with pytest.raises(TrackInputError, match="did you mean tiles"):
        MTD(tiles.parent / "tile")


def test_tiles_without_normal_ones_can_be_tested_on(tiles: Path) -> None:
    (tiles / "MT_Free").rename(tiles / "other")
    dataset = MTD(tiles)
    assert len(dataset.test("magnetic_tile")) == 3
    with pytest.raises(TrackInputError, match=r"normal images in .*MT_Free/Imgs"):
        dataset.train("magnetic_tile")


# ---- photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("b 10.png", "b 2.JPG", "more/ä.png", "good/1.png", "results/run/overlays/1.png", ".trash/x.png"):
        save(root / name)
    (root / "results/run/run.json").write_text('{"track": "predict"}')
    (root / "notes.txt").write_text("x")
    return root


def names(samples: list[FileSample]) -> list[str]:
    return [sample.name for sample in samples]


def test_photos_are_unlabelled_and_outputs_are_passed_over(photos: Path) -> None:
    dataset: Dataset = Photos(photos, "steel bracket")
    assert list(dataset.categories) == ["steel bracket"]
    samples = list(dataset.test("steel bracket"))
    assert [sample.name for sample in samples] == ["b 2.JPG", "b 10.png", "good/1.png", "more/ä.png"]
    assert {(sample.label, sample.defect_type, sample.load_mask()) for sample in samples} == {(None, "", None)}
    assert names(Photos(photos, recursive=False).test("object")) == ["b 2.JPG", "b 10.png"]
    assert names(Photos(photos, exclude=[photos / "more"]).test("object")) == ["b 2.JPG", "b 10.png", "good/1.png"]


def test_only_a_run_folder_is_passed_over_whatever_others_are_called(photos: Path) -> None:
    save(photos / "outputs/run/1.png")
    (photos / "outputs/run/run.json").write_text('{"engine": "runs on diesel"}')
    assert "outputs/run/1.png" in names(Photos(photos).test("object"))
    (photos / "good.json").write_text('{"format": "mvtec_ad2", "maps": "as they are"}')
    assert "good/1.png" not in names(Photos(photos).test("object"))
    for inside in ("results/run", "results/run/overlays", "good"):
        with pytest.raises(TrackInputError, match=r"what a command of this project wrote"):
            Photos(photos / inside)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("jfif", "JPEG"), ("jpe", "JPEG"), ("gif", "GIF"), ("pgm", "PPM"), ("JP2", "JPEG2000"), ("tga", "TGA"),
     ("avif", "AVIF"), ("dib", "DIB"), ("ppm", "PPM")],
)  # fmt: skip
def test_whatever_pillow_opens_is_found_everywhere(photos: Path, tree: Path, suffix: str, kind: str) -> None:
    picture = PIL.Image.new("RGB", (8, 6), (200, 10, 10))
    picture.save(photos / f"z.{suffix}", kind)
    picture.save(tree / f"bolt/test/good/z.{suffix}", kind)
    sample = Photos(photos).test("object")[-1]
    assert sample.name == f"z.{suffix}"
    assert sample.load_image().getpixel((4, 3))[0] > 80  # type: ignore[index]
    assert MVTec(tree).test("bolt")[-1].name == f"test/good/z.{suffix}"


def test_what_is_no_picture_here_is_counted(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("IMG_1.CR2", "more/IMG_2.cr2", "read me", ".hidden"):
        (photos / name).write_bytes(b"x")
    (photos / "icon.ico").write_bytes(b"x")
    Photos(photos)
    assert caplog.messages == [
        f"passed over in {photos}: 2 .cr2 (save them as .tif or .png), 1 .ico, 1 .txt, 1 without an ending"
    ]


def test_heic_is_opened_by_an_installed_plugin_and_else_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "PLUGINS", ("no_such_module_of_anybody",))
    assert formats.openable_suffixes()[:2] == (".png", ".jpg")
    assert formats.passed_over([tmp_path / "a.HEIC"] * 2).startswith("2 .heic")
    (tmp_path / "format_of_a_plugin.py").write_text(
        "import PIL.Image\n"
        "PIL.Image.register_open('HEYC', PIL.Image.Image)\nPIL.Image.register_extension('HEYC', '.heyc')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for table in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(PIL.Image, table, dict(getattr(PIL.Image, table)))
    monkeypatch.setattr(PIL.Image, "ID", list(PIL.Image.ID))
    monkeypatch.setattr(formats, "PLUGINS", ("format_of_a_plugin",))
    assert ".heyc" in formats.openable_suffixes()


def test_linked_folders_are_followed_once(photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "camera"
    save(elsewhere / "5.png")
    (elsewhere / "back").symlink_to(photos)
    for name in ("linked", "linked again"):
        (photos / name).symlink_to(elsewhere)
    (photos / "a link inside").symlink_to(photos / "good")
    (photos / "to a hidden one").symlink_to(photos / ".trash")
    assert names(Photos(photos).test("object")) == ["b 2.JPG", "b 10.png", "good/1.png", "linked/5.png", "more/ä.png",
                                                     "to a hidden one/x.png"]  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_an_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def refuse(place: str) -> object:
        if Path(place).name == "more":
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="more"):
        Photos(photos)


def test_a_name_in_two_spellings_counts_once(photos: Path) -> None:
    for spelling in ("ä", "Ä", "a\N{COMBINING DIAERESIS}"):
        (photos / f"more/{spelling}.png").write_bytes((photos / "more/ä.png").read_bytes())
    save(photos / "more/Ä.PNG", 7)
    assert len(names(Photos(photos / "more").test("object"))) == 2  # the other content is another photo


def test_references_beside_or_among_the_photos(photos: Path) -> None:
    dataset = Photos(photos, references=photos / "good")
    assert names(dataset.test("object")) == ["b 2.JPG", "b 10.png", "more/ä.png"]
    assert names(dataset.train("object")) == ["references/1.png"]
    assert [sample.label for sample in dataset.train("object")] == [0]
    same = Photos(photos / "good", references=photos / "good")
    assert not set(names(same.test("object"))) & set(names(same.train("object")))
    with pytest.raises(TrackInputError, match="REFERENCES"):
        Photos(photos).train("object")


def save_wide(path: Path, largest: int) -> Path:
    values = np.full((6, 8), 800, dtype=np.uint16)
    values[3, 3] = largest
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(("brightest", "level"), [(4095, 50), (4096, 3), (15000, 3)])
def test_photos_and_references_have_one_bit_depth(
    tmp_path: Path, brightest: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    for number, largest in enumerate((900, brightest, 1000)):
        save_wide(tmp_path / f"all/{number}.png", largest)
        save_wide(tmp_path / f"all/good/{number}.tif", 900)
    save(tmp_path / "all/eight bits.png", 77)
    PIL.Image.new("F", (8, 6), 0.5).save(tmp_path / "all/unit.tif")
    (tmp_path / "all/broken.png").write_bytes(b"x")
    photos = Photos(tmp_path / "all", references=tmp_path / "all/good")
    samples = {sample.path.name: sample for sample in [*photos.train("object"), *photos.test("object")]}
    del samples["broken.png"]
    found = {name: sample.load_image().getpixel((0, 0))[0] for name, sample in samples.items()}  # type: ignore[index]
    assert {found.pop("eight bits.png"), found.pop("unit.tif")} == {77, 128}
    assert set(found.values()) == {level}
    assert [f"bit_depth={bits}" in caplog.text for bits in (12, 14, 16)] == [False, brightest > 4095, False]
    assert Photos(tmp_path / "all", bit_depth=16).test("object")[0].bit_depth == 16


def test_photos_are_made_when_they_are_asked_for(photos: Path) -> None:
    listed = Photos(photos, bit_depth=12).test("object")
    assert list(listed[1:3]) == list(listed)[1:3]
    last = listed[::-1][0]
    assert (last.path, last.bit_depth) == (photos / listed[-1].name, 12)
    tracemalloc.start()
    many = Listed([f"{n:07d}.jpg" for n in range(1000)], [f"/photos/{n:07d}.jpg" for n in range(1000)], "nut", None, "")
    assert sum(len(many[first : first + 8]) for first in range(0, 1000, 8)) == 1000
    assert {each.label for each in many} == {None}
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1000 * 250, "a name and a path of 70 bytes each, and room for both in a list"


def test_images_of_a_track_with_different_bit_depths_are_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = tree / "bolt/test/good"
    for name, largest in (("8", 4000), ("9", 4095), ("11", 4096), ("12", 4000)):
        save_wide(good / f"{name}.png", largest)
    with counted_notices():
        for sample in MVTec(tree).test("bolt"):
            sample.load_image()
    assert [message.split(":")[0] for message in caplog.messages] == [f"{good / '11.png'}"]
    assert "set bit_depth (on a track data.bit_depth) to that of the camera" in caplog.text


def test_folders_without_photos(photos: Path) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(TrackInputError, match=r"images in .*empty \(files ending in \.png, \.jpg.*got none"):
        Photos(photos / "empty")
    with pytest.raises(TrackInputError, match="did you mean photos"):
        Photos(photos.parent / "photo")
    with pytest.raises(TrackInputError, match=r"folder of references at .*goods.*did you mean good\?"):
        Photos(photos, references=photos / "goods")


# ---- names


def test_nearest_names() -> None:
    assert closest_name("BOTLE", ["bottle", "cable"]) == "bottle"
    assert closest_name("zzz", ["bottle", "cable"]) is None
    assert str(unknown("model", "clp", ["clip", "saa"])) == (
        "expected model to be one of clip, saa, got 'clp'; did you mean clip?"
    )
    many = str(unknown("image", "x", [f"{number:03d}" for number in range(209)]))
    assert "029, ... (209 in all), got 'x'" in many
    assert "030" not in many
    assert "there are none" in str(unknown("category", "x", []))


def test_missing_path_names_the_place_where_it_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "data" / "mvtec").mkdir(parents=True)
    message = str(missing_path("the data", tmp_path / "data" / "mvtek" / "bottle"))
    assert f"{tmp_path / 'data'} holds no 'mvtek'; did you mean mvtec?" in message


# ---- configuration


@pytest.mark.parametrize("name", ["mvtec", "mtd", "photos", "synthetic"])
def test_config_mirrors_the_constructor(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "data" / f"{name}.yaml"))
    assert isinstance(node, dict)
    parameters = inspect.signature(get_method(node.pop("_target_"))).parameters
    assert node.pop("_convert_") == "all"
    assert list(node) == list(parameters)
    for key, parameter in parameters.items():
        plain = {"???": inspect.Parameter.empty, "${oc.select:categories,null}": None}.get(str(node[key]), node[key])
        assert plain == (list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default), key


# ---- real images


@on_real_data
def test_real_magnetic_tiles() -> None:
    root = Path(str(REAL_DATA)) / "mtd"
    published = MTD(root, mask_above=0, unmarked="normal").test("magnetic_tile")
    folders = Counter(sample.path.parent.parent.name for sample in published)
    assert folders == {
        "MT_Free": 952, "MT_Blowhole": 115, "MT_Break": 85, "MT_Crack": 57, "MT_Fray": 32, "MT_Uneven": 103,
    }  # fmt: skip
    assert len(published) == 1344
    dataset = MTD(root)
    samples = dataset.test("magnetic_tile")
    assert Counter(sample.label for sample in samples) == {0: 952, 1: 388}
    assert len(dataset.train("magnetic_tile")) == 952
    for sample in samples:
        if sample.label:
            assert sample.load_mask().any()  # type: ignore[union-attr]
    assert all(
        not PIL.Image.open(path).getbbox() for path in root.glob("MT_Uneven/Imgs/*.png") if path.stem in UNMARKED
    )


@on_real_data
def test_real_bottle() -> None:
    dataset = MVTec(Path(str(REAL_DATA)) / "mvtec")
    samples = dataset.test("bottle")
    assert Counter(sample.defect_type for sample in samples) == {
        "good": 20, "broken_large": 20, "broken_small": 22, "contamination": 21,
    }  # fmt: skip
    assert len(dataset.train("bottle")) == 40
    for sample in samples:
        mask = sample.load_mask()
        assert mask is not None
        assert mask.shape == (900, 900)
        assert mask.any() == bool(sample.label)


@on_real_data
def test_real_papers() -> None:
    dataset = MVTec(Path(str(REAL_DATA)) / "piped", name="piped")
    assert len(dataset.categories) == 4
    for category in dataset.categories:
        samples = dataset.test(category)
        assert Counter(sample.label for sample in samples)[1] == 48
        for sample in samples:
            mask = sample.load_mask()
            assert mask is not None
            assert mask.shape == sample.load_image().size[::-1]
        assert len(dataset.train(category)) == len(
            list_images(Path(str(REAL_DATA)) / "piped" / category / "train/good")
        )
