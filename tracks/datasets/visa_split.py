"""`split_csv/1cls.csv` of VisA as downloaded: which image is for training, which is tested on, which mask is whose."""

import csv
import io
import logging
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tracks.command.names import missing_path
from tracks.command.paths import leads_out
from tracks.datasets.files import FileSample, natural_key
from tracks.datasets.notices import refuse
from tracks.errors import TrackInputError

log = logging.getLogger(__name__)

SPLIT_FILE = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")
KIND = {"normal": "good", "anomaly": "bad"}
"""The label in the split file, and the folder that it becomes in the converted layout."""


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
