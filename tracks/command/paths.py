"""Paths made of text that came from elsewhere: category and file names never lead out of the folder they belong to."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from tracks.errors import TrackInputError

LONGEST_NAME = 200
"""Bytes of one part of a path, of the 255 that file systems allow: what a writer adds (`.mask.png.part`) fits too."""


def leads_out(name: str) -> bool:
    """Whether a name as a path is absolute, on a drive, climbs up, is empty or no path; backslashes part it too."""
    parts = name.replace("\\", "/").split("/")
    is_path = any(part not in ("", ".") for part in parts) and "\0" not in name
    return not is_path or not parts[0] or ".." in parts or re.match(r"[A-Za-z]:[\\/]", name) is not None


def below(folder: Path, *names: str) -> Path:
    """The path of a file in `folder` that names from elsewhere lead to; whoever writes one asks here.

    Raises:
        TrackInputError: a name that would lead out of the folder.
    """
    for name in names:
        if leads_out(name):
            raise TrackInputError(
                f"expected names of files and categories below {folder}, got {name!r}, which leads out of it; give "
                "names without a leading / and without .. (nothing was written there)"
            )
    return folder.joinpath(*names)


def shortened(name: str) -> str:
    """The name with parts of more than `LONGEST_NAME` bytes cut, a digest in place of what is lost, the ending kept."""
    return "/".join(_shortened(part) for part in name.split("/"))


def folder_name(text: str) -> str:
    """A text as the name of one folder, for runs and tables named after what they are of."""
    return shortened(re.sub(r"[/\\:\0]", "_", text))


def _shortened(part: str) -> str:
    content = os.fsencode(part)
    if len(content) <= LONGEST_NAME:
        return part
    ending = PurePosixPath(part).suffix if len(os.fsencode(PurePosixPath(part).suffix)) <= 10 else ""
    digest = hashlib.sha256(content).hexdigest()[:8]
    return content[: LONGEST_NAME - 20].decode("utf-8", "ignore") + f"~{digest}{ending}"


def name_below(path: Path, root: Path) -> str:
    """How a file is called in a run: its path below `root` however it is spelled, elsewhere without the `..`."""
    way = os.path.relpath(path, root)
    if ".." in Path(way).parts and path.resolve().is_relative_to(root.resolve()):
        way = os.path.relpath(path.resolve(), root.resolve())
    return "/".join(part for part in Path(way).parts if part != "..")
