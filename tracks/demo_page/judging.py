"""What the demo page does, without the page: uploads read or refused, photos judged (again), drawn, listed."""

import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import PIL.Image
import yaml

from models.base import AnomalyModel
from models.weights.catalogue import catalogue, missing_files, texts_in
from tracks import api
from tracks.command.explained import CONF
from tracks.datasets.images import common_bit_depth, image_size, read_image
from tracks.decide.judge import CSV_FILE, UNREADABLE, Verdict, as_csv, count_map, thumbnail
from tracks.decide.kept import Facts, facts_of
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, Threshold
from tracks.errors import TrackInputError
from tracks.predict import DEFAULT_CATEGORY
from tracks.run.overlay import LONGEST_SIDE, HeatScale, category_scale, render_overlay

QUALITY = 88
Progress = Callable[[float, str], Any]


@dataclass(frozen=True)
class Limits:
    """What one visitor may upload at a time."""

    photos: int = 50
    references: int = 32
    megabytes: float = 25
    """Of one file."""
    megapixels: float = 40
    """Of one picture, as its header says."""


@dataclass(frozen=True)
class Upload:
    """A file that was dropped on the page, under the name that it has there."""

    name: str
    path: Path


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


class Models:
    """Loaded models, one for each pair of model and weights; other words for defects load it anew."""

    def __init__(self, device: str = "auto", settings: dict[tuple[str, str], dict[str, Any]] | None = None):
        """`settings` are those of `tracks.api.load_model`, by (model, weights)."""
        self.device, self._settings = device, settings or {}
        self._kept: dict[tuple[str, str], tuple[tuple[str, ...], AnomalyModel]] = {}
        self._lock = Lock()

    def get(self, model: str, weights: str, defects: Sequence[str] = ()) -> AnomalyModel:
        """A model that has learnt nothing."""
        key, words = (model, weights), tuple(defects)
        with self._lock:
            if key not in self._kept or self._kept[key][0] != words:
                self._kept.pop(key, None)  # its memory is free before the next one needs it
                settings = self._settings.get(key, {}) | ({"prompts.defects": list(words)} if words else {})
                self._kept[key] = words, api.load_model(model, weights=weights, device=self.device, **settings)
            return self._kept[key][1]


def taught(model: AnomalyModel) -> AnomalyModel:
    """A copy that may learn: it shares the weights, and nothing that it learns reaches the original."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)  # type: ignore[arg-type]


def choices() -> tuple[list[str], list[str]]:
    """Names of models that can tell something, and of weights all files of which are here."""
    models = [
        path.stem for path in sorted((CONF / "model").glob("*.yaml")) if ".trivial." not in path.read_text("utf-8")
    ]
    return models, [path.stem for path in sorted((CONF / "weights").glob("*.yaml")) if _is_here(path)]


def _is_here(path: Path) -> bool:
    content = yaml.safe_load(path.read_text("utf-8"))
    texts = list(texts_in(content))
    named = [text for text in texts if text in catalogue()]
    return bool(named) and not missing_files(content) and not {"???", "random:0"} & set(texts)


def uploads(paths: Sequence[str | Path] | None) -> list[Upload]:
    """The files with their names, those that come twice numbered."""
    found, met = [], Counter[str]()
    for path in map(Path, paths or ()):
        met[path.name] += 1
        again = met[path.name] > 1
        found.append(Upload(f"{path.name} ({met[path.name]})" if again else path.name, path))
    return found


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
    _check_counts(given, good, limits)
    depth = common_bit_depth([each.path for each in [*good, *given] if not _refusal(each, limits)])
    notes: list[str] = []
    progress(0.0, "loading the model")
    judging = models.get(model, weights, [word for each in defects.split(",") if (word := each.strip())])
    category = category.strip() or DEFAULT_CATEGORY
    names: list[str] = []
    if good:
        progress(0.05, "learning the good parts")
        judging = taught(judging)
        names, pictures = _readable(good, depth, limits, notes)
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
            shown = _read(each, depth, limits)
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
        shown = thumbnail(overlay.crop((0, 0, *photo.size))) if small else overlay
        shown.save(path, quality=QUALITY)
    return path


def summary(judged: Judged) -> str:
    """How many photos got which verdict."""
    counts = Counter(verdict.verdict for verdict in judged.verdicts)
    return ", ".join(f"{counts[kind]} {kind}" for kind in (DEFECT, UNDECIDED, GOOD, UNREADABLE) if counts[kind])


def listed(judged: Judged) -> Path:
    """The verdicts as a CSV file, as `predict` writes it."""
    path = judged.folder / CSV_FILE
    path.write_bytes(as_csv(judged.verdicts, judged.threshold))
    return path


def forget(judged: Judged | None) -> None:
    """Delete the pictures of a visitor who has gone."""
    if judged is not None:
        shutil.rmtree(judged.folder, ignore_errors=True)


def _check_counts(photos: Sequence[Upload], references: Sequence[Upload], limits: Limits) -> None:
    if not photos:
        raise TrackInputError("expected photos to judge, got none; drop some on the page")
    for what, given, most in (("photos", photos, limits.photos), ("good parts", references, limits.references)):
        if len(given) > most:
            raise TrackInputError(
                f"expected at most {most} {what} at a time, got {len(given)}; for more use `vandkit predict FOLDER`"
            )


def _refusal(upload: Upload, limits: Limits) -> str:
    """Why a file is not even opened, "" if it may be."""
    try:
        megabytes = upload.path.stat().st_size / 1e6
        height, width = image_size(upload.path)
    except (OSError, TrackInputError) as error:
        return str(error).replace(str(upload.path), upload.name)
    if megabytes > limits.megabytes:
        return f"{upload.name}: expected at most {limits.megabytes:g} MB, got {megabytes:.1f}"
    if height * width > limits.megapixels * 1e6:
        return f"{upload.name}: expected at most {limits.megapixels:g} megapixels, got {height * width / 1e6:.0f}"
    return ""


def _read(upload: Upload, depth: int | None, limits: Limits) -> PIL.Image.Image:
    if why := _refusal(upload, limits):
        raise TrackInputError(why)
    try:
        return read_image(upload.path, depth)
    except TrackInputError as error:
        raise TrackInputError(str(error).replace(str(upload.path), upload.name)) from error


def _readable(
    given: Sequence[Upload], depth: int | None, limits: Limits, notes: list[str]
) -> tuple[list[str], list[PIL.Image.Image]]:
    names, pictures = [], []
    for each in given:
        try:
            pictures.append(_read(each, depth, limits))
            names.append(each.name)
        except TrackInputError as error:
            notes.append(str(error))
    if not pictures:
        raise TrackInputError(f"not one of the good parts could be read: {'; '.join(notes)}")
    return names, pictures


def _keep(folder: Path, number: int, photo: PIL.Image.Image, anomaly_map: np.ndarray) -> str:
    small = photo.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), PIL.Image.Resampling.LANCZOS)
    small.save(folder / f"{number}.jpg", quality=QUALITY)
    values = PIL.Image.fromarray(anomaly_map).resize(small.size, PIL.Image.Resampling.BILINEAR)
    np.save(folder / f"{number}.npy", np.asarray(values))
    return str(number)
