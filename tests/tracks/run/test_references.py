import hashlib
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import PIL.Image
import pytest

from tests.support.dataset_stand_ins import save_image
from tests.support.fakes import FakeDataset
from tracks.datasets.files import FileSample
from tracks.datasets.mvtec import MVTec
from tracks.datasets.photos import Photos
from tracks.datasets.synthetic import Synthetic
from tracks.errors import TrackInputError
from tracks.run.reference_lists import read_manifest, read_selected_samples, write_manifest
from tracks.run.references import choose, choose_shuffled, choose_slice, distinct, resolve, warn_of_judged_references

LINES = "0-1: 003\n0-2: 003 011\n1-2: 005 000\r\n\n2-10: 000 001 002 003 004 005 006 007 008 009\n"


@pytest.fixture
def dataset(tmp_path: Path) -> MVTec:
    """Two categories with the same twelve names and different images."""
    for brightness, category in ((10, "bolt"), (90, "nut")):
        for part, count in (("train", 12), ("test", 2)):
            folder = tmp_path / "parts" / category / part / "good"
            folder.mkdir(parents=True)
            for number in range(count):
                PIL.Image.new("L", (4, 4), brightness + number).save(folder / f"{number:03d}.png")
    return MVTec(tmp_path / "parts")


def samples(count: int, category: str = "bolt") -> list[FileSample]:
    return [FileSample(f"train/good/{n:03d}.png", category, 0, "good", Path(f"{n:03d}.png")) for n in range(count)]


def names(chosen) -> list[str]:  # type: ignore[no-untyped-def]
    return [sample.name for sample in chosen]


def stems(chosen) -> list[str]:  # type: ignore[no-untyped-def]
    return [Path(sample.name).stem for sample in chosen]


# ---- the draw


def test_draw_is_the_same_everywhere() -> None:
    """A literal, so that neither a new library nor another machine changes the published draws unseen."""

    def digest(name: str) -> bytes:
        return hashlib.sha256(b"0\nbolt\n" + name.encode()).digest()

    by_hand = sorted((f"train/good/{n:03d}.png" for n in range(209)), key=digest)
    assert names(choose(samples(209), 4, 0, "bolt")) == by_hand[:4]
    assert stems(choose(samples(209), 4, 0, "bolt")) == ["189", "176", "026", "178"]


def test_draw_is_without_replacement_nested_and_independent_of_order() -> None:
    pool = samples(30)
    draws = [names(choose(pool, shots, 3, "bolt")) for shots in range(31)]
    assert draws[0] == []
    for smaller, larger in pairwise(draws):
        assert larger[:-1] == smaller
    assert len(set(draws[30])) == 30
    assert names(choose(pool[::-1], 7, 3, "bolt")) == draws[7]


def test_draw_depends_on_seed_and_category() -> None:
    draws = {tuple(names(choose(samples(50), 4, seed, category))) for seed in range(20) for category in ("a", "b")}
    assert len(draws) == 40


def test_draw_favours_no_image() -> None:
    """3,000 draws of 2 out of 10: each image 600 times, standard deviation 22."""
    counts = Counter(name for seed in range(3000) for name in names(choose(samples(10), 2, seed, "bolt")))
    assert len(counts) == 10
    assert max(abs(count - 600) for count in counts.values()) < 110


@pytest.mark.parametrize("shots", [-1, 1.0, "4", None, True])
def test_shots_that_are_no_count(dataset: MVTec, shots: object) -> None:
    with pytest.raises(TrackInputError, match=r"shots to be a whole number from 0 on, got"):
        choose(samples(9), shots, 0, "bolt")  # type: ignore[arg-type]
    with pytest.raises(TrackInputError, match="shots"):
        resolve(dataset, "bolt", shots, 0)  # type: ignore[arg-type]


def test_more_shots_than_normal_images(dataset: MVTec) -> None:
    with pytest.raises(TrackInputError, match=r"at least 13 normal images of bolt .*, got 12; ask for fewer"):
        resolve(dataset, "bolt", 13, 0)
    assert len(resolve(dataset, "bolt", 12, 0)) == 12


def test_zero_shots_never_look_at_the_training_images(tmp_path: Path) -> None:
    (tmp_path / "part" / "test" / "good").mkdir(parents=True)
    PIL.Image.new("L", (4, 4)).save(tmp_path / "part" / "test" / "good" / "a.png")
    dataset = MVTec(tmp_path)  # its train() raises
    assert resolve(dataset, "part", 0, 0) == []
    assert resolve(dataset, "part", 0, 0, manifest="no such file") == []


def test_resolve_draws_from_the_training_images(dataset: MVTec) -> None:
    assert resolve(dataset, "nut", 3, 5) == choose(dataset.train("nut"), 3, 5, "nut")
    assert names(resolve(dataset, "nut", 3, 5)) != names(resolve(dataset, "bolt", 3, 5))


# ---- manifests of ours


def test_manifest_there_and_back(dataset: MVTec, tmp_path: Path) -> None:
    drawn = {category: resolve(dataset, category, 4, 7) for category in dataset.categories}
    write_manifest(tmp_path / "m.json", drawn, shots=4, seed=7)
    content = json.loads((tmp_path / "m.json").read_text())
    assert (content["shots"], content["seed"]) == (4, 7)
    first = drawn["bolt"][0]
    digest = hashlib.sha256((tmp_path / "parts" / "bolt" / first.name).read_bytes()).hexdigest()
    assert content["categories"]["bolt"][0] == {"name": first.name, "sha256": digest}
    assert read_manifest(tmp_path / "m.json")["bolt"][first.name] == digest
    for category in dataset.categories:
        assert resolve(dataset, category, 4, 0, tmp_path / "m.json") == drawn[category]
        assert resolve(dataset, category, 2, 0, str(tmp_path / "m.json")) == drawn[category][:2]
    with pytest.raises(TrackInputError, match=r"expected 5 references of nut in .*m\.json, got 4"):
        resolve(dataset, "nut", 5, 0, tmp_path / "m.json")


def test_manifest_notices_a_changed_image(dataset: MVTec, tmp_path: Path) -> None:
    drawn = resolve(dataset, "bolt", 2, 0)
    write_manifest(tmp_path / "m.json", {"bolt": drawn}, shots=2, seed=0)
    path = tmp_path / "parts" / "bolt" / drawn[1].name
    PIL.Image.new("L", (4, 4), 255).save(path)
    assert len(resolve(dataset, "bolt", 1, 0, tmp_path / "m.json")) == 1
    with pytest.raises(TrackInputError, match=f"the reference {path} as it was when .*m.json was written"):
        resolve(dataset, "bolt", 2, 0, tmp_path / "m.json")


def test_manifest_of_images_that_are_no_files(tmp_path: Path) -> None:
    dataset = Synthetic("target", seed=0, image_size=64)
    category = dataset.categories[0]
    drawn = resolve(dataset, category, 3, 0)
    write_manifest(tmp_path / "m.json", {category: drawn}, shots=3, seed=0)
    assert names(resolve(dataset, category, 3, 9, tmp_path / "m.json")) == names(drawn)
    with pytest.raises(TrackInputError, match="other content"):
        resolve(Synthetic("target", seed=1, image_size=64), category, 3, 0, tmp_path / "m.json")


def test_manifest_written_by_hand(dataset: MVTec, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"categories": {"bolt": ["train/good/005.png", {"name": "train/good/001.png"}]}}))
    assert stems(resolve(dataset, "bolt", 2, 0, path)) == ["005", "001"]
    with pytest.raises(TrackInputError, match=r"category \(in .*m\.json\) to be one of bolt, got 'nut'"):
        resolve(dataset, "nut", 1, 0, path)
    path.write_text(json.dumps({"categories": {"bolt": ["train/good/005.png", "train/good/005.png"]}}))
    with pytest.raises(TrackInputError, match=r"005\.png twice"):
        resolve(dataset, "bolt", 1, 0, path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"categories": 3}', '{"categories": {"bolt": [{"x": 1}]}}'])
def test_a_file_that_is_no_manifest(dataset: MVTec, tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(TrackInputError, match=r"m\.json to be a manifest of references"):
        resolve(dataset, "bolt", 1, 0, tmp_path / "m.json")


# ---- selected_samples_per_run.txt


def test_selected_samples(dataset: MVTec, tmp_path: Path) -> None:
    path = tmp_path / "selected_samples_per_run.txt"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert read_selected_samples(path, run=0, shots=2) == ["003", "011"]
    assert read_selected_samples(path, run=1, shots=2) == ["005", "000"]
    one = MVTec(tmp_path / "parts" / "nut")
    chosen = resolve(one, "nut", 2, 0, path, run=1)
    assert names(chosen) == ["train/good/005.png", "train/good/000.png"]
    assert len(resolve(one, "nut", 10, 0, path, run=2)) == 10
    with pytest.raises(TrackInputError, match=r"line 1-4 \(run-shots\) in .*, got 0-1, 0-2, 1-2, 2-10"):
        resolve(one, "nut", 4, 0, path, run=1)


@pytest.mark.parametrize("below", ["", "train/good"])
def test_selected_samples_in_folders_of_the_categories(dataset: MVTec, tmp_path: Path, below: str) -> None:
    for category, line in (("bolt", "0-1: 003"), ("nut", "0-1: 007")):
        folder = tmp_path / "lists" / category / below
        folder.mkdir(parents=True)
        (folder / "selected_samples_per_run.txt").write_text(line)
    assert names(resolve(dataset, "bolt", 1, 0, tmp_path / "lists")) == ["train/good/003.png"]
    assert names(resolve(dataset, "nut", 1, 0, tmp_path / "lists")) == ["train/good/007.png"]
    with pytest.raises(TrackInputError, match=r"references of nut at .*nut/selected_samples_per_run\.txt or .*good"):
        resolve(dataset, "nut", 1, 0, tmp_path)


def test_one_list_for_several_categories_is_refused(dataset: MVTec, tmp_path: Path) -> None:
    path = tmp_path / "selected_samples_per_run.txt"
    path.write_text("0-1: 003")
    with pytest.raises(TrackInputError, match="for each of 2 categories, got the one file"):
        resolve(dataset, "bolt", 1, 0, path)
    path.rename(tmp_path / "parts" / "bolt" / path.name)  # here it says whose it is
    assert names(resolve(dataset, "bolt", 1, 0, tmp_path / "parts" / "bolt" / path.name)) == ["train/good/003.png"]
    with pytest.raises(TrackInputError, match="for each of 2 categories"):
        resolve(dataset, "nut", 1, 0, tmp_path / "parts" / "bolt" / path.name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-2: 003 0011", r"each reference in .*, got '0011'; did you mean 011\?"),
        ("0-2: 003 003", r"003\.png twice"),
        ("0-2: 003", r"2 names in line 0-2 of .*, got 1"),
        ("0-2: 003 004\n0-2: 003 005", "one line 0-2"),
        ("0-2: 003 004\nhello", r"lines like '0-2: 013 048' .*got 'hello'"),
    ],
)
def test_selected_samples_that_do_not_fit(dataset: MVTec, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "parts" / "bolt" / "selected_samples_per_run.txt"
    path.write_text(content)
    with pytest.raises(TrackInputError, match=message):
        resolve(dataset, "bolt", 2, 0, path)


def test_a_stem_of_two_files(tmp_path: Path) -> None:
    for name in ("train/good/a.png", "train/good/a.jpg", "test/good/a.png"):
        (tmp_path / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (4, 4)).save(tmp_path / "part" / name)
    path = tmp_path / "selected_samples_per_run.txt"
    path.write_text("0-1: a")
    with pytest.raises(TrackInputError, match=r"'a' in .* to name one image, got .*a\.jpg and .*a\.png; spell out"):
        resolve(MVTec(tmp_path), "part", 1, 0, path)
    path.write_text("0-1: a.jpg")
    assert names(resolve(MVTec(tmp_path), "part", 1, 0, path)) == ["train/good/a.jpg"]


# ---- plain lists


def test_plain_list_of_paths(dataset: MVTec, tmp_path: Path) -> None:
    path = tmp_path / "k_shot.txt"
    path.write_text(
        "/somewhere/else/bolt/train/good/004.png\nbolt\\train\\good\\002.png\nnut/train/good/007.png\n"
        "bolt/train/good/009.png\n"
    )
    assert stems(resolve(dataset, "bolt", 2, 0, path)) == ["004", "002"]
    assert stems(resolve(dataset, "nut", 1, 0, path)) == ["007"]
    with pytest.raises(TrackInputError, match=r"2 references of nut in .*k_shot\.txt, got 1"):
        resolve(dataset, "nut", 2, 0, path)


def test_plain_list_of_names(dataset: MVTec, tmp_path: Path) -> None:
    one = MVTec(tmp_path / "parts" / "bolt")
    path = tmp_path / "list.txt"
    path.write_text("train/good/004.png\ngood/002.png\n007.png\n001\n")
    assert stems(resolve(one, "bolt", 4, 0, path)) == ["004", "002", "007", "001"]
    with pytest.raises(TrackInputError, match="for each of 2 categories"):
        resolve(dataset, "bolt", 4, 0, path)
    path.write_text("test/good/001.png\n")  # a test image is no reference, though a training image has its name
    with pytest.raises(TrackInputError, match=r"got 'test/good/001\.png'"):
        resolve(one, "bolt", 1, 0, path)
    path.write_text("004.png\n004.png\n")  # a draw with replacement
    with pytest.raises(TrackInputError, match=r"004\.png twice"):
        resolve(one, "bolt", 2, 0, path)


def test_lists_that_cannot_be_read(dataset: MVTec, tmp_path: Path) -> None:
    (tmp_path / "k_shot.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrackInputError, match=r"UTF-8 in .*k_shot\.txt"):
        resolve(dataset, "bolt", 1, 0, tmp_path / "k_shot.txt")
    with pytest.raises(TrackInputError, match=r"list of references at .*kshot\.txt, .* did you mean k_shot\.txt\?"):
        resolve(dataset, "bolt", 1, 0, tmp_path / "kshot.txt")
    (tmp_path / "k_shot.txt").write_text("")
    with pytest.raises(TrackInputError):
        resolve(MVTec(tmp_path / "parts" / "bolt"), "bolt", 1, 0, tmp_path / "k_shot.txt")


def image(path: Path, value: int) -> FileSample:
    return FileSample(path.name, "part", None, "", save_image(path, value))


def test_copies_among_references_are_said_and_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = [image(tmp_path / f"{number}.png", value) for number, value in enumerate((7, 8, 7, 9, 7, 8))]
    assert distinct(references) == [references[0], references[1], references[3]]
    assert caplog.messages == [
        "of 6 references 3 tell nothing new: they are copies of others (the first: 2.png of 0.png)"
    ]
    caplog.clear()
    assert distinct(references[:2]) == references[:2]
    assert distinct(FakeDataset().train("bolt")) == FakeDataset().train("bolt")
    assert caplog.messages == []


def test_judged_copies_of_references_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = [image(tmp_path / "good/a.png", 7)]
    others = [image(tmp_path / "b.png", 8), image(tmp_path / "c.png", 9)]
    warn_of_judged_references(references, others)
    warn_of_judged_references([], others)
    assert caplog.messages == []
    warn_of_judged_references(references, [*others, image(tmp_path / "d.png", 7)])
    assert caplog.messages == [
        "of 3 images to judge 1 are references too (the first: d.png is a.png): their scores say nothing about others"
    ]


def test_predict_fits_each_reference_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in (("good/a.png", 7), ("good/b.png", 7), ("good/c.png", 8), ("x.png", 8), ("y.png", 9)):
        save_image(tmp_path / name, value)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    photos = Photos(tmp_path, references=tmp_path / "good")
    assert [sample.name for sample in photos.train("object")] == ["references/a.png", "references/c.png"]
    assert ["copies" in message for message in caplog.messages] == [True, False]
    assert "of 3 images to judge 1 are references too (the first: x.png is references/c.png)" in caplog.messages[1]


def test_the_shuffled_draw_is_subspace_ads_and_depends_on_the_categories_before(tmp_path: Path) -> None:
    for category, count in (("bolt", 12), ("nut", 9)):
        for number in range(count):
            save_image(tmp_path / category / "train" / "good" / f"{number:03d}.png")
            save_image(tmp_path / category / "test" / "good" / f"{number:03d}.png")
    random.seed(42)
    expected = {}
    for category, count in (("bolt", 12), ("nut", 9)):
        files = [f"{number:03d}" for number in range(count)]
        random.shuffle(files)
        expected[category] = files[:4]
    drawn = choose_shuffled(MVTec(tmp_path), 4, 42)
    assert {category: stems(chosen) for category, chosen in drawn.items()} == expected
    assert stems(choose_shuffled(MVTec(tmp_path, categories=["nut"]), 4, 42)["nut"]) != expected["nut"]
    assert stems(choose_shuffled(MVTec(tmp_path), 2, 42)["nut"]) == expected["nut"][:2]
    with pytest.raises(TrackInputError, match="at least 10 normal images of nut"):
        choose_shuffled(MVTec(tmp_path), 10, 42)


def test_slices_are_anomaly_dinos_and_seeds_share_none(tmp_path: Path) -> None:
    for number in range(7):
        save_image(tmp_path / "nut" / "train" / "good" / f"{number:03d}.png")
        save_image(tmp_path / "nut" / "test" / "good" / f"{number:03d}.png")
    data = MVTec(tmp_path)
    drawn = [stems(choose_slice(data, "nut", 2, seed)) for seed in range(3)]
    assert drawn == [["000", "001"], ["002", "003"], ["004", "005"]]
    with pytest.raises(TrackInputError, match=r"at least 8 normal images of nut .* seed 3"):
        choose_slice(data, "nut", 2, 3)
