"""Photos that lie elsewhere, at `s3://bucket/photos` or `gs://bucket/photos`: whatever fsspec lists and reads."""

import glob
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL.Image import Image

from tracks.datasets.files import FileSample, natural_key
from tracks.datasets.formats import is_image
from tracks.datasets.images import read_image
from tracks.errors import TrackInputError

ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")
"""What `Path` makes of an address: one slash is left of two. A drive of Windows has one letter."""
MARKS = ("ETag", "md5Hash", "etag", "LastModified", "mtime", "created")
"""What a file system may tell of a file that changes with it; the first that is there counts."""


def address_of(path: str | Path) -> str | None:
    """The address of a remote place, "s3://bucket/photos"; None of a path on this machine."""
    found = ADDRESS.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found else None


@dataclass(frozen=True)
class RemoteSample(FileSample):
    """A photo at `address`, fetched when it is asked for; `mark` changes with it."""

    address: str = ""
    mark: str = ""

    @property
    def fingerprint(self) -> str:
        """Size and what the file system tells of the content or its time."""
        return self.mark

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture, which is fetched for it."""
        return self.load_image().size

    def load_image(self) -> Image:
        """The picture in RGB; TrackInputError names an address that cannot be read, or does not decode."""
        files, place = _opened(self.address)
        try:
            content = files.cat_file(place)
        except Exception as error:  # each file system has its own
            raise TrackInputError(f"expected a photo at {self.address}, got: {error!r}") from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, self.path.name)
            path.write_bytes(content)
            try:
                return read_image(path, self.bit_depth)
            except TrackInputError as error:
                raise TrackInputError(str(error).replace(str(path), self.address)) from error


def remote_photos(address: str, category: str, recursive: bool) -> list[FileSample]:
    """The images at the address of a folder, a file or a pattern, in natural order; hidden ones are passed over.

    Raises:
        TrackInputError: nothing that fsspec can list, or no image.
    """
    files, root = _opened(address)
    pattern = glob.has_magic(root)
    try:
        found = files.glob(root, detail=True) if pattern else files.find(root, None if recursive else 1, detail=True)
    except Exception as error:
        raise TrackInputError(f"expected to list {address}, got: {error!r}; check address and access") from error
    alone = list(found) == [root]
    folder = PurePosixPath(root)
    while alone or glob.has_magic(str(folder)):
        alone, folder = False, folder.parent
    samples = []
    for place in sorted(map(PurePosixPath, found), key=lambda place: natural_key(Path(place))):
        inner, told = place.relative_to(folder), found[str(place)]
        if told["type"] == "file" and is_image(Path(inner)) and not any(part.startswith(".") for part in inner.parts):
            where = files.unstrip_protocol(str(place))
            mark = next((told[key] for key in MARKS if told.get(key)), "")
            name = inner.as_posix()
            samples.append(
                RemoteSample(name, category, None, "", Path(where), address=where, mark=f"{told['size']}-{mark}")
            )
    if not samples:
        raise TrackInputError(f"expected images at {address}, got {len(found)} files and none; check the address")
    return list(samples)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the place in it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise TrackInputError(
            f'expected fsspec to know how to read {address}, got: {error}; pip install "vandkit[remote]"'
        ) from error
