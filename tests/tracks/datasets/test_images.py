import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL.PngImagePlugin import PngInfo

from tracks.datasets.images import image_size, read_image
from tracks.datasets.masks import mask_levels, read_mask
from tracks.datasets.notices import counted_notices
from tracks.errors import TrackInputError

WHITE, RED, BLUE, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)
CORNERS = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
"""A picture that differs from all its rotations and mirror images."""
SEEN = {
    1: CORNERS, 2: np.fliplr(CORNERS), 3: np.rot90(CORNERS, 2), 4: np.flipud(CORNERS), 5: CORNERS.T,
    6: np.rot90(CORNERS, -1), 7: np.rot90(CORNERS, 2).T, 8: np.rot90(CORNERS, 1),
}  # fmt: skip
"""What a viewer shows, by EXIF orientation (EXIF 2.3, tag 0x0112)."""


def png_bytes(values: np.ndarray, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG written by hand, because Pillow writes no 16-bit colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pixels(path: Path, **options: int) -> np.ndarray:
    image = read_image(path, **options)
    assert image.mode == "RGB"
    assert type(image) is PIL.Image.Image
    return np.asarray(image)


def exif(orientation: int) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[274] = orientation
    return tags


# ---- what the eye sees


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_colour_is_kept(tmp_path: Path, suffix: str) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    PIL.Image.fromarray(colour).save(tmp_path / f"a.{suffix}", lossless=True)  # for webp; others ignore it
    np.testing.assert_array_equal(pixels(tmp_path / f"a.{suffix}"), colour)
    assert image_size(tmp_path / f"a.{suffix}") == (5, 7)


def test_grey_has_three_equal_channels(tmp_path: Path) -> None:
    PIL.Image.fromarray(CORNERS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.stack([CORNERS] * 3, axis=-1))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[list(WHITE), list(BLACK)]]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = PIL.Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 51))  # a fifth black: 255 * 4 / 5
    rgba.save(tmp_path / "rgba.png")
    assert pixels(tmp_path / "rgba.png").tolist() == [[list(RED), list(WHITE), [204, 204, 204]]]
    grey = PIL.Image.new("LA", (2, 1), (7, 255))
    grey.putpixel((1, 0), (7, 0))
    grey.save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png").tolist() == [[[7, 7, 7], list(WHITE)]]


@pytest.mark.parametrize("transparent", [None, 1])
def test_palette(tmp_path: Path, transparent: int | None) -> None:
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=transparent)
    assert pixels(tmp_path / "a.png").tolist() == [[list(RED), list(BLUE if transparent is None else WHITE)]]


def test_one_transparent_grey_in_8_and_16_bits(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).save(tmp_path / "l.png", transparency=7)
    assert pixels(tmp_path / "l.png").tolist() == [[list(WHITE), [8, 8, 8]]]
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 40000)
    extra = key + struct.pack(">I", zlib.crc32(key[4:]))
    (tmp_path / "i16.png").write_bytes(png_bytes(np.array([[40000, 512]]), 16, 0, extra))
    assert pixels(tmp_path / "i16.png").tolist() == [[list(WHITE), [2, 2, 2]]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(pixels(tmp_path / "a.jpg").astype(int), np.full((16, 16, 3), RED), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "deflate.tif", "16.tif", "16.png", "webp", "jpg"])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    scale = 8 if suffix == "jpg" else 1  # whole JPEG blocks of one colour come back as they were
    stored = np.kron(CORNERS, np.ones((scale, scale), dtype=np.uint8))
    seen = np.kron(SEEN[orientation], np.ones((scale, scale), dtype=np.uint8))
    if suffix.startswith("16"):
        stored = stored.astype(np.uint16) * 257
    compression = "tiff_deflate" if suffix == "deflate.tif" else None
    PIL.Image.fromarray(stored).save(path, exif=exif(orientation), lossless=True, compression=compression)
    np.testing.assert_allclose(pixels(path)[..., 0].astype(int), seen, atol=2 if suffix == "jpg" else 0)
    assert image_size(path) == seen.shape
    if suffix not in ("webp", "jpg"):
        np.testing.assert_allclose(mask_levels(path), seen)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_float_colour(tmp_path: Path, orientation: int) -> None:
    colour = np.stack([CORNERS / 255] * 3, axis=-1).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", extratags=[(274, 3, 1, orientation, False)])
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], SEEN[orientation])
    assert image_size(tmp_path / "a.tif") == SEEN[orientation].shape


# ---- more than eight bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("largest", "bit_depth", "divisor"),
    [
        (65535, None, 256), (4096, None, 256), (4095, None, 16), (256, None, 16), (255, None, 1),
        (1023, 10, 4), (100, 12, 16), (900, 16, 256),
    ],
)  # fmt: skip
def test_16_bit_grey_is_scaled_by_its_depth(
    tmp_path: Path, suffix: str, largest: int, bit_depth: int | None, divisor: int
) -> None:
    values = np.linspace(0, largest, 12).astype(np.uint16).reshape(3, 4)
    PIL.Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    seen = read_image(tmp_path / f"a.{suffix}", bit_depth)
    np.testing.assert_array_equal(np.asarray(seen)[..., 0], values // divisor)


def test_values_beyond_the_stated_depth_are_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[5000]], dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(TrackInputError, match=r"a\.png.*bit_depth=12.*5000"):
        read_image(tmp_path / "a.png", bit_depth=12)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_colour_tiff_is_scaled_by_its_depth(tmp_path: Path, compression: str | None) -> None:
    colour = np.random.default_rng(1).integers(0, 4096, (4, 5, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), colour // 16)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(pixels(tmp_path / "planes.tif"), colour // 16)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_png_keeps_its_high_bytes_or_is_refused(tmp_path: Path, colour_type: int, channels: int) -> None:
    colour = np.random.default_rng(2).integers(0, 65536, (4, 5, channels))
    if channels in (2, 4):
        colour[..., -1] = 65535
    (tmp_path / "a.png").write_bytes(png_bytes(colour, 16, colour_type))
    seen = (colour[..., :3] if channels >= 3 else colour[..., [0, 0, 0]]).copy()
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), seen // 256)
    colour[..., : 3 if channels >= 3 else 1] //= 16
    (tmp_path / "dark.png").write_bytes(png_bytes(colour, 16, colour_type))
    with pytest.raises(TrackInputError, match=r"dark\.png.*4,096 of 65,536.*bit_depth=16"):
        read_image(tmp_path / "dark.png")
    np.testing.assert_array_equal(pixels(tmp_path / "dark.png", bit_depth=16), seen // 16 // 256)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_float_tiff(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(3).integers(0, 256, shape)
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    wanted = levels if len(shape) == 3 else np.stack([levels] * 3, axis=-1)
    for name, values in (("unit", levels / 255), ("byte", levels), ("word", levels * 257.0)):
        if dtype == "float16" and name == "word":
            continue
        tifffile.imwrite(tmp_path / f"{name}.tif", values.astype(dtype), photometric=photometric)
        np.testing.assert_array_equal(pixels(tmp_path / f"{name}.tif"), wanted)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 70000.0])
def test_float_tiff_out_of_range_is_refused(tmp_path: Path, bad: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.5, bad]], dtype=np.float32))
    with pytest.raises(TrackInputError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero(tmp_path: Path, dtype: str) -> None:
    full = np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, full]], dtype=dtype), photometric="miniswhite")
    assert pixels(tmp_path / "a.tif").tolist() == [[list(WHITE), list(BLACK)]]
    assert mask_levels(tmp_path / "a.tif").tolist() == [[255, 0]]


def test_a_name_with_another_formats_suffix(tmp_path: Path) -> None:
    PIL.Image.fromarray(CORNERS).save(tmp_path / "a.png")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], CORNERS)
    assert image_size(tmp_path / "a.tif") == CORNERS.shape


def test_a_hundred_million_pixels_open(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    PIL.Image.new("1", (10_000, 10_000), 1).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (10_000, 10_000)
    assert read_image(tmp_path / "a.png").getextrema() == ((255, 255),) * 3
    assert not list(recwarn)


# ---- files that are no pictures


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("keep", [0, 0.3, 0.7])
@pytest.mark.parametrize("reader", [read_image, mask_levels])
def test_empty_and_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float, reader) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"broken.{suffix}"
    noise = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(TrackInputError, match=rf"expected an image that decodes, got .*broken\.{suffix} \("):
        reader(path)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_truncated_wide_tiff_is_refused(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((64, 64), dtype=dtype))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:4000])
    with pytest.raises(TrackInputError, match=r"decodes, got .*a\.tif"):
        read_image(tmp_path / "a.tif")


def test_text_a_folder_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("<html>not found</html>")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("photo.png", "no known format"),
        ("folder.png", "not a file"),
        ("foto.png", "mean photo.png"),
    ):
        for reader in (read_image, read_mask, image_size):
            with pytest.raises(TrackInputError, match=f"{name}.*{reason}"):
                reader(tmp_path / name)


# ---- metadata


def damaged_metadata(folder: Path) -> Path:
    """One picture in several formats, each with metadata that are damaged in a way of their own."""
    picture = PIL.Image.fromarray(np.kron(CORNERS, np.ones((8, 8), dtype=np.uint8))).convert("RGB")
    bad_exif, tags = b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03", PIL.Image.Exif()
    tags[271] = "maker"
    for suffix in ("png", "webp", "jpg"):
        picture.save(folder / f"exif.{suffix}", exif=bad_exif, lossless=True, quality=100)
    picture.save(folder / "exif.avif", exif=tags, quality=100)
    avif = (folder / "exif.avif").read_bytes()
    (folder / "exif.avif").write_bytes(avif.replace(b"Exif\0\0MM", b"Exif\0\0zz").replace(b"Exif\0\0II", b"Exif\0\0zz"))
    text, raw, words = PngInfo(), PngInfo(), PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    raw.add_text("Raw profile type exif", "\nexif\n     10\nzzzz")
    words.add_text("comment", "hello")
    picture.save(folder / "text.png", pnginfo=text)
    picture.save(folder / "late text.png", pnginfo=raw)
    picture.save(folder / "profile.png", icc_profile=bytes(2_000_000))
    picture.save(folder / "checksum.png", pnginfo=words)
    (folder / "checksum.png").write_bytes((folder / "checksum.png").read_bytes().replace(b"hello", b"jello"))
    picture.save(folder / "tag.tif", exif=tags, compression="tiff_lzw")
    tiff = bytearray((folder / "tag.tif").read_bytes())
    at = tiff.index(struct.pack("<HHI", 271, 2, 6))
    tiff[at + 2 : at + 8] = struct.pack("<HI", 5, 6)  # six fractions in the place of a maker's name
    (folder / "tag.tif").write_bytes(tiff)
    picture.save(folder / "profile.jpg", quality=100)
    jpg = (folder / "profile.jpg").read_bytes()
    (folder / "profile.jpg").write_bytes(jpg[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + jpg[2:])
    return folder


def test_damaged_metadata_leave_the_pixels_readable(tmp_path: Path) -> None:
    seen = np.kron(CORNERS, np.ones((8, 8), dtype=np.uint8)).astype(int)
    for path in sorted(damaged_metadata(tmp_path).iterdir()):
        np.testing.assert_allclose(pixels(path)[..., 0].astype(int), seen, atol=4, err_msg=path.name)
        assert image_size(path) == seen.shape, path.name


def test_a_good_rotation_beside_damaged_metadata_still_turns(tmp_path: Path) -> None:
    words = PngInfo()
    words.add_text("comment", "hello")
    stored = np.kron(CORNERS, np.ones((8, 8), dtype=np.uint8))
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        PIL.Image.fromarray(stored).save(path, exif=exif(6), pnginfo=words, quality=100)
        content = path.read_bytes().replace(b"hello", b"jello")
        if suffix == "jpg":
            content = content[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + content[2:]
        path.write_bytes(content)
        assert pixels(path).shape[:2] == image_size(path) == (32, 24)


def test_damaged_pixels_beside_damaged_metadata_are_refused(tmp_path: Path) -> None:
    for path in sorted(damaged_metadata(tmp_path).iterdir()):
        path.write_bytes(path.read_bytes()[:-120])
        with pytest.raises(TrackInputError, match="expected an image that decodes"):
            read_image(path)


# ---- channels and pages


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_that_nobody_can_tell_are_refused(tmp_path: Path, dtype: str, planar: str) -> None:
    for channels in (2, 4, 5, 7):
        shape = (4, 5, channels) if planar == "contig" else (channels, 4, 5)
        path = tmp_path / f"{channels}.tif"
        tifffile.imwrite(path, np.ones(shape, dtype), photometric="minisblack", planarconfig=planar)
        with pytest.raises(TrackInputError, match=rf"{channels}\.tif, got {channels} channels of {dtype}.*; save the"):
            read_image(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("more", [1, 2])
def test_colours_are_read_without_the_channels_beyond(
    tmp_path: Path, dtype: str, more: int, caplog: pytest.LogCaptureFixture
) -> None:
    colour = np.random.default_rng(5).integers(0, 256, (4, 5, 3 + more))
    factor = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    with counted_notices():
        for name in ("a", "b"):
            tifffile.imwrite(tmp_path / f"{name}.tif", (colour * factor).astype(dtype), photometric="rgb",
                             extrasamples=["unspecified"] * more, planarconfig="contig")  # fmt: skip
            np.testing.assert_array_equal(pixels(tmp_path / f"{name}.tif"), colour[..., :3])
    assert [message.split(":")[0] for message in caplog.messages] == [
        str(tmp_path / "a.tif"), f"{tmp_path / 'a.tif'} and 1 more"
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_transparency_in_tiff(tmp_path: Path, dtype: str) -> None:
    factor, name = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype], tmp_path / "rgba.tif"
    for alpha in ("unassalpha", "assocalpha"):
        rgba = np.array([[(255, 0, 0, 255), (0 if alpha == "assocalpha" else 255, 0, 0, 0), (0, 0, 0, 51)]])
        tifffile.imwrite(name, (rgba * factor).astype(dtype), photometric="rgb", extrasamples=[alpha])
        assert pixels(name).tolist() == [[list(RED), list(WHITE), [204, 204, 204]]]
    grey = np.array([[(70, 255), (70, 0)]])
    tifffile.imwrite(tmp_path / "la.tif", (grey * factor).astype(dtype), photometric="minisblack",
                     extrasamples=["unassalpha"], planarconfig="contig")  # fmt: skip
    assert pixels(tmp_path / "la.tif").tolist() == [[[70, 70, 70], list(WHITE)]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_of_several_pages_the_largest_is_the_picture(tmp_path: Path, dtype: str) -> None:
    large = (CORNERS.astype(int) * {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]).astype(dtype)
    with tifffile.TiffWriter(tmp_path / "thumbnail first.tif") as tiff:
        tiff.write(large[:2, :2], photometric="minisblack")
        tiff.write(large, photometric="minisblack")
        tiff.write(
            large // 1, photometric="minisblack", subfiletype=1
        )  # says that it is a thumbnail, whatever its size
    np.testing.assert_allclose(pixels(tmp_path / "thumbnail first.tif")[..., 0], CORNERS, atol=1)
    assert image_size(tmp_path / "thumbnail first.tif") == CORNERS.shape
    with tifffile.TiffWriter(tmp_path / "stack.tif") as tiff:
        for _ in range(3):
            tiff.write(large, photometric="minisblack", contiguous=False)
    with pytest.raises(TrackInputError, match=r"one picture in .*stack\.tif, got 3 pages of one size; save each"):
        read_image(tmp_path / "stack.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_is_no_picture(tmp_path: Path, suffix: str) -> None:
    frames = [PIL.Image.fromarray(CORNERS + level) for level in (0, 9)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(TrackInputError, match=rf"a\.{suffix}, got an animation of 2 frames"):
        read_image(tmp_path / f"a.{suffix}")
