"""Which layout a folder has, judged by the folders in it: nothing is decoded."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tracks.datasets.files import list_folders, list_images
from tracks.datasets.layout import inner_folder
from tracks.errors import TrackInputError

LAYOUT = "<category>/test/good, <category>/test/<defect>, <category>/ground_truth/<defect>, <category>/train/good"


class Sign(NamedTuple):
    """What only the folder of a category has in one data set: "it looks like {title}: use data={name}"."""

    name: str
    title: str
    stands_in: Callable[[Path], bool]


SIGNS = (
    Sign("mtd", "the magnetic tile set", lambda folder: folder.name.startswith("MT_")),
    Sign("visa", "VisA as downloaded", lambda folder: (folder / "Data" / "Images").is_dir()),
    Sign("mvtec_ad2", "MVTec AD 2", lambda folder: (folder / "test_public").is_dir()),
    Sign("dagm", "DAGM", lambda folder: any((folder / part / "Label").is_dir() for part in ("Test", "Train"))),
    Sign("ksdd2", "KolektorSDD2", lambda folder: any(folder.glob("test/*_GT.*")) or any(folder.glob("train/*_GT.*"))),
    Sign("ksdd", "KolektorSDD", lambda folder: any(folder.glob("*_label.*"))),
    Sign("mvtec 3d-ad", "", lambda folder: any(folder.glob("test/*/rgb")) or any(folder.glob("train/*/rgb"))),
)


def sign_of(folder: Path) -> Sign | None:
    """The first sign that stands in a folder."""
    return next((sign for sign in SIGNS if sign.stands_in(folder)), None)


def known_layouts(root: Path) -> dict[str, list[str]]:
    """The categories at or below a folder, by the layout they have; none where nothing is laid out as known."""
    inner = root / "1cls"
    root = inner if inner.is_dir() and not any((root / part).is_dir() for part in ("train", "test")) else root
    parts = ("test", "train", "test_public", "Data", "Train", "Test")
    is_category = any((root / name).is_dir() for name in parts)
    found: dict[str, list[str]] = {}
    for folder in [root] if is_category else list_folders(root):
        if sign := sign_of(folder):
            found.setdefault(sign.title.lower() if sign.name == "visa" else sign.name, []).append(folder.resolve().name)
        elif is_category_of_mvtec(folder):
            found.setdefault("mvtec", []).append(folder.resolve().name)
    return found


def find_categories(root: Path) -> dict[str, Path]:
    """The folders of categories in MVTec layout by name: those with `test` or `train`; `root` itself if it is one.

    Raises:
        TrackInputError: there are none; says which layout the folder seems to have instead.
    """
    if is_category_of_mvtec(root):
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in list_folders(root) if is_category_of_mvtec(folder)}
    if not folders:
        raise TrackInputError(f"expected the layout {LAYOUT} in {root}, got no category; {_other_layout(root)}")
    return folders


def other_reader(folder: Path) -> str | None:
    """Which reader a folder is for, judged by what only that set has; None if none is known."""
    sign = sign_of(folder)
    return f"it looks like {sign.title}: use data={sign.name}" if sign and sign.title else None


def is_category_of_mvtec(folder: Path) -> bool:
    """Whether a folder holds `test` or `train`, and not those of DAGM or of the packs of VAND 2023."""
    is_another = any((folder / part / "Label").is_dir() for part in ("Test", "Train"))
    is_another = is_another or any(folder.glob("Test/*/Images"))
    return not is_another and any(inner_folder(folder, part).is_dir() for part in ("test", "train"))


def _other_layout(root: Path) -> str:
    """What to do about a root without categories, judged by what else it holds."""
    inner = list_folders(root)
    if is_category_of_mvtec(root.parent):
        return f"it is inside the category {root.parent}: give that as the root"
    others = [other for folder in (root, *inner) if (other := other_reader(folder))]
    if others:
        return others[0]
    for folder in inner:
        if any(is_category_of_mvtec(deeper) for deeper in list_folders(folder)):
            return f"its folder {folder} has this layout: give that as the root"
    if list_images(root):
        return "it holds images without labels: for those there is make predict IMAGES=folder"
    return "give the folder that holds the folders of the categories"
