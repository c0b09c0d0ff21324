"""Predictions on disk: one TIFF map and one row per image. What makes a run resumable.

Layout of a run folder::

    run.json                       settings that decide the numbers; a folder of other settings is refused
    predictions/<category>.jsonl   one row per image, appended after its map is safely on disk
    predictions/<category>/<name>.tiff and .mask.png (only where there is a defect), both at the scored size
    .lock                          held by the process that works on the folder

So everything can be scored again, or exported, with neither the model nor the data set. Rows are those of the run's
last images: what is no longer among them is dropped before anything is predicted.
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile

from models.disk import append_line, write_atomically
from tracks.command.paths import below, shortened
from tracks.errors import TrackInputError

SETTINGS_FILE = "run.json"
LOCK_FILE = ".lock"
SHARDS = "shards"
"""Folder of the results that other machines hand in (tracks/run/shard.py)."""
PRECISIONS: dict[str, type[np.floating]] = {"float16": np.float16, "float32": np.float32}
"""What `map_precision` may be: how maps are stored, and so scored."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one scored image; `height` and `width` are those of its map in pixels."""

    name: str
    category: str
    label: int | None
    defect_type: str
    image_score: float
    height: int
    width: int
    map_file: str
    has_mask: bool
    fingerprint: str
    scalars: dict[str, float] = field(default_factory=dict)


class PredictionStore:
    """The predictions of one run, in one folder. Opens what `create` made.

    Raises:
        TrackInputError: the folder holds no run.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not (self.folder / SETTINGS_FILE).is_file():
            raise TrackInputError(
                f"expected a run folder with a {SETTINGS_FILE}, got {self.folder}; name the folder that a track "
                "printed at its end, for example outputs/zero_shot/latest"
            )

    @classmethod
    def create(cls, folder: Path | str, settings: Mapping[str, Any]) -> "PredictionStore":
        """Open `folder` for a run of these settings, new or begun before.

        Raises:
            TrackInputError: the folder holds another run, or files that are no run.
        """
        folder = Path(folder)
        path = folder / SETTINGS_FILE
        if path.is_file():
            refuse_other_run(folder, read_settings(path), dict(settings))
        elif folder.is_dir() and any(path.name not in (LOCK_FILE, SHARDS) for path in folder.iterdir()):
            raise TrackInputError(
                f"expected a new or an earlier run's folder, got {folder}, which holds other files; choose another "
                "folder with OUT=..."
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(settings, indent=2))
        return cls(folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the run was made with."""
        return read_settings(self.folder / SETTINGS_FILE)

    @property
    def categories(self) -> list[str]:
        """The categories of the run, in the order of its tables."""
        return list(self.settings["categories"])

    def rows(self, category: str) -> list[Row]:
        """The rows of a category; a line cut short by a kill is left out, of two for one image the later counts."""
        path = self._rows_file(category)
        if not path.is_file():
            return []
        with path.open("rb") as lines:
            rows = filter(None, map(_parse_row, lines))
            return list({row.name: row for row in rows}.values())

    def keep_only(self, category: str, images: Iterable[tuple[str, str]]) -> bool:
        """Drop every row of a category but those of `images`, (name, fingerprint), and put these into their order.

        A row of an image that changed since is dropped too. Returns whether anything was dropped.
        """
        path = self._rows_file(category)
        if not path.is_file():
            return False
        known = {(row.name, row.fingerprint): row for row in self.rows(category)}
        kept = [known.pop(image) for image in images if image in known]
        for row in known.values():
            self._map_path(row).unlink(missing_ok=True)
            self._mask_path(row).unlink(missing_ok=True)
        content = b"".join(map(_line, kept))
        if content != path.read_bytes():
            write_atomically(path, content)
        return bool(known)

    def copy_from(self, other: "PredictionStore") -> None:
        """Take over the predictions of another store that this one lacks; maps on the same disk take no further room.

        Raises:
            OSError: the other is changing just now; what was taken over until then is whole.
        """
        for category in other.categories:
            known = {(row.name, row.fingerprint) for row in self.rows(category)}
            for row in other.rows(category):
                if (row.name, row.fingerprint) in known:
                    continue
                link_or_copy(other._map_path(row), self._map_path(row))
                if row.has_mask and (row.label != 0 or other._mask_path(row).is_file()):
                    link_or_copy(other._mask_path(row), self._mask_path(row))
                self._append(row)

    @property
    def map_type(self) -> type[np.floating]:
        """The type of the stored maps: the run's `map_precision`."""
        return PRECISIONS[(self.settings.get("protocol") or {}).get("map_precision", "float16")]

    def read_map(self, row: Row) -> np.ndarray:
        """The anomaly map of a row, (height, width), of `map_type`.

        Raises:
            TrackInputError: the file is missing or does not decode.
        """
        path = self._map_path(row)
        try:
            return tifffile.imread(path)
        except Exception as error:
            raise self._damaged("an anomaly map", path, row, error) from error

    def read_mask(self, row: Row) -> np.ndarray | None:
        """The mask of a row at the size of its map, (height, width) bool; None where none is known.

        Raises:
            TrackInputError: the file is missing or does not decode.
        """
        if not row.has_mask:
            return None
        path = self._mask_path(row)
        if row.label == 0 and not path.is_file():
            return np.zeros((row.height, row.width), dtype=bool)
        try:
            return np.asarray(PIL.Image.open(path)) > 0
        except (OSError, ValueError, SyntaxError) as error:
            raise self._damaged(f"the mask of {row.name}", path, row, error) from error

    def add(self, row: Row, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Write map and mask, then append the row, so that a row always has its files.

        The mask of a normal image needs no file: the row says that it is known.
        """
        path = self._map_path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        with np.errstate(over="ignore"):  # a map beyond float16 is refused where it is scored
            tifffile.imwrite(encoded, anomaly_map.astype(self.map_type))
        write_atomically(path, encoded.getvalue())
        self._mask_path(row).unlink(missing_ok=True)
        if mask is not None and (row.label != 0 or mask.any()):
            encoded = io.BytesIO()
            PIL.Image.fromarray(mask).save(encoded, "PNG")
            write_atomically(self._mask_path(row), encoded.getvalue())
        self._append(row)

    def map_file(self, category: str, name: str) -> str:
        """Where the map of an image goes, relative to the run folder; the image's suffix stays in the name."""
        return f"predictions/{shortened(category)}/{shortened(name)}.tiff"

    def _damaged(self, what: str, path: Path, row: Row, error: Exception) -> TrackInputError:
        remedy = f"delete {self._rows_file(row.category)} and run again"
        return TrackInputError(f"expected {what} at {path}, got {error}; {remedy}")

    def _map_path(self, row: Row) -> Path:
        return below(self.folder, row.map_file)

    def _mask_path(self, row: Row) -> Path:
        return below(self.folder, row.map_file.removesuffix(".tiff") + ".mask.png")

    def _append(self, row: Row) -> None:
        append_line(self._rows_file(row.category), _line(row))

    def _rows_file(self, category: str) -> Path:
        folder = below(self.folder, "predictions", shortened(category))
        return folder.parent / f"{folder.name}.jsonl"


def link_or_copy(source: Path, target: Path) -> None:
    """A file that is replaced but never changed may share its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _line(row: Row) -> bytes:
    return json.dumps(asdict(row)).encode() + b"\n"


def _parse_row(line: bytes) -> Row | None:
    try:
        known = json.loads(line)
        known |= {key: sys.intern(known[key]) for key in ("category", "defect_type")}  # one text for all rows
        return Row(**known)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        return None


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a run.json.

    Raises:
        TrackInputError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TrackInputError(f"expected JSON in {path}, got {error}; delete the run folder and run again") from error


def refuse_other_run(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a TrackInputError that says in which settings the run in `folder` differs, if it does."""
    if different := list(_differences(found, json.loads(json.dumps(wanted)))):
        raise TrackInputError(
            f"expected the same run in the output folder {folder}, got one of other settings ({'; '.join(different)}); "
            "choose another folder with OUT=... or delete that one"
        )


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[str]:
    """The settings, those of settings too (`config.side`), that are not the same."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {**wanted, **found}:
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield f"{key} there {_short(found)}, here {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
