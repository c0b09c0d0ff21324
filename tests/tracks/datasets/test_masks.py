"""Masks: which pixels a file marks, and what is refused or said because it cannot be meant."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from matplotlib import colormaps

from tracks.datasets.files import FileSample
from tracks.datasets.masks import mask_levels, read_mask
from tracks.datasets.notices import counted_notices
from tracks.errors import TrackInputError

WHITE, RED, BLUE, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)
MARKED = np.zeros((64, 96), dtype=bool)
MARKED[20:36, 30:56] = True


def save_mask(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    PIL.Image.fromarray(values).convert(mode or "L").save(path)
    return path


def test_grey_mask_compares_its_values(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 1, 127, 128, 255]], dtype=np.uint8))
    assert read_mask(path).tolist() == [[False, True, True, True, True]]
    assert read_mask(path, above=127).tolist() == [[False, False, False, True, True]]
    assert read_mask(path).dtype == np.bool_


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "LA"])
def test_mask_modes(tmp_path: Path, mode: str) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 255], [255, 0]], dtype=np.uint8), mode)
    for above in (0, 127, 254):
        assert read_mask(path, above).tolist() == [[False, True], [True, False]]


def test_coloured_and_transparent_masks(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[RED, BLUE, BLACK]], dtype=np.uint8)).save(tmp_path / "rgb.png")
    assert mask_levels(tmp_path / "rgb.png").tolist() == [[255, 255, 0]]
    rgba = np.array([[(255, 0, 0, 255), (255, 0, 0, 0), (255, 255, 255, 100)]], dtype=np.uint8)
    PIL.Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert mask_levels(tmp_path / "rgba.png").tolist() == [[255, 0, 100]]


@pytest.mark.parametrize(
    ("palette", "index", "levels"),
    [
        ([(0, 0, 0), (128, 0, 0), (0, 64, 0)], [0, 1, 2], [0, 255, 255]),  # kinds in colours on black
        ([(255, 0, 0), (0, 0, 0)], [0, 1, 1], [255, 0, 0]),  # the same, colours in another order
        ([(9, 9, 200), (200, 9, 9)], [0, 1, 0], [0, 255, 0]),  # no black: the first entry is the background
        ([(0, 0, 0), (90, 90, 90), (255, 255, 255)], [0, 1, 2], [0, 90, 255]),  # greys are strengths
        ([(255, 255, 255), (0, 0, 0)], [0, 1, 1], [255, 0, 0]),  # greys, in any order
    ],
)
def test_palette_masks(tmp_path: Path, palette: list[tuple[int, ...]], index: list[int], levels: list[int]) -> None:
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([value for colour in palette for value in colour])
    image.putdata(index)
    image.save(tmp_path / "m.png")
    assert mask_levels(tmp_path / "m.png").tolist() == [levels]


def test_16_bit_and_float_masks(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[0, 1, 32000, 65535]], dtype=np.uint16)).save(tmp_path / "soft.png")
    assert read_mask(tmp_path / "soft.png").tolist() == [[False, True, True, True]]
    assert read_mask(tmp_path / "soft.png", above=127).tolist() == [[False, False, False, True]]
    PIL.Image.fromarray(np.array([[0, 1, 200]], dtype=np.uint16)).save(tmp_path / "small.png")
    assert mask_levels(tmp_path / "small.png").tolist() == [[0, 1, 200]]
    tifffile.imwrite(tmp_path / "unit.tif", np.array([[0, 0.25, 1]], dtype=np.float32))
    assert mask_levels(tmp_path / "unit.tif").tolist() == [[0, 63.75, 255]]


# ---- masks that somebody else painted


def sample(path: Path, above: float = 0) -> FileSample:
    """An image, black and as large as `MARKED`, with the mask at `path`."""
    image = path.with_name("image of " + path.name).with_suffix(".png")
    PIL.Image.new("L", (96, 64)).save(image)
    return FileSample("image", "part", 1, "dent", image, path, above)


def saved(path: Path, values: np.ndarray | PIL.Image.Image, **options: int) -> FileSample:
    picture = values if isinstance(values, PIL.Image.Image) else PIL.Image.fromarray(values)
    picture.save(path, **options)
    return sample(path)


def in_colours(name: str) -> np.ndarray:
    return (colormaps[name](MARKED.astype(float)) * 255).astype(np.uint8)


def palette(background: tuple[int, ...], defect: tuple[int, ...], index: int) -> PIL.Image.Image:
    image = PIL.Image.fromarray(np.where(MARKED, 1 - index, index).astype(np.uint8)).convert("P")
    colours = (background, defect) if index == 0 else (defect, background)
    image.putpalette([value for colour in colours for value in colour])
    return image


PAINTED = {
    **{name: lambda name=name: in_colours(name) for name in ("viridis", "jet", "inferno", "Reds", "cividis")},
    "viridis without alpha": lambda: in_colours("viridis")[..., :3],
    "hot begins at dark grey": lambda: in_colours("hot"),
    "white paper": lambda: np.where(MARKED[..., None], np.uint8(RED), np.uint8(WHITE)),
    "palette 0": lambda: palette((0, 0, 99), (255, 255, 0), 0),
    "palette 1": lambda: palette(WHITE, RED, 1),
    "inverted": lambda: np.where(MARKED, 0, 255).astype(np.uint8),
    "inverted 0 and 1": lambda: np.where(MARKED, 0, 1).astype(np.uint8),
    "inverted 1 bit": lambda: ~MARKED,
    "inverted 16 bit": lambda: np.where(MARKED, 0, 65535).astype(np.uint16),
    "inverted palette": lambda: palette(WHITE, BLACK, 1),
}


@pytest.mark.parametrize("kind", PAINTED)
def test_the_background_is_found_along_the_border_and_said(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with counted_notices():
        for number in range(3):
            mask = saved(tmp_path / f"{number}.png", PAINTED[kind]()).load_mask()
            sample(tmp_path / f"{number}.png").load_mask()
            np.testing.assert_array_equal(mask, MARKED)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(f"{tmp_path / '0.png'}: the mask is ")
    assert caplog.messages[1].startswith(f"{tmp_path / '0.png'} and 2 more: the mask is ")


@pytest.mark.parametrize("values", [MARKED, MARKED * np.uint8(3), MARKED * np.uint8(255), MARKED * np.uint16(65535)])
def test_nothing_is_said_of_plain_masks(tmp_path: Path, values: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_array_equal(saved(tmp_path / "m.png", values).load_mask(), MARKED)
    large = np.ones_like(values) * values.max()
    large[:2, 5:] = 0  # a defect that covers most of the border is no background
    np.testing.assert_array_equal(saved(tmp_path / "large.png", large).load_mask(), large > 0)
    assert caplog.messages == []


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_the_noise_of_lossy_files_is_refused_until_a_level_is_named(
    tmp_path: Path, suffix: str, inverted: bool
) -> None:
    rows, columns = np.ogrid[:64, :96]
    disc = (rows - 30) ** 2 + (columns - 50) ** 2 < 400
    path = tmp_path / f"m.{suffix}"
    PIL.Image.fromarray(np.where(disc ^ inverted, 255, 0).astype(np.uint8)).save(path, quality=40)
    with pytest.raises(TrackInputError, match=rf"got .*m\.{suffix}, which was compressed.*data\.mask_above=127"):
        sample(path).load_mask()
    mask = sample(path, above=127).load_mask()
    assert (mask != disc).mean() < 0.01  # type: ignore[union-attr]


def test_a_coloured_mask_in_a_lossy_file_is_halved(tmp_path: Path) -> None:
    mask = saved(tmp_path / "m.jpg", in_colours("viridis")[..., :3], quality=75).load_mask()
    assert (mask != MARKED).mean() < 0.003  # type: ignore[union-attr]


def test_faint_pixels_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft = MARKED * np.uint8(255)
    soft[36] = MARKED[35] * np.uint8(90)
    assert saved(tmp_path / "m.png", soft).load_mask().sum() == MARKED.sum() + 26  # type: ignore[union-attr]
    assert len(caplog.messages) == 1
    assert "faint pixels, which count as defects (all above 0); with data.mask_above=127" in caplog.messages[0]
    assert sample(tmp_path / "m.png", above=127).load_mask().sum() == MARKED.sum()  # type: ignore[union-attr]


def test_a_mask_that_marks_everything_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert saved(tmp_path / "m.png", np.full((64, 96), 255, np.uint8)).load_mask().all()  # type: ignore[union-attr]
    assert caplog.messages == [f"{tmp_path / 'm.png'}: the mask marks the whole image as defective"]


NO_MASKS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "a photo": (lambda: np.random.default_rng(0).integers(1, 256, (64, 96, 3), dtype=np.uint8), "none fills most"),
    "one colour": (lambda: np.full((64, 96, 3), (68, 1, 84), np.uint8), "to mark a defect"),
}


@pytest.mark.parametrize("kind", NO_MASKS)
def test_what_cannot_be_a_mask_is_refused(tmp_path: Path, kind: str) -> None:
    paint, text = NO_MASKS[kind]
    with pytest.raises(TrackInputError, match=text):
        saved(tmp_path / "m.png", paint()).load_mask()


def test_every_page_of_a_mask_counts(tmp_path: Path) -> None:
    second = np.zeros_like(MARKED)
    second[50:60, 70:90] = True
    pages = [PIL.Image.fromarray(mask) for mask in (MARKED, second)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(sample(tmp_path / "m.tif").load_mask(), MARKED | second)


def test_a_mask_that_is_gone_is_no_mask_without_a_defect(tmp_path: Path) -> None:
    of_gone = saved(tmp_path / "m.png", MARKED)
    (tmp_path / "m.png").unlink()
    with pytest.raises(TrackInputError, match=r"expected an image at .*m\.png, found nothing"):
        of_gone.load_mask()
