"""Frames of video clips as photos, and pictures taken by a camera, both through OpenCV."""

import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from tracks.datasets.files import FileSample
from tracks.datasets.formats import VIDEO_SUFFIXES
from tracks.errors import TrackInputError

STATED = (".mp4", ".m4v", ".mov", ".avi")
"""Clips that say how many frames they have; in others the number is a guess, and they are counted."""
KEPT_FRAMES = 8
"""So many frames of a clip are held where a later one was asked for first."""
CAMERA = re.compile(r"camera:(\d+)")


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a clip."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


class Video:
    """A clip of which every n-th frame is looked at, read forwards, one frame after another, whoever asks.

    Going back begins anew, and no frame is sought by time: each is the same picture whichever was asked for before.
    """

    def __init__(self, path: Path, every: int = 1):
        self.path, self.every = path, every
        self._lock, self._next = threading.Lock(), 0
        self._passed: OrderedDict[int, PIL.Image.Image] = OrderedDict()
        self._open()
        cv2 = _cv2()
        self.size = tuple(int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))

    def indices(self, most: int | None = None) -> range:
        """The numbers of the frames to look at, at most so many."""
        count = int(self._capture.get(_cv2().CAP_PROP_FRAME_COUNT))
        wanted = None if most is None else (most - 1) * self.every + 1
        if count <= 0 or self.path.suffix.lower() not in STATED:
            while (wanted is None or self._next < wanted) and self._capture.grab():
                self._next += 1
            count = self._next
        return range(0, count if wanted is None else min(count, wanted), self.every)

    def frame(self, index: int) -> PIL.Image.Image:
        """A frame in RGB, upright; TrackInputError where the clip ends before it."""
        with self._lock:
            if index in self._passed:
                return self._passed.pop(index)
            if index < self._next:
                self._open()
            while self._next <= index:
                if not self._capture.grab():
                    raise TrackInputError(
                        f"expected frame {index} of {self.path}, got {self._next} frames that decode; the clip is cut "
                        "short or damaged there"
                    )
                passed, self._next = self._next, self._next + 1
                if passed < index and not passed % self.every and index - passed <= KEPT_FRAMES * self.every:
                    self._passed[passed] = self._picture()
                    while len(self._passed) > KEPT_FRAMES:
                        self._passed.popitem(last=False)
            return self._picture()

    def _open(self) -> None:
        self._capture: Any = opened(str(self.path))
        self._next = 0
        self._passed.clear()

    def _picture(self) -> PIL.Image.Image:
        return _as_picture(self._capture.retrieve()[1])


@dataclass(frozen=True)
class FrameSample(FileSample):
    """A frame of a clip, by its number from 0."""

    video: Video | None = None
    index: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        width, height = self._clip.size
        return width, height

    def load_image(self) -> PIL.Image.Image:
        """The frame in RGB."""
        return self._clip.frame(self.index)

    @property
    def _clip(self) -> Video:
        assert self.video is not None
        return self.video


def frames_of(path: Path, name: str, category: str, every: int = 1, most: int | None = None) -> list[FileSample]:
    """Every n-th frame of a clip, at most so many, named by number and time: `clip.mp4#000120@4.00s`.

    The time is that of the clip's own frame rate; a clip without one has none in its names.

    Raises:
        TrackInputError: a clip that OpenCV does not open, or one without frames.
    """
    video = Video(path, every)
    indices = video.indices(most)
    if not indices:
        raise TrackInputError(f"expected a clip with frames that decode, got {path} with none; convert it to .mp4")
    names = (name + _mark(index, index / video.rate if video.rate > 0 else None) for index in indices)
    return [
        FrameSample(one, category, None, "", path, video=video, index=index)
        for one, index in zip(names, indices, strict=True)
    ]


def record(camera: int, folder: Path, every: int, most: int) -> Path:
    """Take pictures by a camera into a folder made for them, every n-th frame, and return it."""
    capture, started = opened(camera), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range((most - 1) * every + 1):
        if not capture.grab():
            raise TrackInputError(
                f"expected {most} pictures of camera:{camera}, got none at frame {index}; see {folder}"
            )
        if index % every == 0:
            seconds = time.monotonic() - started
            _as_picture(capture.retrieve()[1]).save(folder / f"camera{camera}{_mark(index, seconds)}.png")
    capture.release()
    return folder


def opened(source: str | int) -> Any:
    """A clip or a camera, as OpenCV opens it.

    Raises:
        TrackInputError: OpenCV is not installed, or does not open it.
    """
    capture = _cv2().VideoCapture(source)
    if not capture.isOpened():
        what = f"camera:{source}" if isinstance(source, int) else source
        remedy = "is it connected, and free?" if isinstance(source, int) else "convert it to .mp4"
        raise TrackInputError(f"expected {what} to be a clip or a camera that OpenCV opens, it does not; {remedy}")
    return capture


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise TrackInputError(
            f'expected OpenCV for clips and cameras, got: {error}; pip install "vandkit[video]"'
        ) from error
    return cv2


def _as_picture(pixels: Any) -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels[..., ::-1].copy())  # OpenCV has blue first


def _mark(index: int, seconds: float | None) -> str:
    return f"#{index:06d}" + ("" if seconds is None else f"@{seconds:.2f}s")
