"""Which pictures and masks lie below a folder, whatever is wrong with them: the doctor looks where a reader would stop.

Layouts are told apart by their folders; of each category every picture is listed with the masks that its name asks for,
and the masks that no picture asks for.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tracks.datasets import ksdd, ksdd2, mtd
from tracks.datasets.files import list_folders, list_images
from tracks.datasets.mvtec import NORMAL_FOLDERS
from tracks.datasets.sample import Dataset

MASK_ENDINGS = ("_mask", "_label", "_GT")
JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Picture:
    """One image file: its category, its part ("train", "test", "all"), and its masks.

    `label` is 1 anomalous, 0 normal, None where only the mask tells. `lacks_mask` says that one belongs to it;
    `bit_depth` is as in `FileSample`.
    """

    path: Path
    category: str
    part: str
    label: int | None
    masks: tuple[Path, ...] = ()
    lacks_mask: bool = False
    bit_depth: int | None = None


@dataclass
class Found:
    """All that was found: layouts by name with their categories, pictures, and masks without a picture.

    `references` are the numbers of normal images to draw from, by category, where a reader tells.
    """

    layouts: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    extra_masks: list[Path] = field(default_factory=list)
    references: dict[str, int] = field(default_factory=dict)

    def add(self, layout: str, category: str, pictures: Iterable[Picture], extra: Iterable[Path]) -> None:
        """Note what one category holds."""
        self.layouts.setdefault(layout, []).append(category)
        self.pictures += pictures
        self.extra_masks += extra


def find_files(root: Path) -> Found:
    """Everything below `root` that is laid out like one of the known sets; nothing is decoded."""
    inner = root / "1cls"
    root = inner if inner.is_dir() and not any((root / part).is_dir() for part in ("train", "test")) else root
    found = Found()
    if _beside(root, "train", "_GT") or _beside(root, "test", "_GT"):
        for part in ("train", "test"):
            if (root / part).is_dir():
                found.add("ksdd2", ksdd2.CATEGORY, *_list_ksdd2(root / part, part))
        return found
    for folder in _with_root(root):
        for layout, (recognises, lists) in LAYOUTS.items():
            if recognises(folder):
                found.add(layout, folder.resolve().name, *lists(folder))
    return found


def from_reader(dataset: Dataset) -> Found:
    """What a reader lists, which is what a run reads."""
    found = Found()
    for category in dataset.categories:
        parts = {"test": dataset.test(category)}
        try:
            parts["train"] = dataset.train(category)
        except ValueError:
            parts["train"] = []
        found.references[category] = len(parts["train"])
        tested = {getattr(sample, "path", None) for sample in parts["test"]}
        pictures = [
            Picture(
                sample.path,
                category,
                part,
                sample.label,
                _masks_of(sample),
                bit_depth=getattr(sample, "bit_depth", None),
            )
            for part, samples in parts.items()
            for sample in samples
            if hasattr(sample, "path") and (part == "test" or sample.path not in tested)
        ]
        found.add(dataset.name, category, pictures, [])
    return found


def united(listed: Found, found: Found) -> Found:
    """What a reader lists, and what else lies there; layouts are those found, where it is laid out as known."""
    read = {picture.path: picture for picture in listed.pictures}
    masks = {mask for picture in listed.pictures for mask in picture.masks}
    others = [picture for picture in found.pictures if picture.path not in read]
    extra = [mask for mask in found.extra_masks if mask not in masks]
    return Found(found.layouts or listed.layouts, [*read.values(), *others], extra, listed.references)


def _masks_of(sample: object) -> tuple[Path, ...]:
    first = getattr(sample, "mask_path", None)
    return (first, *getattr(sample, "more_masks", ())) if first else ()


def _with_root(root: Path) -> list[Path]:
    """The root if it is itself a category, else its folders."""
    is_category = any((root / name).is_dir() for name in ("test", "train", "test_public", "Data", "Train", "Test"))
    return [root] if is_category else list_folders(root)


def _list_mvtec(folder: Path) -> tuple[list[Picture], list[Path]]:
    """`<part>/<kind>/<image>` with `ground_truth/<kind>/<stem>_mask.png`, `<stem>.png` or `<stem>/<any>.png`.

    In MVTec 3D-AD it is `<part>/<kind>/rgb/<image>` with `<part>/<kind>/gt/<stem>.png`.
    """
    pictures: list[Picture] = []
    extra: list[Path] = []
    places = [("train", "train", ""), ("validation", "train", ""), ("test", "test", "ground_truth")]
    places.append(("test_public", "test", "test_public/ground_truth"))
    for name, part, truth in places:
        masks_below = folder / truth if truth else folder / "none"
        kinds = list_folders(folder / name) if (folder / name).is_dir() else []
        for kind in (kind for kind in kinds if kind.name != "ground_truth"):
            normal = part == "train" or kind.name.casefold() in NORMAL_FOLDERS
            is_3d = (kind / "rgb").is_dir()
            beside = kind / "gt" if is_3d else masks_below / kind.name
            masks = {} if is_3d and normal else _by_stem(beside)
            for path in list_images(kind / "rgb" if is_3d else kind):
                own = masks.pop(path.stem, [])
                lacks = not normal and not own and (beside if is_3d else masks_below).is_dir()
                pictures.append(Picture(path, folder.resolve().name, part, 0 if normal else 1, tuple(own), lacks))
            extra += [mask for several in masks.values() for mask in several]
        if truth and masks_below.is_dir():
            known = {kind.name for kind in kinds}
            extra += [
                mask for kind in list_folders(masks_below) if kind.name not in known for mask in list_images(kind)
            ]
    for name in ("test_private", "test_private_mixed"):
        if (folder / name).is_dir():
            pictures += [Picture(path, folder.name, "test", None) for path in list_images(folder / name)]
    return pictures, extra


def _list_visa(folder: Path) -> tuple[list[Picture], list[Path]]:
    """VisA as downloaded; the part of a picture stands in split_csv/1cls.csv."""
    split = _visa_split(folder.parent / "split_csv/1cls.csv")
    masks = _by_stem(folder / "Data/Masks/Anomaly")
    pictures = []
    for kind, label in (("Normal", 0), ("Anomaly", 1)):
        images = folder / "Data/Images" / kind
        for path in list_images(images) if images.is_dir() else []:
            part = split.get(path.relative_to(folder.parent).as_posix(), "all")
            own = tuple(masks.pop(path.stem, [])) if label else ()
            pictures.append(Picture(path, folder.name, part, label, own, bool(label and not own)))
    return pictures, [mask for several in masks.values() for mask in several]


def _visa_split(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return {row["image"].strip(): row["split"].strip() for row in csv.DictReader(stream)}
    except (OSError, ValueError, KeyError, AttributeError, csv.Error):
        return {}


def _list_mtd(folder: Path) -> tuple[list[Picture], list[Path]]:
    """`Imgs/<stem>.jpg` with `<stem>.png`; the masks of MT_Free say nothing."""
    images = list_images(folder / "Imgs", JPEG)
    masks = {path.stem: path for path in list_images(folder / "Imgs", (".png",))}
    normal = folder.name == "MT_Free"
    pictures = [
        Picture(path, mtd.CATEGORY, "all", 0 if normal else 1, (masks[path.stem],) if path.stem in masks else (),
                not normal and path.stem not in masks)
        for path in images
    ]  # fmt: skip
    stems = {path.stem for path in images}
    return pictures, [mask for stem, mask in masks.items() if stem not in stems]


def _list_ksdd(folder: Path) -> tuple[list[Picture], list[Path]]:
    return _pairs_beside(folder, ksdd.CATEGORY, "all", ksdd.MASK_ENDING)


def _list_ksdd2(folder: Path, part: str) -> tuple[list[Picture], list[Path]]:
    """`<digits>.png` with `<digits>_GT.png`; the archive also holds copies with other names, which no reader lists."""
    pictures, extra = _pairs_beside(folder, ksdd2.CATEGORY, part, ksdd2.MASK_ENDING)
    return [one for one in pictures if one.path.stem.isdigit()], [path for path in extra if " " not in path.stem]


def _list_dagm(folder: Path) -> tuple[list[Picture], list[Path]]:
    """`Train/NNNN.PNG` and `Test/NNNN.PNG`; only defective ones have `Label/NNNN_label.PNG`."""
    pictures: list[Picture] = []
    extra: list[Path] = []
    for name in ("Train", "Test"):
        images = list_images(folder / name) if (folder / name).is_dir() else []
        masks = _by_stem(folder / name / "Label")
        for path in images:
            own = tuple(masks.pop(path.stem, []))
            pictures.append(Picture(path, folder.name, name.lower(), int(bool(own)), own))
        extra += [mask for several in masks.values() for mask in several]
    return pictures, extra


def _pairs_beside(folder: Path, category: str, part: str, ending: str) -> tuple[list[Picture], list[Path]]:
    """Pictures with their masks beside them, `<stem><ending>`; a mask tells whether its picture is anomalous."""
    files = list_images(folder)
    masks = {path.stem.removesuffix(ending): path for path in files if path.stem.endswith(ending)}
    images = [path for path in files if not path.stem.endswith(ending)]
    pictures = [
        Picture(path, category, part, None, (masks[path.stem],) if path.stem in masks else (), path.stem not in masks)
        for path in images
    ]
    stems = {path.stem for path in images}
    return pictures, [mask for stem, mask in masks.items() if stem not in stems]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Masks by the stem of their image: `<stem>`, `<stem>_mask`, `<stem>_label`, or all in the folder `<stem>`."""
    if not folder.is_dir():
        return {}
    masks: dict[str, list[Path]] = {}
    for path in list_images(folder):
        ending = next((ending for ending in MASK_ENDINGS if path.stem.endswith(ending)), "")
        masks.setdefault(path.stem.removesuffix(ending), []).append(path)
    for inner in list_folders(folder):
        masks.setdefault(inner.name, []).extend(list_images(inner))
    return masks


def _beside(root: Path, part: str, ending: str) -> bool:
    return (root / part).is_dir() and any((root / part).glob(f"*{ending}.*"))


def _is_mvtec(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("train", "test", "test_public")) and not _is_dagm(folder)


def _is_mvtec_3d(folder: Path) -> bool:
    return any(folder.glob("test/*/rgb")) or any(folder.glob("train/*/rgb"))


def _is_dagm(folder: Path) -> bool:
    return any((folder / part / "Label").is_dir() for part in ("Train", "Test"))


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], tuple[list[Picture], list[Path]]]]] = {
    "visa as downloaded": (lambda folder: (folder / "Data/Images").is_dir(), _list_visa),
    "mvtec": (lambda folder: _is_mvtec(folder) and not _is_mvtec_3d(folder), _list_mvtec),
    "mvtec 3d-ad": (_is_mvtec_3d, _list_mvtec),
    "mtd": (lambda folder: folder.name.startswith("MT_") and (folder / "Imgs").is_dir(), _list_mtd),
    "dagm": (_is_dagm, _list_dagm),
    "ksdd": (lambda folder: any(folder.glob("*_label.*")), _list_ksdd),
}
"""How each layout is recognised in the folder of a category, and how its files are listed."""
