"""What can be wrong with a data set's files, each as one row of the doctor's table."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from tracks.checkup.files import Found, Picture
from tracks.datasets.images import read_image
from tracks.datasets.masks import Oddity, defects
from tracks.datasets.mtd import UNMARKED
from tracks.datasets.registry import DatasetEntry
from tracks.errors import TrackInputError

SHOWN = 3
"""How many files a row names."""
SHOTS = 4
"""References that few-shot draws by default (conf/few_shot.yaml)."""
USUAL = {
    "empty": "every mask of a defect marks something",
    "of another size": "all as their pictures",
    "not binary": "all black and one level",
}
"""What is said of masks without the oddities that are always looked for."""
AS_PUBLISHED = "empty as published"


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
    error: str = ""
    oddities: list[Oddity] = field(default_factory=list)


def look_at(pictures: Sequence[Picture], mask_above: float, workers: int) -> list[Seen]:
    """Decode every picture and mask once, as a run would; nothing raises."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = pool.map(lambda picture: _look(picture, mask_above), pictures)
        return list(tqdm(looks, desc="looking", total=len(pictures), disable=None, leave=False))


def _look(picture: Picture, mask_above: float) -> Seen:
    seen = Seen(picture)
    try:
        image = read_image(picture.path, picture.bit_depth)
        seen.digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
        if picture.masks and picture.label != 0:
            _, seen.oddities = defects(picture.path, picture.masks, mask_above)
    except TrackInputError as error:
        seen.error = str(error)
    if picture.label is None:  # the mask tells, so an empty one says that the picture is normal
        seen.oddities = [oddity for oddity in seen.oddities if oddity.kind != "empty"]
    return seen


def check_files(found: Found, seen: Sequence[Seen], is_read: bool) -> list[Row]:
    """The rows on layouts, pictures and masks; what a reader made do with (`is_read`) is only noted."""
    if not seen:
        return [_layout_row(found, is_read), Row("pictures", "problem", "not one was found")]
    unreadable = {one.picture.path: one.error for one in seen if one.error}
    unreadable |= {odd.path: odd.text for one in seen for odd in one.oddities if odd.kind == "unreadable"}
    rows = [_layout_row(found, is_read), Row("unreadable files", "ok", f"{len(seen):,} pictures decode")]
    if unreadable:
        reason = next(iter(unreadable.values()))
        rows[-1] = Row("unreadable files", "problem", f"{_named(list(unreadable))}; the first: {reason}")
    lacking = [one.picture.path for one in seen if one.picture.lacks_mask]
    masks = sum(len(one.picture.masks) for one in seen)
    state: Literal["note", "problem"] = "note" if is_read else "problem"
    if masks or lacking or found.extra_masks:
        rows += [
            _row("masks missing", lacking, f"{masks:,} masks, none is missing", state),
            _row("masks extra", found.extra_masks, "every mask belongs to a picture", state),
            *_mask_rows([oddity for one in seen for oddity in one.oddities]),
        ]
    else:
        rows.append(Row("masks", "skipped", "there are none"))
    if without := sum(one.picture.label == 1 and not one.picture.masks and not one.picture.lacks_mask for one in seen):
        rows.append(
            Row("pictures without masks", "note", f"{without:,} anomalous pictures count for image metrics only")
        )
    return rows


def _mask_rows(oddities: Sequence[Oddity]) -> Iterator[Row]:
    """A row for each kind of oddity that was met, and for the usual ones in any case."""
    by_kind: dict[str, list[Oddity]] = {kind: [] for kind in USUAL}
    for oddity in oddities:
        if oddity.kind != "unreadable":
            known = oddity.kind == "empty" and oddity.path.stem in UNMARKED
            by_kind.setdefault(AS_PUBLISHED if known else oddity.kind, []).append(oddity)
    for kind, alike in by_kind.items():
        if not alike:
            yield Row(f"masks {kind}", "ok", USUAL[kind])
            continue
        reason = "" if kind in (*USUAL, AS_PUBLISHED) else f"; {alike[0].text}"
        state: Literal["note", "problem"] = "problem" if alike[0].refused and kind != AS_PUBLISHED else "note"
        yield Row(f"masks {kind}", state, _named([oddity.path for oddity in alike]) + reason)


def check_pictures(listed: Found, seen: Sequence[Seen]) -> Row:
    """Which of the pictures a run would read."""
    read = {picture.path for picture in listed.pictures}
    others = [one.picture.path for one in seen if one.picture.path not in read]
    if not read:
        return Row("pictures read", "problem", "a run would read none")
    return Row(
        "pictures read",
        "note" if others else "ok",
        f"{len(read):,}" + (f"; passed over {_named(others)}" if others else ""),
    )


def check_references(references: Mapping[str, int]) -> Row:
    """Whether there are normal pictures enough to draw few-shot references from, by category."""
    none = [category for category, number in references.items() if not number]
    few = [f"{category} ({number})" for category, number in references.items() if 0 < number < SHOTS]
    said = [f"no normal pictures to draw from, so zero-shot only, in {_named(none)}"] if none else []
    said += [f"fewer than the {SHOTS} that few-shot draws unless told otherwise, in {_named(few)}"] if few else []
    if said:
        return Row("references", "note", "; ".join(said))
    return Row("references", "ok", f"{min(references.values(), default=0):,} normal pictures or more in each category")


def duplicates(seen: Iterable[Seen]) -> list[Row]:
    """Pictures with the same pixels, in any layout.

    Whoever draws those in train and test as references has seen the test; where there is but one pool, both.
    """
    places: dict[str, dict[str, list[Path]]] = {}
    for one in seen:
        if one.digest:
            places.setdefault(one.digest, {}).setdefault(one.picture.part, []).append(one.picture.path)
    both = [f"{parts['train'][0]} = {parts['test'][0]}" for parts in places.values() if {"train", "test"} <= {*parts}]
    within = [f"{paths[0]} = {paths[1]}" for parts in places.values() for paths in parts.values() if len(paths) > 1]
    parts = {part for of in places.values() for part in of}
    check, others = "duplicates, train and test", _row("duplicates", within, "no picture is there twice", "note")
    if not places:
        return [Row("duplicates", "skipped", "there are no pictures")]
    if not {"train", "test"} <= parts:
        return [Row(check, "skipped", "there are not both a training and a test part"), others]
    return [_row(check, both, "no picture is in both"), others]


def count(pictures: Iterable[Picture]) -> dict[str, Counter[str]]:
    """Pictures of each category by part and label: "train", "test_normal", "test_anomalous", "test", "all"."""
    counts: dict[str, Counter[str]] = {}
    for picture in pictures:
        here = counts.setdefault(picture.category, Counter())
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


def _layout_row(found: Found, is_read: bool) -> Row:
    if not found.layouts:
        return Row("layout", "problem", "nothing is laid out like a set that is known here")
    listed = "; ".join(f"{layout}: {len(names)} categories" for layout, names in found.layouts.items())
    if len(found.layouts) > 1:
        both = "; ".join(f"{layout}: {', '.join(names[:SHOWN])}" for layout, names in found.layouts.items())
        return Row(
            "layout",
            "note" if is_read else "problem",
            f"mixed layouts: {both}; move one of them into a folder of its own",
        )
    return Row("layout", "ok", listed)


def _row(check: str, wrong: Sequence[object], well: str, state: Literal["note", "problem"] = "problem") -> Row:
    return Row(check, state, _named(wrong)) if wrong else Row(check, "ok", well)


def _named(items: Sequence[object]) -> str:
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,}: " + "; ".join(map(str, items[:SHOWN])) + more
