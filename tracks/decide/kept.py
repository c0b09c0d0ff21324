"""What the folder of judged photos keeps, so that nothing is computed twice: scores, the references', overlays drawn.

Layout, below `kept/` of the output folder::

    basis.json            what scores depend on beside the photos; what the model said of itself and of references
    reference_pixels.npz  how often the references' maps have each value
    scores.jsonl          a line for each photo, appended once its map is safely on disk
    drawn.jsonl           a line for each overlay, with what it looks like

None of it depends on the threshold.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from eval.ranking.histogram import ValueCounts
from models.base import INDUCTIVE, AnomalyModel
from models.disk import append_line, replaced, write_atomically
from tracks.command.paths import below
from tracks.datasets.files import FileSample
from tracks.datasets.region import Region
from tracks.decide.threshold import NoLeaveOneOut, Threshold, leave_one_out, weights_threshold
from tracks.decide.threshold_fit import fit_threshold, owners
from tracks.errors import TrackInputError
from tracks.run.overlay import count_pixels, map_bound

FOLDER_NAME = "kept"
NO_MAPS = "none"
"""As `maps`: scores alone, neither maps nor overlays nor regions."""


@dataclass(frozen=True)
class Facts:
    """What a decision needs to know of a model, so that another one does not need the model.

    `reference_scores` are the leave-one-out scores of the references, `owners` whose each is, `pixels` the map values
    of those that are not odd, counted as negative. `refused` is why the model cannot score them; "" if it can.
    `setting` is whether it scores each photo by itself or all together.
    """

    scores_are_probabilities: bool
    map_bound: float | None
    threshold: float
    threshold_source: str
    reference_scores: list[float] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    refused: str = ""
    setting: str = INDUCTIVE
    pixels: ValueCounts = field(default_factory=ValueCounts)

    @property
    def weights_threshold(self) -> Threshold:
        """What the weights state as the threshold of a zero-shot score."""
        return Threshold(self.threshold, self.threshold_source)

    def reference_threshold(self, references: Sequence[str], target_rate: float) -> Threshold:
        """The threshold fitted on the references."""
        return fit_threshold(
            self.reference_scores, target_rate, self.scores_are_probabilities, references=self.owners, names=references
        )


def facts_of(model: AnomalyModel, category: str, references: Sequence[str], region: Region | None = None) -> Facts:
    """Ask a model, which has learnt its `references` if there are any; they are scored, each without itself."""
    stated, pixels = weights_threshold(model), ValueCounts()
    scores: list[float] = []
    whose: list[int] = []
    refused = ""
    if references:
        print(f"scoring the {len(references)} references, each without itself: what good parts score", flush=True)
        try:
            prediction = leave_one_out(model, category)
        except NoLeaveOneOut as error:
            refused = str(error)
        else:
            scores, whose = prediction.image_scores.tolist(), owners(prediction)
            fitted = fit_threshold(scores, 0.05, model.scores_are_probabilities, references=whose, names=references)
            for owner, anomaly_map in zip(whose, prediction.anomaly_maps, strict=True):
                if references[owner] not in fitted.odd_references:  # whatever the rate
                    values = anomaly_map.float().cpu().numpy()
                    count_pixels(pixels, values if region is None else values[region.inside(values.shape)], normal=True)
    bound = map_bound(model.protocol, bool(pixels.by_value()[1].any()))
    probabilities = bool(model.scores_are_probabilities)
    return Facts(probabilities, bound, stated.value, stated.source, scores, whose, refused, model.setting, pixels)


@dataclass(frozen=True, slots=True)
class Score:
    """What is known of one photo: without a `score` it could not be read, and `note` says why.

    `maps` is how its map was asked for, `milliseconds` the model's time, `own_reference` whether the model took it as a
    reference of the others.
    """

    name: str
    fingerprint: str
    score: float | None = None
    map_file: str = ""
    milliseconds: float | None = None
    note: str = ""
    maps: str = ""
    own_reference: bool = False


class Kept:
    """The kept part of an output folder; what was computed on another `basis` is deleted, all of it if `fresh`.

    `scores` are those of earlier runs, by name; what is kept while this one judges is on disk alone.
    """

    def __init__(self, folder: Path, basis: Mapping[str, Any], maps: str, fresh: bool = False):
        self.folder, self.maps, self._kept = folder, maps, folder / FOLDER_NAME
        self.basis = json.loads(json.dumps(basis))
        found = read_json(self._kept / "basis.json")
        changed = [key for key in self.basis if found and found.get("basis", {}).get(key) != self.basis[key]]
        if changed and not fresh:
            print(f"since the last run of this folder {', '.join(changed)} changed: all photos are scored again")
        if fresh or changed or not found:
            self._clear()
        self.scores = {row.name: row for row in rows_of(self._kept / "scores.jsonl", Score)}
        self._drawn = {row["name"]: _line(row) for row in rows_of(self._kept / "drawn.jsonl", dict)}

    def facts(self) -> Facts | None:
        """What a model said on this basis before, if it did."""
        return facts_in(self._kept)

    def keep_facts(self, facts: Facts) -> None:
        """Keep them for the next run."""
        self._kept.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self._kept / "reference_pixels.npz", counted=facts.pixels.as_array())
        said = {key: value for key, value in vars(facts).items() if key != "pixels"}
        write_atomically(self._kept / "basis.json", json.dumps({"basis": self.basis, "facts": said}, indent=2))

    def lacking(self, samples: Sequence[FileSample]) -> set[str]:
        """Names of the photos to score: those without a score, changed since, without their map, or readable by now."""
        return {sample.name for sample in samples if not self._is_good(sample)}

    def _is_good(self, sample: FileSample) -> bool:
        row = self.scores.get(sample.name)
        if row is None or row.fingerprint != fingerprint(sample):
            return False
        if row.score is None:
            return not _is_read(sample)
        return self.maps == NO_MAPS or (row.maps == self.maps and below(self.folder, row.map_file).is_file())

    def forget_others(self, samples: Iterable[FileSample], stale: set[str]) -> None:
        """Drop the scores, and the files, of photos that are gone or that are to be scored again."""
        current = {sample.name for sample in samples}
        for name in [name for name in self.scores if name not in current or name in stale]:
            self._delete_files(self.scores.pop(name))
        if self.maps == NO_MAPS:
            for row in [row for row in self.scores.values() if row.map_file]:
                self._delete_files(row)
                self.scores[row.name] = replace(row, map_file="", maps=NO_MAPS)
        if (self._kept / "scores.jsonl").is_file():
            _write_lines(self._kept / "scores.jsonl", (_line(asdict(row)) for row in self.scores.values()))
            _write_lines(self._kept / "drawn.jsonl", self._drawn.values())

    def keep(self, row: Score) -> None:
        """Add the score of a photo to the file."""
        append_line(self._kept / "scores.jsonl", _line(asdict(row)))

    def drawn(self, name: str, looks: Sequence[Any]) -> dict[str, Any] | None:
        """The "files" of a photo's overlay and thumbnails, and its "regions", if it was drawn so and they are there.

        To be asked once: it is forgotten then.
        """
        line = self._drawn.pop(name, None)
        row = None if line is None else json.loads(line)
        if row is None or row["looks"] != list(looks) or "regions" not in row:
            return None
        return row if all(below(self.folder, file).is_file() for file in row["files"]) else None

    def keep_drawn(self, row: Mapping[str, Any]) -> None:
        """Say that the overlay of a photo is drawn: its "name", how it "looks", its "files" and "regions"."""
        append_line(self._kept / "drawn.jsonl", _line(row))

    def _delete_files(self, row: Score) -> None:
        """Delete the map, the overlay and the thumbnails of a photo, as far as it has any."""
        for file in [row.map_file, *json.loads(self._drawn.pop(row.name, b'{"files": []}'))["files"]]:
            if file:
                below(self.folder, file).unlink(missing_ok=True)

    def _clear(self) -> None:
        for name in (FOLDER_NAME, "maps", "overlays", "thumbs", "photos"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def facts_in(kept: Path) -> Facts | None:
    """What a model said, as the `kept` part of an output folder has it; None if it has it not."""
    try:
        counted = np.load(kept / "reference_pixels.npz")["counted"]
        return Facts(**read_json(kept / "basis.json")["facts"], pixels=ValueCounts.from_array(counted))
    except (OSError, BadZipFile, ValueError, KeyError, TypeError):
        return None


def fingerprint(sample: FileSample) -> str:
    """Changes when the photo may have changed, or is read in another way."""
    return sample.fingerprint + (f" {sample.bit_depth} bit" if sample.bit_depth else "")


def _is_read(sample: FileSample) -> bool:
    try:
        sample.load_image()
    except TrackInputError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; nothing if there is none, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def rows_of(path: Path, kind: type) -> Iterator[Any]:
    """The rows of a file, one after another; a line that a kill cut short is left out."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, TypeError):
                yield kind(**json.loads(line))


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with replaced(path) as part, part.open("wb") as file:
        file.writelines(lines)
