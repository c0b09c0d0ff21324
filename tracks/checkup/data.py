"""What is wrong with a data set: what its reader refuses and leaves out, its pictures, masks, copies and counts.

The reader is asked, with nothing it refuses stopping it (`gathered_findings`), and every picture and mask it lists is
decoded once, as a run would.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tracks.checkup.pictures import Listed, Picture, list_pictures, look_at
from tracks.datasets.layout import find_images
from tracks.datasets.masks import Oddity
from tracks.datasets.mtd import UNMARKED
from tracks.datasets.notices import Findings, gathered_findings
from tracks.datasets.recognise import known_layouts
from tracks.datasets.registry import DatasetEntry, registry
from tracks.datasets.sample import Dataset
from tracks.errors import TrackInputError

State = Literal["ok", "note", "problem", "skipped"]
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
EXTRA_MASKS = (
    "masks without an image", "folders of masks without one of images", "masks straight in the folder of masks",
)  # fmt: skip
"""What readers leave out that belongs into the row of masks without a picture."""


@dataclass(frozen=True)
class Row:
    """One check: "ok", "note" (to know), "problem" (to mend) or "skipped", with what was seen."""

    check: str
    state: State
    seen: str


def examine_data(root: Path, name: str, mask_above: float, workers: int, build: Callable[[], Dataset]) -> list[Row]:
    """The rows on the data set that `build` opens; `name` is the one in the registry of data sets."""
    listed = Listed()
    with gathered_findings() as findings:
        try:
            listed = list_pictures(build())
        except TrackInputError as error:
            findings.refused.append(str(error))
    look_at(listed.pictures, mask_above, workers)
    is_own = listed.name not in ("", name)  # data in MVTec layout that are not MVTec AD
    counts = check_counts(count(listed.pictures), None if is_own else registry().get(name))
    return [*_rows(known_layouts(root), listed, findings), counts]


def _rows(layouts: Mapping[str, Sequence[str]], listed: Listed, findings: Findings) -> Iterator[Row]:
    if findings.refused:
        more = len(findings.refused) - 1
        yield Row("reader", "problem", findings.refused[0] + (f" (and {more:,} more like it)" if more else ""))
    else:
        yield Row("reader", "ok", f"{listed.name}: {len(listed.references)} categories can be read")
    known = layouts or ({listed.name: [*listed.references]} if listed.name else {})
    yield _layout_row(known, is_read=not findings.refused)
    if layouts and not listed.name:
        yield Row("pictures", "skipped", "the reader lists none")
    elif not listed.pictures:
        yield Row("pictures", "problem", "not one was found")
    else:
        yield from check_files(listed.pictures, findings)
        if not findings.refused:
            yield from _reading_rows(listed)
    left_out = {what: paths for what, paths in findings.left_out.items() if what not in EXTRA_MASKS}
    if left_out:
        seen = "; ".join(f"{len(paths):,} {what} ({paths[0]} first)" for what, paths in left_out.items())
        yield Row("left out", "note", seen)
    yield from duplicates(listed.pictures)


def _layout_row(layouts: Mapping[str, Sequence[str]], is_read: bool) -> Row:
    if not layouts:
        return Row("layout", "problem", "nothing is laid out like a set that is known here")
    if len(layouts) > 1:
        both = "; ".join(f"{layout}: {', '.join(names[:SHOWN])}" for layout, names in layouts.items())
        state: State = "note" if is_read else "problem"
        return Row("layout", state, f"mixed layouts: {both}; move one of them into a folder of its own")
    return Row("layout", "ok", "; ".join(f"{layout}: {len(names)} categories" for layout, names in layouts.items()))


def check_files(pictures: Sequence[Picture], findings: Findings) -> Iterator[Row]:
    """The rows on pictures and masks."""
    unreadable = {one.sample.path: one.error for one in pictures if one.error}
    unreadable |= {odd.path: odd.text for one in pictures for odd in one.oddities if odd.kind == "unreadable"}
    seen = f"{_named([*unreadable])}; the first: {next(iter(unreadable.values()))}" if unreadable else ""
    yield _row("unreadable files", seen, f"{len(pictures):,} pictures decode")
    missing, extra = (findings.faulty.get(f"masks {what}", []) for what in ("missing", "extra"))
    beside = [path for what in EXTRA_MASKS for path in findings.left_out.get(what, [])]
    beside = [mask for path in beside for mask in (find_images(path) if path.is_dir() else [path])]
    masks = sum(bool(one.sample.mask_path) + len(one.sample.more_masks) for one in pictures)
    if masks or missing or extra or beside:
        yield _row("masks missing", _named(missing), f"{masks:,} masks, none is missing")
        state: State = "problem" if extra else "note"
        yield _row("masks extra", _named([*extra, *beside]), "every mask belongs to a picture", state)
        yield from _mask_rows([oddity for one in pictures for oddity in one.oddities])
    else:
        yield Row("masks", "skipped", "there are none")
    samples = [one.sample for one in pictures if one.sample.label == 1 and not one.sample.mask_path]
    if without := len([sample for sample in samples if sample.path not in missing]):
        seen = f"{without:,} anomalous pictures count for image metrics only"
        yield Row("pictures without masks", "note", seen)


def _mask_rows(oddities: Sequence[Oddity]) -> Iterator[Row]:
    """A row for each kind of oddity that was met, and for the usual ones in any case."""
    by_kind: dict[str, list[Oddity]] = {kind: [] for kind in USUAL}
    for oddity in oddities:
        if oddity.kind != "unreadable":
            known = oddity.kind == "empty" and oddity.path.stem in UNMARKED
            by_kind.setdefault(AS_PUBLISHED if known else oddity.kind, []).append(oddity)
    for kind, alike in by_kind.items():
        reason = "" if not alike or kind in (*USUAL, AS_PUBLISHED) else f"; {alike[0].text}"
        state: State = "problem" if alike and alike[0].refused and kind != AS_PUBLISHED else "note"
        yield _row(f"masks {kind}", _named([oddity.path for oddity in alike]) + reason, USUAL.get(kind, ""), state)


def _reading_rows(listed: Listed) -> Iterator[Row]:
    """Which of the pictures a run would read, and whether there are normal ones enough to draw references from."""
    others = [one.sample.path for one in listed.pictures if not one.is_read]
    read = f"{len(listed.pictures) - len(others):,}"
    yield _row("pictures read", f"{read}; passed over {_named(others)}" if others else "", read, "note")
    none = [category for category, number in listed.references.items() if not number]
    few = [f"{category} ({number})" for category, number in listed.references.items() if 0 < number < SHOTS]
    said = [f"no normal pictures to draw from, so zero-shot only, in {_named(none)}"] if none else []
    said += [f"fewer than the {SHOTS} that few-shot draws unless told otherwise, in {_named(few)}"] if few else []
    enough = f"{min(listed.references.values(), default=0):,} normal pictures or more in each category"
    yield _row("references", "; ".join(said), enough, "note")


def duplicates(pictures: Iterable[Picture]) -> Iterator[Row]:
    """Pictures with the same pixels, in any layout.

    Whoever draws those in train and test as references has seen the test; where there is but one pool, both.
    """
    places: dict[str, dict[str, list[Path]]] = {}
    for one in pictures:
        if one.digest:
            places.setdefault(one.digest, {}).setdefault(one.part, []).append(one.sample.path)
    if not places:
        yield Row("duplicates", "skipped", "there are no pictures")
        return
    both = [f"{parts['train'][0]} = {parts['test'][0]}" for parts in places.values() if {"train", "test"} <= {*parts}]
    within = [f"{paths[0]} = {paths[1]}" for parts in places.values() for paths in parts.values() if len(paths) > 1]
    if {"train", "test"} <= {part for of in places.values() for part in of}:
        yield _row("duplicates, train and test", _named(both), "no picture is in both")
    else:
        yield Row("duplicates, train and test", "skipped", "there are not both a training and a test part")
    yield _row("duplicates", _named(within), "no picture is there twice", "note")


def count(pictures: Iterable[Picture]) -> dict[str, Counter[str]]:
    """Pictures of each category by part and label: "train", "test_normal", "test_anomalous", "test", "all"."""
    counts: dict[str, Counter[str]] = {}
    for picture in pictures:
        here = counts.setdefault(picture.sample.category, Counter())
        here[picture.part] += 1
        if picture.part == "test" and picture.sample.label is not None:
            here["test_anomalous" if picture.sample.label else "test_normal"] += 1
    return counts


def check_counts(counts: Mapping[str, Counter[str]], entry: DatasetEntry | None) -> Row:
    """Pictures counted against the totals of the published set; a part of its categories is only noted."""
    there = f"{sum(c['train'] + c['test'] + c['all'] for c in counts.values()):,} pictures in {len(counts)} categories"
    if entry is None or not entry.totals:
        return Row("counts", "skipped", f"{there}; no published totals are known for this set")
    whole = len(counts) == entry.categories
    sums = sum(counts.values(), Counter[str]())
    wrong = []
    for category, expected in entry.totals.items():
        got = counts.get(category) if category else (sums if whole else None)
        if got is not None:
            differing = {key: number for key, number in expected.items() if got[key] != number}
            wrong += [f"{category or 'in all'}: expected {n:,} {key}, got {got[key]:,}" for key, n in differing.items()]
    if wrong or whole:
        return _row("counts", _named(wrong), f"{there}, as published")
    return Row("counts", "note", f"{there}, of {entry.categories} categories of {entry.title}: not the whole set")


def _row(check: str, wrong: str, well: str, state: State = "problem") -> Row:
    return Row(check, state, wrong) if wrong else Row(check, "ok", well)


def _named(items: Sequence[object]) -> str:
    """How many, and the first of them; "" for none."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,}: " + "; ".join(map(str, items[:SHOWN])) + more if items else ""
