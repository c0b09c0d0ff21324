"""Which files are pictures, by their endings: those that Pillow opens here, an installed plugin's among them."""

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import PIL.Image

PLUGINS = ("pillow_heif.HeifImagePlugin", "pillow_jxl", "pillow_avif")
"""Modules that teach Pillow a format once they are imported; none is required."""
COMMON_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
NO_PICTURES = ("BUFR", "CUR", "EPS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "WMF")
"""What Pillow lists but cannot decode by itself, and icons."""
_HEIF, _JXL, _RAW = 'pip install "vandkit[heic]"', "install pillow-jxl-plugin", "save them as .tif or .png"
_VIDEO = "clips are for `predict`, each named itself: images=clip.mp4"
REMEDIES = {
    ".heic": _HEIF, ".heif": _HEIF, ".hif": _HEIF, ".avif": _HEIF, ".jxl": _JXL,
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".npy", ".mat"), _RAW),
    **dict.fromkeys(VIDEO_SUFFIXES, _VIDEO),
}  # fmt: skip
"""What to do about pictures that are not opened here."""
NO_ENDING = "without an ending"


def openable_suffixes() -> tuple[str, ...]:
    """The endings of the formats that Pillow decodes, in small letters, the common ones first."""
    for plugin in PLUGINS:
        with suppress(ImportError):
            importlib.import_module(plugin)
    PIL.Image.init()
    formats = {name for name in PIL.Image.OPEN if name not in NO_PICTURES}
    others = {suffix for suffix, name in PIL.Image.EXTENSION.items() if name in formats}
    return (*COMMON_SUFFIXES, *sorted(others - set(COMMON_SUFFIXES)))


IMAGE_SUFFIXES = openable_suffixes()


def is_image(path: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a file's name is that of a picture: its ending in any case, and not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def endings(suffixes: Sequence[str] = IMAGE_SUFFIXES) -> str:
    """The endings as a message spells them."""
    if tuple(suffixes) != IMAGE_SUFFIXES:
        return ", ".join(suffixes)
    return f"{', '.join(COMMON_SUFFIXES)} or another that Pillow opens"


def passed_over(paths: Iterable[Path]) -> str:
    """The files among `paths` that are no pictures, counted by ending: "3 .npy (save them as .tif or .png), 1 .txt".

    Hidden files do not count; "" if there are none.
    """
    others = [path for path in paths if not is_image(path) and not path.name.startswith(".")]
    counts = Counter(path.suffix.lower() or NO_ENDING for path in others)
    return ", ".join(
        f"{count:,} {suffix}" + (f" ({REMEDIES[suffix]})" if suffix in REMEDIES else "")
        for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0] == NO_ENDING, item[0]))
    )
