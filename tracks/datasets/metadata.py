"""Pictures without what is no pixel: for files whose metadata are damaged so that their decoder gives up.

Kept is what changes how pixels look: palettes, transparency, the colour transform of a JPEG, and EXIF, which may turn
the picture and which decoders hand on unread.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_LAST = b"IEND"
WEBP_DROPPED = (b"XMP ", b"ICCP")
JPEG_DROPPED = (*range(0xE1, 0xEE), 0xEF, 0xFE)
"""Comments and the application's segments, save those of JFIF and Adobe."""
TIFF_MAGICS = {b"II*\0": "<", b"MM\0*": ">"}
TIFF_KEPT = (
    *range(254, 260), 262, 266, 273, 274, *range(277, 282), 284, *range(290, 294), *range(317, 321),
    *range(322, 326), 330, 332, 338, 339, 340, 341, 342, 347, *range(512, 522), *range(529, 533),
)  # fmt: skip
"""Tags of TIFF 6.0 and its supplements that the pixels depend on."""
JPEG_SCAN, JPEG_EXIF = 0xDA, b"Exif\0\0"


def without_metadata(data: bytes) -> bytes | None:
    """The same picture without text, colour profile and the like; None for formats whose metadata cannot do harm.

    What cannot be taken apart is left as it is, for the decoder to refuse.
    """
    if data.startswith(PNG_MAGIC):
        return PNG_MAGIC + b"".join(_png_chunks(data))
    if data.startswith(JPEG_MAGIC):
        return JPEG_MAGIC + b"".join(_jpeg_segments(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        content = b"WEBP" + b"".join(_webp_chunks(data))
        return b"RIFF" + struct.pack("<I", len(content)) + content
    if data[:4] in TIFF_MAGICS:
        return _bare_tiff(data)
    if data[4:8] == b"ftyp":  # AVIF and HEIF name their items before the pixels; a decoder passes unknown ones over
        names, separator, pixels = data.partition(b"mdat")
        return names.replace(b"Exif", b"none") + separator + pixels
    return None


def is_lossy(path: Path) -> bool:
    """Whether a file is of a format that changes pixels when it is written, judged by its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(40)
    is_webp = start[:4] == b"RIFF" and b"VP8L" not in start
    return start.startswith((JPEG_MAGIC, b"\0\0\0\x0cjP  ")) or is_webp or start[4:8] == b"ftyp"


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks that make the pixels, and eXIf if it is whole."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + size + 12
        intact = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if kind in PNG_KEPT or (kind == b"eXIf" and intact):
            yield data[at:end]
        if kind == PNG_LAST:
            return
        at = end


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    at = len(JPEG_MAGIC)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = struct.unpack_from(">xBH", data, at)
        if marker == JPEG_SCAN:
            break
        if marker not in JPEG_DROPPED or data.startswith(JPEG_EXIF, at + 4):
            yield data[at : at + 2 + size]
        at += 2 + size
    yield data[at:]


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + size % 2
        if kind not in WEBP_DROPPED:
            yield data[at:end]
        at = end


def _bare_tiff(data: bytes) -> bytes:
    """The same file with shorter directories: entries of other tags are taken out, the rest moves up in its place."""
    order, bare, places = TIFF_MAGICS[data[:4]], bytearray(data), set()
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    while at and at not in places and at + 2 <= len(data):
        places.add(at)
        (number,) = struct.unpack_from(f"{order}H", data, at)
        entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * number, 12)]
        following = data[at + 2 + 12 * number :][:4]
        kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in TIFF_KEPT]
        directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + following
        bare[at : at + len(directory)] = directory
        at = struct.unpack(f"{order}I", following)[0] if len(following) == 4 else 0
    return bytes(bare)
