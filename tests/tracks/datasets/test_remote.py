"""Photos behind an address, on fsspec's file system in memory."""

import io
import pickle

import fsspec
import numpy as np
import PIL.Image
import pytest

from tracks.datasets.photos import Photos
from tracks.datasets.remote import address_of
from tracks.errors import TrackInputError


def photo(level):
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (20, 10), (level, level, level)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture
def files():
    files = fsspec.filesystem("memory")
    files.store.clear()
    for number, name in enumerate(("2.png", "10.png", "below/1.PNG", ".hidden/3.png", "notes.txt")):
        files.pipe_file(f"/bucket/photos/{name}", photo(40 + number))
    yield files
    files.store.clear()


def test_photos_are_listed_in_natural_order_and_fetched_when_asked_for(files):
    found = Photos("memory://bucket/photos").test("object")
    assert [sample.name for sample in found] == ["2.png", "10.png", "below/1.PNG"]
    levels = [np.asarray(pickle.loads(pickle.dumps(sample)).load_image()) for sample in found]
    assert [(level.shape, int(level.max())) for level in levels] == [((10, 20, 3), 40 + n) for n in range(3)]
    assert [sample.name for sample in Photos("memory://bucket/photos", recursive=False).test("object")] == [
        "2.png", "10.png",
    ]  # fmt: skip
    assert [sample.name for sample in Photos("memory://bucket/photos/1*.png").test("object")] == ["10.png"]
    assert [sample.name for sample in Photos("memory://bucket/photos/2.png").test("object")] == ["2.png"]


def test_the_fingerprint_changes_with_the_photo(files):
    before = [sample.fingerprint for sample in Photos("memory://bucket/photos").test("object")]
    assert before == [sample.fingerprint for sample in Photos("memory://bucket/photos").test("object")]
    files.pipe_file("/bucket/photos/10.png", photo(200))
    after = [sample.fingerprint for sample in Photos("memory://bucket/photos").test("object")]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_what_cannot_be_read_says_the_address(files):
    files.pipe_file("/bucket/photos/2.png", b"no picture")
    first, second = Photos("memory://bucket/photos").test("object")[:2]
    with pytest.raises(TrackInputError, match=r"memory://.*bucket/photos/2\.png"):
        first.load_image()
    files.rm("/bucket/photos/10.png")
    with pytest.raises(TrackInputError, match=r"expected a photo at memory://.*10\.png, got: FileNotFoundError"):
        second.load_image()


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("memory://bucket/none", "expected images at memory://bucket/none"),
        ("nowhere://bucket/photos", r"nowhere://bucket/photos.*vandkit\[remote\]"),
        (["memory://bucket/photos", "memory://bucket/more"], "expected one address alone"),
    ],
)
def test_addresses_without_photos_are_refused(files, root, said):
    with pytest.raises(TrackInputError, match=said):
        Photos(root)


def test_what_is_an_address():
    assert address_of("s3://bucket/photos") == address_of("s3:/bucket/photos") == "s3://bucket/photos"
    assert [address_of(path) for path in ("photos", "/photos", "C:/photos", "camera:0")] == [None] * 4
