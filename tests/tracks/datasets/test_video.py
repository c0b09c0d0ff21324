"""Clips as photos: every n-th frame, whoever asks in whatever order; and a camera, which is a clip here."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from tracks.datasets import video
from tracks.datasets.photos import Photos
from tracks.datasets.region import Region, cropped, photo_size
from tracks.datasets.video import Video, frames_of, record
from tracks.errors import TrackInputError

FRAMES, RATE = 45, 15.0


def write_clip(path, frames=FRAMES, code="MJPG"):
    """Frames of one grey level each, 5 more than the one before."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), RATE, (48, 32))
    for number in range(frames):
        writer.write(np.full((32, 48, 3), 5 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.avi")


def level(picture):
    return round(float(np.asarray(picture).mean()) / 5)


def test_every_tenth_frame_is_a_photo_named_by_number_and_time(clip):
    samples = Photos(clip, "bolt", every=10).test("bolt")
    assert [sample.name for sample in samples] == [
        "clip.avi#000000@0.00s", "clip.avi#000010@0.67s", "clip.avi#000020@1.33s", "clip.avi#000030@2.00s",
        "clip.avi#000040@2.67s",
    ]  # fmt: skip
    assert [level(sample.load_image()) for sample in samples] == [0, 10, 20, 30, 40]
    assert samples[0].size == samples[0].load_image().size == (48, 32)
    assert len(Photos(clip, every=10, frames=2).test("object")) == 2
    assert len({sample.fingerprint for sample in samples}) == 1


def test_blue_is_blue(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "blue.avi"), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (32, 32))
    writer.write(np.full((32, 32, 3), (255, 0, 0), np.uint8))
    writer.release()
    [sample] = Photos(tmp_path / "blue.avi").test("object")
    np.testing.assert_allclose(np.asarray(sample.load_image()).mean((0, 1)), (0, 0, 255), atol=6)


def test_frames_come_right_in_any_order_and_from_many_threads(clip, monkeypatch):
    whole = Video(clip)
    assert [level(whole.frame(index)) for index in (30, 29, 3, 44, 44, 0)] == [30, 29, 3, 44, 44, 0]
    opened_anew = []
    monkeypatch.setattr(video, "opened", lambda source: opened_anew.append(source) or cv2.VideoCapture(source))
    samples = frames_of(clip, "clip.avi", "bolt", every=2)
    with ThreadPoolExecutor(4) as pool:
        assert [level(picture) for picture in pool.map(lambda one: one.load_image(), samples)] == [*range(0, 45, 2)]
    assert len(opened_anew) == 1, "whoever overtakes leaves the frames that it passed to the others"


def test_the_frames_of_a_clip_that_does_not_say_how_many_are_counted(tmp_path, monkeypatch):
    (tmp_path / "clip.mkv").write_bytes(write_clip(tmp_path / "clip.avi", 7).read_bytes())
    assert len(frames_of(tmp_path / "clip.mkv", "c", "bolt")) == 7
    assert len(frames_of(tmp_path / "clip.mkv", "c", "bolt", every=3, most=2)) == 2


def test_a_clip_that_is_cut_short_says_where_and_one_that_is_none_is_refused(tmp_path):
    content = write_clip(tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    cut = Video(tmp_path / "cut.avi")
    with pytest.raises(TrackInputError, match=r"expected frame 44 of .*cut\.avi, got \d+ frames that decode"):
        cut.frame(44)
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(TrackInputError, match=r"no\.mp4 to be a clip or a camera that OpenCV opens"):
        Photos(tmp_path / "no.mp4")


def test_clips_in_a_folder_are_passed_over_and_named_with_the_remedy(tmp_path, clip):
    (tmp_path / "clip.avi").write_bytes(clip.read_bytes())
    with pytest.raises(TrackInputError, match=r"only 1 \.avi \(clips are for `predict`, each named itself"):
        Photos(tmp_path)
    assert len(Photos(tmp_path / "*.avi", every=40).test("object")) == 2


def test_the_region_of_a_frame(clip):
    region = Region([[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    sample = cropped(Photos(clip, every=10).test("object"), region)[2]
    assert level(sample.load_image()) == 20
    assert sample.load_image().size == (24, 32)
    assert photo_size(sample) == (48, 32)


def test_a_camera_takes_pictures_into_a_folder(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(video, "opened", lambda _: cv2.VideoCapture(str(clip)))
    record(1, tmp_path / "shots", every=10, most=3)
    samples = Photos(tmp_path / "shots").test("object")
    assert [sample.name.partition("@")[0] for sample in samples] == [
        "camera1#000000",
        "camera1#000010",
        "camera1#000020",
    ]
    assert [level(sample.load_image()) for sample in samples] == [0, 10, 20]
    with pytest.raises(TrackInputError, match="expected 100 pictures of camera:1, got none at frame 45"):
        record(1, tmp_path / "more", every=1, most=100)


def test_without_opencv_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(TrackInputError, match=r'pip install "vandkit\[video\]"'):
        Video(clip)
