"""VisA, as downloaded or converted to the layout of MVTec AD; which of the two it is shows in its folders.

    as downloaded                                        converted
    <category>/Data/Images/Normal/<stem>.JPG             <category>/train/good/<stem>.JPG
    <category>/Data/Images/Anomaly/<stem>.JPG            <category>/test/{good,bad}/<stem>.JPG
    <category>/Data/Masks/Anomaly/<stem>.png             <category>/ground_truth/bad/<stem>.png
    split_csv/1cls.csv

Zou, Jeong, Pemula, Zhang and Dabeer, "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022.
"""

import csv
import io
import logging
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tracks.command.names import listed, missing_path
from tracks.command.paths import leads_out
from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_folders,
    listed_samples,
    mask_rule,
    natural_key,
    references_of,
)
from tracks.datasets.layout import LeftOut, find_images
from tracks.datasets.mvtec import MVTec, check_own_categories
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

SPLIT_FILE = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")
KIND = {"normal": "good", "anomaly": "bad"}
"""The label in the split file, and the folder that it becomes in the converted layout."""
TEST_COUNTS = {
    "candle": (100, 100), "capsules": (60, 100), "cashew": (50, 100), "chewinggum": (50, 100), "fryum": (50, 100),
    "macaroni1": (100, 100), "macaroni2": (100, 100), "pcb1": (100, 100), "pcb2": (100, 100), "pcb3": (101, 100),
    "pcb4": (101, 100), "pipe_fryum": (50, 100),
}  # fmt: skip
"""Normal and anomalous test images in the split 1cls."""


class VisA:
    """Both layouts under one name: a sample is called as in the converted one ("test/bad/000.JPG") in both.

    So a draw of references and a finished run mean the same images whichever layout is at hand. The masks as
    downloaded hold numbers of kinds from 1 up, so any level above 0 is a defect.
    """

    def __init__(
        self, root: str | Path, categories: Sequence[str] | None = None, mask_above: float = 0, name: str = "visa"
    ) -> None:
        """List the images of the chosen categories (all if None or empty).

        Raises:
            TrackInputError: no such folder, neither layout or a mixture of both, a split file that does not fit,
                categories that are not VisA's although no other `name` is given.
        """
        self.name = name
        self._root = _data_folder(existing_folder("the VisA set", root))
        raw, converted = _layouts(self._root)
        _check_one_layout(self._root, raw, converted)
        if raw:
            everything = read_split_file(self._root, mask_above)
            self.categories = chosen_categories(categories, everything["test"])
            self._train = {category: everything["train"][category] for category in self.categories}
            self._test = {category: everything["test"][category] for category in self.categories}
            self._converted = None
            _say_what_is_not_listed(self._root, self.categories, everything)
        else:
            self._converted = MVTec(self._root, categories, mask_above, name)
            self.categories = self._converted.categories
            self._test = {category: self._converted.test(category) for category in self.categories}
        check_own_categories("VisA", self.categories, TEST_COUNTS if name == "visa" else None, self._root)
        self.protocol: dict[str, str | int | float | bool] = {
            "mask_rule": mask_rule(mask_above),
            "split": "1cls" if raw or _has_counts_of_1cls(self._test) else "as converted, not the counts of 1cls",
        }

    def train(self, category: str) -> list[FileSample]:
        """The normal training images; TrackInputError if there are none."""
        if self._converted is not None:
            return self._converted.train(category)
        return references_of(self._train, category, f"the split train of {self._root / SPLIT_FILE}")

    def test(self, category: str) -> list[FileSample]:
        """The test images in natural order, the anomalous ones first."""
        return listed_samples(self._test, category)


def read_split_file(root: Path, mask_above: float = 0) -> dict[str, dict[str, list[FileSample]]]:
    """The images of `split_csv/1cls.csv` as "train" and "test", by category, in natural order.

    Columns are found by their names, whatever their order. Categories of which nothing is there are left out, with
    a warning.

    Raises:
        TrackInputError: no such file, a column missing, a row that cannot be understood, an image or mask missing.
    """
    split_file = root / SPLIT_FILE
    if not split_file.is_file():
        raise TrackInputError(
            f"expected the split of VisA at {split_file}, found no file; it is part of the download (folder "
            "split_csv): unpack it again, or copy that folder from github.com/amazon-science/spot-diff"
        )
    parts: dict[str, dict[str, list[FileSample]]] = {"train": {}, "test": {}}
    absent, known = set(), dict[tuple[str, Path], FileSample]()
    for line, row in _rows(split_file):
        if not (root / row["object"]).is_dir():
            absent.add(row["object"])
            continue
        for part in parts.values():
            part.setdefault(row["object"], [])
        sample = _sample(root, row, f"line {line} of {split_file}", mask_above)
        if sample is None:
            continue
        before = known.setdefault((row["split"], sample.path), sample)
        if before is sample:
            parts[row["split"]][row["object"]].append(sample)
        elif before != sample:
            raise TrackInputError(
                f"expected every image once in {split_file}, got {sample.path} in line {line} with another label or "
                "mask than before; restore the file from the download"
            )
    if absent:
        log.warning("visa: %s of %s are not there and left out", ", ".join(sorted(absent)), split_file)
    for samples in (part[category] for part in parts.values() for category in part):
        samples.sort(key=lambda sample: natural_key(Path(sample.name)))
        _check_no_name_twice(samples, split_file)
    return {name: {category: part[category] for category in sorted(part)} for name, part in parts.items()}


def _say_what_is_not_listed(
    root: Path, categories: Sequence[str], parts: Mapping[str, Mapping[str, Sequence[FileSample]]]
) -> None:
    left_out = LeftOut()
    for category in categories:
        known = {sample.path.resolve() for part in parts.values() for sample in part[category]}
        images = root / category / "Data" / "Images"
        found = find_images(images) if images.is_dir() else []
        left_out.add(f"images that {SPLIT_FILE} does not name", [path for path in found if path.resolve() not in known])
        masks, of_images = root / category / "Data" / "Masks" / "Anomaly", {path.stem for path in found}
        extra = [path for path in (find_images(masks) if masks.is_dir() else []) if path.stem not in of_images]
        left_out.add("masks without an image", extra)
    left_out.say(root)


def _rows(split_file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows with their line numbers, by column name, blanks removed."""
    try:
        text = split_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrackInputError(
            f"expected text in UTF-8 in {split_file}, got something else ({error}); restore the file from the download"
        ) from error
    with io.StringIO(text, newline="") as stream:
        reader = csv.DictReader(stream)
        names = [name.strip() for name in reader.fieldnames or ()]
        lacking = [name for name in COLUMNS if name not in names]
        if lacking:
            raise TrackInputError(
                f"expected the columns {', '.join(COLUMNS)} in {split_file}, got {', '.join(names) or 'none'} "
                f"(no {', '.join(lacking)}); restore the file from the download"
            )
        reader.fieldnames = names
        for row in reader:
            cells = {name: (row[name] or "").strip().replace("\\", "/") for name in COLUMNS}
            known = cells["split"] in ("train", "test") and cells["label"] in KIND
            if not known or not cells["image"] or leads_out(cells["object"]):
                raise TrackInputError(
                    f"expected an object, a split (train, test), a label (normal, anomaly) and an image in line "
                    f"{reader.line_num} of {split_file}, got {cells}; restore the file from the download"
                )
            yield reader.line_num, cells


def _sample(root: Path, row: Mapping[str, str], place: str, mask_above: float) -> FileSample | None:
    if row["split"] == "train" and row["label"] != "normal":
        raise TrackInputError(
            f"expected only normal images in the split train, got {row['image']} in {place}; use the file 1cls.csv of "
            "the download, not one of those with two classes"
        )
    image = root / posixpath.normpath(row["image"])
    if not image.is_file():
        refuse(str(missing_path(f"the image of {place}", image)))
        return None
    kind = KIND[row["label"]]
    name = f"{row['split']}/{kind}/{image.name}"
    if row["label"] == "normal":
        return FileSample(name, row["object"], 0, kind, image)
    mask = root / posixpath.normpath(row["mask"])
    if row["mask"] and mask.is_file():
        return FileSample(name, row["object"], 1, kind, image, mask, mask_above)
    wanted = mask if row["mask"] else image.with_suffix(".png")
    refuse(str(missing_path(f"the mask of {image} ({place})", wanted)), "masks missing", image)
    return FileSample(name, row["object"], 1, kind, image)


def _check_no_name_twice(samples: Sequence[FileSample], split_file: Path) -> None:
    twice = [name for name, count in Counter(sample.name for sample in samples).items() if count > 1]
    if twice:
        places = [str(sample.path) for sample in samples if sample.name == twice[0]]
        raise TrackInputError(
            f"expected every image once in {split_file}, got {' and '.join(places)} for {twice[0]} of "
            f"{samples[0].category}; restore the file from the download"
        )


def _layouts(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in the layout as downloaded and of those in the converted one."""
    folders = list_folders(root)
    raw = [folder.name for folder in folders if (folder / "Data").is_dir()]
    if (root / "test").is_dir() or (root / "train").is_dir():
        return raw, [root.name]
    return raw, [folder.name for folder in folders if (folder / "test").is_dir() or (folder / "train").is_dir()]


def _data_folder(root: Path) -> Path:
    """`root`, or its folder `1cls` where only that holds categories (VisA_pytorch/1cls)."""
    inner = root / "1cls"
    return inner if not any(_layouts(root)) and inner.is_dir() else root


def _check_one_layout(root: Path, raw: list[str], converted: list[str]) -> None:
    if raw and converted:
        both = [name for name in raw if name in converted]
        raise TrackInputError(
            f"expected VisA either as downloaded or converted, got a mixture in {root}: as downloaded {listed(raw)}; "
            f"converted {listed(converted)}{f'; {listed(both)} in both at once' if both else ''}; move the converted "
            "folders (train, test, ground_truth) into a folder of their own and give that, or the other, as the root"
        )
    if raw or converted:
        return
    deeper = [folder for folder in list_folders(root) if any(_layouts(folder))]
    if (root / "Data").is_dir():
        remedy = f"it is one category as downloaded: give {root.resolve().parent} and categories=[{root.name}]"
    elif deeper:
        remedy = f"its folder {deeper[0]} holds categories: give that as the root"
    else:
        remedy = "give the folder that holds candle, capsules and so on"
    raise TrackInputError(
        f"expected VisA in {root}, as downloaded (<category>/Data/Images and {SPLIT_FILE.as_posix()}) or converted "
        f"(<category>/train/good, test/good, test/bad, ground_truth/bad), got neither; {remedy}"
    )


def _has_counts_of_1cls(test: Mapping[str, Sequence[FileSample]]) -> bool:
    """Whether each category has as many normal and anomalous test images as the split 1cls gives it."""
    return all(
        (sum(sample.label == 0 for sample in samples), sum(sample.label == 1 for sample in samples))
        == TEST_COUNTS.get(category)
        for category, samples in test.items()
    )
