"""What the demo page does, without the page: photos judged, judged again, drawn and listed."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tracks import api
from tracks.datasets.images import common_bit_depth
from tracks.decide.judge import THUMBNAIL_SIDE, count_map
from tracks.decide.kept import Facts, facts_of
from tracks.decide.settings import DEFAULT_CATEGORY
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.decide.verdict import CSV_FILE, UNREADABLE, Verdict, write_csv
from tracks.demo_page.loaded import Models, taught
from tracks.demo_page.uploads import Limits, check_counts, read, readable, refusal, uploads
from tracks.errors import TrackInputError
from tracks.run.overlay import LONGEST_SIDE, HeatScale, category_scale, render_overlay, shrunk

QUALITY = 88
Progress = Callable[[float, str], Any]


@dataclass(frozen=True)
class Judged:
    """Photos with their verdicts, highest score first, and what is needed to judge and draw them again.

    `folder` holds a small copy of each readable photo and its map; `notes` are sentences about files that were refused.
    """

    folder: Path
    verdicts: tuple[Verdict, ...]
    threshold: Threshold
    scale: HeatScale
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """The stem of each readable photo's files in `folder`, by name."""
    first: Threshold | None = None
    """The threshold before it was moved."""

    def fitted(self) -> "Judged":
        """The same by the threshold that they were first judged by."""
        return self if self.first is None else _by(replace(self, first=None), self.first)

    @property
    def drawn(self) -> list[Verdict]:
        """The photos that there is a picture of, in the order of the gallery."""
        return [verdict for verdict in self.verdicts if verdict.score is not None]


def judge(
    models: Models, photos: Sequence[str | Path] | None, references: Sequence[str | Path] | None = None,
    category: str = "", defects: str = "", model: str = "clip_adapter", weights: str = "tiny", *,
    limits: Limits | None = None, false_alarm_rate: float = 0.05, progress: Progress = lambda share, what: None,
) -> Judged:  # fmt: skip
    """Judge photos, with references few-shot, without zero-shot.

    A file that cannot be used is named in the notes; the others are judged all the same.

    Raises:
        TrackInputError, ModelInputError: too many files, none that can be read, a model that does not fit.
    """
    limits = limits or Limits()
    given, good = uploads(photos), uploads(references)
    check_counts(given, good, limits)
    depth = common_bit_depth([each.path for each in [*good, *given] if not refusal(each, limits)])
    notes: list[str] = []
    progress(0.0, "loading the model")
    judging = models.get(model, weights, [word for each in defects.split(",") if (word := each.strip())])
    category = category.strip() or DEFAULT_CATEGORY
    names: list[str] = []
    if good:
        progress(0.05, "learning the good parts")
        judging = taught(judging)
        names, pictures = readable(good, depth, limits, notes)
        api.learn(judging, pictures, category)
    facts = facts_of(judging, category, names)
    if facts.refused:
        notes.append(f"the threshold is that of the weights: {facts.refused}")
    fitted = bool(names) and not facts.refused
    threshold = facts.reference_threshold(names, false_alarm_rate) if fitted else facts.weights_threshold
    folder = Path(tempfile.mkdtemp(prefix="vandkit-demo-"))
    verdicts, files = [], {}
    for number, each in enumerate(given):
        progress(0.1 + 0.85 * number / len(given), f"photo {number + 1} of {len(given)}")
        try:
            shown = read(each, depth, limits)
        except TrackInputError as error:
            notes.append(str(error))
            verdicts.append(Verdict(each.name, UNREADABLE, note=str(error)))
            continue
        scored = api.score(judging, shown, category)[0]
        files[each.name] = _keep(folder, number, shown, scored.anomaly_map)
        verdicts.append(Verdict(each.name, UNDECIDED, scored.score))
    return _decided(Judged(folder, tuple(verdicts), threshold, HeatScale(0, 0, 0), tuple(notes), files), facts)


def _decided(judged: Judged, facts: Facts) -> Judged:
    """The photos judged, ranked and on one colour scale, now that all scores are known."""
    scores = [verdict.score for verdict in judged.verdicts if verdict.score is not None]
    if not scores:
        forget(judged)
        raise TrackInputError(f"not one of the photos could be read: {'; '.join(judged.notes)}")
    judged = _by(judged, judged.threshold.after(scores))
    fitted = bool(facts.pixels.by_value()[1].any())
    for verdict in judged.drawn:
        anomaly_map = np.load(judged.folder / f"{judged.files[verdict.name]}.npy")
        count_map(facts.pixels, anomaly_map, verdict.verdict == GOOD and not fitted)
    ranked = sorted(judged.verdicts, key=lambda verdict: (verdict.score is None, -(verdict.score or 0)))
    return replace(judged, verdicts=tuple(ranked), scale=category_scale(facts.pixels, facts.map_bound))


def judged_again(judged: Judged, value: float) -> Judged:
    """The same photos by another threshold; nothing is computed."""
    if value == judged.threshold.value:
        return judged
    own = replace(judged.threshold, value=value, source="as you set it", undecided="")
    return _by(replace(judged, first=judged.first or judged.threshold), own)


def _by(judged: Judged, threshold: Threshold) -> Judged:
    return replace(judged, threshold=threshold, verdicts=tuple(each.by(threshold) for each in judged.verdicts))


def gallery(judged: Judged) -> list[tuple[str, str]]:
    """Thumbnails with heat, as files, and captions: verdict, score and name."""
    return [
        (str(picture(judged, verdict, small=True)), f"{verdict.verdict} {verdict.score:.4g}\n{verdict.name}")
        for verdict in judged.drawn
    ]


def picture(judged: Judged, verdict: Verdict, *, small: bool = False, heat: bool = True) -> Path:
    """The file of a photo, with heat (a defect outlined) or without; drawn once."""
    stem = judged.files[verdict.name]
    plain = judged.folder / f"{stem}.jpg"
    if not heat:
        return plain
    called = verdict.verdict == DEFECT
    path = judged.folder / f"{stem}-{'defect' if called else 'heat'}{'-small' if small else ''}.jpg"
    if not path.is_file():
        photo = PIL.Image.open(plain)
        overlay = render_overlay(photo, np.load(judged.folder / f"{stem}.npy"), judged.scale, called=called)
        shown = shrunk(overlay.crop((0, 0, *photo.size)), THUMBNAIL_SIDE) if small else overlay
        shown.save(path, quality=QUALITY)
    return path


def summary(judged: Judged) -> str:
    """How many photos got which verdict."""
    counts = Counter(verdict.verdict for verdict in judged.verdicts)
    return ", ".join(f"{counts[kind]} {kind}" for kind in (DEFECT, UNDECIDED, GOOD, UNREADABLE) if counts[kind])


def listed(judged: Judged) -> Path:
    """The verdicts as a CSV file, as `predict` writes it."""
    path = judged.folder / CSV_FILE
    write_csv(path, judged.verdicts, judged.threshold)
    return path


def forget(judged: Judged | None) -> None:
    """Delete the pictures of a visitor who has gone."""
    if judged is not None:
        shutil.rmtree(judged.folder, ignore_errors=True)


def _keep(folder: Path, number: int, photo: PIL.Image.Image, anomaly_map: np.ndarray) -> str:
    small = shrunk(photo, LONGEST_SIDE)
    small.save(folder / f"{number}.jpg", quality=QUALITY)
    values = PIL.Image.fromarray(anomaly_map).resize(small.size, PIL.Image.Resampling.BILINEAR)
    np.save(folder / f"{number}.npy", np.asarray(values))
    return str(number)
