"""What can be wrong with a data set's files, each as one row of the doctor's table."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from tracks.datasets.images import image_size, read_image
from tracks.datasets.masks import mask_levels
from tracks.datasets.mtd import UNMARKED
from tracks.datasets.registry import DatasetEntry
from tracks.doctor_files import Found, Picture
from tracks.errors import TrackInputError

SHOWN = 3
"""How many files a row names."""
SOFT_MASKS = ("visa", "visa as downloaded", "mtd")
"""Sets whose masks hold more than two levels as published: numbers of kinds, soft edges."""


@dataclass(frozen=True)
class Row:
    """One check: "ok", "note" (to know), "problem" (to mend) or "skipped", with what was seen."""

    check: str
    state: Literal["ok", "note", "problem", "skipped"]
    seen: str


@dataclass
class Seen:
    """What looking at one picture and its masks brought to light."""

    picture: Picture
    digest: str = ""
    unreadable: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    other_size: list[Path] = field(default_factory=list)
    not_binary: list[Path] = field(default_factory=list)


def look_at(found: Found, mask_above: float, workers: int) -> list[Seen]:
    """Decode every picture and mask once; nothing raises."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = pool.map(lambda picture: _look(picture, mask_above), found.pictures)
        return list(tqdm(looks, desc="looking", total=len(found.pictures), disable=None, leave=False))


def _look(picture: Picture, mask_above: float) -> Seen:
    seen = Seen(picture)
    size = None
    try:
        image = read_image(picture.path)
        size = image_size(picture.path)
        seen.digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
    except TrackInputError:
        seen.unreadable.append(picture.path)
    marked = 0
    for mask in picture.masks if picture.label != 0 else ():
        try:
            levels = mask_levels(mask)
        except TrackInputError:
            seen.unreadable.append(mask)
            marked += 1
            continue
        marked += bool((levels > mask_above).any())
        if size is not None and levels.shape != size:
            seen.other_size.append(mask)
        if np.count_nonzero(levels) and (levels[levels > 0] != levels.max()).any():
            seen.not_binary.append(mask)
    if picture.label == 1 and picture.masks and not marked:
        seen.empty.append(picture.masks[0])
    return seen


def check_files(found: Found, seen: Sequence[Seen], soft_masks: bool) -> list[Row]:
    """The rows on layouts, pictures, masks and duplicates."""
    masks = sum(len(one.picture.masks) for one in seen)
    soft = soft_masks or any(layout in SOFT_MASKS for layout in found.layouts)
    empty = [path for one in seen for path in one.empty]
    known = [path for path in empty if path.stem in UNMARKED]
    lacking = [one.picture.path for one in seen if one.picture.lacks_mask]
    without = sum(one.picture.label == 1 and not one.picture.masks and not one.picture.lacks_mask for one in seen)
    rows = [
        _layout_row(found),
        _row("unreadable files", [path for one in seen for path in one.unreadable], f"{len(seen):,} pictures decode"),
        _row("masks missing", lacking, f"{masks:,} masks, none is missing"),
        _row("masks extra", found.extra_masks, "every mask belongs to a picture"),
        _row("masks empty", [path for path in empty if path not in known], "every mask of a defect marks something"),
        _row("masks of another size", [path for one in seen for path in one.other_size], "all as their pictures"),
        _row(
            "masks not binary",
            [path for one in seen for path in one.not_binary],
            "all black and one level",
            "note" if soft else "problem",
        ),
        duplicates(seen),
    ]
    if known:
        rows.append(Row("masks empty as published", "note", _named(known)))
    if without:
        rows.append(
            Row("pictures without masks", "note", f"{without:,} anomalous pictures count for image metrics only")
        )
    return rows


def duplicates(seen: Iterable[Seen]) -> Row:
    """Pictures with the same pixels in train and test: whoever draws them as references has seen the test."""
    parts: dict[str, dict[str, Path]] = {"train": {}, "test": {}}
    for one in seen:
        if one.digest and one.picture.part in parts:
            parts[one.picture.part].setdefault(one.digest, one.picture.path)
    if not all(parts.values()):
        return Row("duplicates, train and test", "skipped", "there are not both a training and a test part")
    both = [
        f"{parts['train'][digest]} = {parts['test'][digest]}" for digest in parts["train"] if digest in parts["test"]
    ]
    return _row("duplicates, train and test", both, "no picture is in both")


def count(found: Found, seen: Sequence[Seen]) -> dict[str, Counter[str]]:
    """Pictures of each category by part and label: "train", "test_normal", "test_anomalous", "test", "all"."""
    counts: dict[str, Counter[str]] = {}
    for one in seen:
        picture, here = one.picture, counts.setdefault(one.picture.category, Counter())
        here[picture.part] += 1
        if picture.part == "test" and picture.label is not None:
            here["test_anomalous" if picture.label else "test_normal"] += 1
    return counts


def check_counts(counts: Mapping[str, Counter[str]], entry: DatasetEntry | None) -> Row:
    """Pictures counted against the totals of the published set; a part of its categories is only noted."""
    there = f"{sum(c['train'] + c['test'] + c['all'] for c in counts.values()):,} pictures in {len(counts)} categories"
    if entry is None or not entry.totals:
        return Row("counts", "skipped", f"{there}; no published totals are known for this set")
    whole = len(counts) == entry.categories
    sums: Counter[str] = Counter()
    for counter in counts.values():
        sums.update(counter)
    wrong = []
    for category, expected in entry.totals.items():
        got = counts.get(category) if category else (sums if whole else None)
        if got is not None:
            differing = {key: number for key, number in expected.items() if got[key] != number}
            wrong += [f"{category or 'in all'}: expected {n:,} {key}, got {got[key]:,}" for key, n in differing.items()]
    if wrong or whole:
        return _row("counts", wrong, f"{there}, as published")
    return Row("counts", "note", f"{there}, of {entry.categories} categories of {entry.title}: not the whole set")


def _layout_row(found: Found) -> Row:
    if not found.layouts:
        return Row("layout", "problem", "nothing is laid out like a set that is known here")
    listed = "; ".join(f"{layout}: {len(names)} categories" for layout, names in found.layouts.items())
    if len(found.layouts) > 1:
        both = "; ".join(f"{layout}: {', '.join(names[:SHOWN])}" for layout, names in found.layouts.items())
        return Row("layout", "problem", f"mixed layouts: {both}; move one of them into a folder of its own")
    return Row("layout", "ok", listed)


def _row(check: str, wrong: Sequence[object], well: str, state: Literal["note", "problem"] = "problem") -> Row:
    return Row(check, state, _named(wrong)) if wrong else Row(check, "ok", well)


def _named(items: Sequence[object]) -> str:
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,}: " + "; ".join(map(str, items[:SHOWN])) + more
