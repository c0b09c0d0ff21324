"""`meta.json`, the list of images that zero-shot anomaly detection code shares: read as a data set, or written.

    {"train" | "test": {<category>: [{"img_path", "mask_path", "cls_name", "specie_name", "anomaly"}]}}

Paths are relative to the folder of the data set; `mask_path` is "" where there is none, `anomaly` is 0 or 1 and
`specie_name` the kind of defect, which some writers leave empty.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.disk import write_atomically
from tracks.command.names import missing_path
from tracks.command.paths import leads_out, name_below
from tracks.datasets.files import (
    FileSample,
    chosen_categories,
    existing_folder,
    list_images,
    listed_samples,
    mask_rule,
    references_of,
)
from tracks.datasets.layout import LeftOut
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError

META = "meta.json"
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1}
"""What `anomaly` may be, as it reads in Python."""


class MetaJson:
    """The data set that a `meta.json` lists; a `mask_path` that is a folder stands for all masks in it.

    Images may lie outside the root; in a run they are called by the way to them without its steps up. An image that is
    listed again under another spelling of its path counts once.
    """

    def __init__(
        self,
        root: str | Path,
        meta: str | Path = META,
        categories: Sequence[str] | None = None,
        mask_above: float = 0,
        name: str = "meta_json",
    ) -> None:
        """List the images of the chosen categories (all if None or empty); `meta` is relative to `root`.

        Raises:
            TrackInputError: no such file, another content, an image or mask that is not there, an image listed as two
                things, a category without images.
        """
        self.name = name
        self.protocol: dict[str, str | int | float | bool] = {"mask_rule": mask_rule(mask_above)}
        self._root = existing_folder("the data set's folder", root)
        self._meta, self._mask_above = self._root / Path(meta).expanduser(), mask_above
        parts = _read(self._meta)
        self.categories = chosen_categories(categories, parts["test"])
        self._left_out = LeftOut()
        self._test = {category: self._list("test", category, parts) for category in self.categories}
        self._check_categories()
        train = {category: self._list("train", category, parts) for category in self.categories}
        self._train = {key: [sample for sample in samples if sample.label == 0] for key, samples in train.items()}
        self._left_out.say(self._meta)

    def train(self, category: str) -> list[FileSample]:
        """The normal images of "train"; TrackInputError if there are none."""
        return references_of(self._train, category, f'"train" of {self._meta}')

    def test(self, category: str) -> list[FileSample]:
        """The images of "test", in the order of the file."""
        return listed_samples(self._test, category)

    def _list(self, part: str, category: str, parts: Mapping[str, Any]) -> list[FileSample]:
        entries = parts[part].get(category, [])
        samples: dict[str, FileSample] = {}
        for sample in (self._sample(entry, category, f"{part}, {category}") for entry in entries):
            known = samples.setdefault(sample.name, sample)
            if known is not sample:
                self._check_same(known, sample, f"{part}, {category}")
                self._left_out.add("images listed again", [sample.path])
        without = [sample.path for sample in samples.values() if sample.label == 1 and sample.mask_path is None]
        if len(without) < sum(sample.label == 1 for sample in samples.values()):
            what = "masks of anomalous images, which count for image metrics only while others have one"
            self._left_out.add(what, without)
        return list(samples.values())

    def _check_same(self, one: FileSample, other: FileSample, place: str) -> None:
        """Refuse two entries of one name that are not one image with one label and mask."""
        same = one.path.resolve() == other.path.resolve() and one.label == other.label
        if not same or _resolved(one.mask_path) != _resolved(other.mask_path):
            raise TrackInputError(
                f"expected every image of one name to be one in {self._meta}, got {one.path} and {other.path} with "
                f"anomaly {one.label} and {other.label} ({place}); take one of the two entries away"
            )

    def _check_categories(self) -> None:
        for category, samples in self._test.items():
            if leads_out(category):
                raise TrackInputError(f"expected names of categories in {self._meta}, got {category!r}; write it again")
            if not samples:
                raise TrackInputError(
                    f'expected test images of {category} in {self._meta} ("test"), got none; list them, or name the '
                    "categories to use"
                )

    def _sample(self, entry: Any, category: str, place: str) -> FileSample:
        try:
            image, mask = _slashes(entry["img_path"]), _slashes(entry.get("mask_path") or "")
            anomaly, kind = entry["anomaly"], str(entry.get("specie_name") or "")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise TrackInputError(
                f"expected img_path, mask_path, specie_name and anomaly for every image in {self._meta}, got "
                f"{str(entry)[:120]} ({place}); write the file again"
            ) from error
        if (label := LABELS.get(str(anomaly))) is None:
            raise TrackInputError(
                f"expected anomaly 0 or 1 in {self._meta}, got {anomaly!r} for {image} ({place}); write the file again"
            )
        path = self._root / image
        if not path.is_file():
            raise missing_path(f"an image of {self._meta} ({place})", path)
        name = name_below(path, self._root).removeprefix(f"{category}/")
        if label == 0:
            return FileSample(name, category, 0, "good", path)
        masks = self._masks(mask, place) if mask else []
        first = masks[0] if masks else None
        return FileSample(name, category, 1, kind or "defect", path, first, self._mask_above, None, tuple(masks[1:]))

    def _masks(self, mask: str, place: str) -> list[Path]:
        path = self._root / mask
        found = [path] if path.is_file() else list_images(path)
        if not found:
            raise missing_path(f"a mask of {self._meta} ({place})", path)
        return found


def write_meta_json(dataset: Dataset, root: str | Path, path: str | Path | None = None) -> Path:
    """Write `meta.json` of a data set below `root` (to `root`, or to `path`) and return where it stands.

    Training images that are also tested on are left out of "train", where other code would take them for apart.

    Raises:
        TrackInputError: images outside `root`, without a label, not files, or with several masks in no folder.
    """
    folder = existing_folder("the data set's folder", root).resolve()
    parts: dict[str, dict[str, list[dict[str, str | int]]]] = {"train": {}, "test": {}}
    for category in dataset.categories:
        test = dataset.test(category)
        tested = {sample.name for sample in test}
        normal = [sample for sample in _training(dataset, category) if sample.name not in tested]
        parts["train"][category] = [_entry(sample, folder) for sample in normal]
        parts["test"][category] = [_entry(sample, folder) for sample in test]
    target = Path(path).expanduser() if path else folder / META
    write_atomically(target, (json.dumps(parts, indent=4, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
    return target


def _training(dataset: Dataset, category: str) -> Sequence[Sample]:
    try:
        return dataset.train(category)
    except TrackInputError:
        return []


def _entry(sample: Sample, root: Path) -> dict[str, str | int]:
    if not isinstance(sample, FileSample) or sample.label is None:
        reason = "no label" if isinstance(sample, FileSample) else "no file"
        raise TrackInputError(f"expected files with labels for meta.json, got {sample.name}, which has {reason}")
    masks = [path for path in (sample.mask_path, *sample.more_masks) if path is not None]
    return {
        "img_path": _below(sample.path, root),
        "mask_path": _below(_one_mask(masks, sample), root) if masks else "",
        "cls_name": sample.category,
        "specie_name": sample.defect_type,
        "anomaly": sample.label,
    }


def _one_mask(masks: Sequence[Path], sample: FileSample) -> Path:
    """The mask, or the folder that holds these masks and no other."""
    if len(masks) == 1:
        return masks[0]
    folder = masks[0].parent
    if sorted(masks) != sorted(list_images(folder)):
        raise TrackInputError(
            f"expected one mask, or a folder of its own for those of {sample.path}, got {masks[0]} and {masks[1]}; "
            "unite the masks into one file first"
        )
    return folder


def _below(path: Path, root: Path) -> str:
    if not path.resolve().is_relative_to(root):
        raise TrackInputError(
            f"expected every file of meta.json below {root}, got {path}; give the folder that holds all as the root"
        )
    return path.resolve().relative_to(root).as_posix()


def _read(path: Path) -> dict[str, dict[str, list[Any]]]:
    """The parts of a meta.json; "train" may be missing."""
    if not path.is_file():
        raise missing_path("the list of images", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        parts = {part: dict(content.get(part, {})) for part in ("train", "test")}
        parts = {part: {str(key): list(images) for key, images in of.items()} for part, of in parts.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise TrackInputError(
            f'expected {path} to be {{"train": {{category: [...]}}, "test": {{category: [...]}}}}, got '
            f"{type(error).__name__}: {error}; write the file again"
        ) from error
    if not parts["test"]:
        raise TrackInputError(f'expected test images in {path} ("test"), got none; write the file again')
    return parts


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _slashes(path: object) -> str:
    """A path as in Linux; a leading "./" and Windows' backslashes stand in files that other tools wrote."""
    return str(path).replace("\\", "/").removeprefix("./")
