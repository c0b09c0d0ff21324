"""The folder of a run: named after its settings, one process's own while it works, `latest` once it is finished."""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from models.disk import alone, write_atomically
from tracks.command.paths import below, folder_name
from tracks.decide.decision import THRESHOLDS_FILE, KeptThresholds
from tracks.errors import TrackInputError
from tracks.run.fingerprint import settings_digest
from tracks.run.log_file import RUN_LOG
from tracks.run.shard import shard_folders
from tracks.run.store import LOCK_FILE, SETTINGS_FILE, SHARDS, PredictionStore, read_settings

log = logging.getLogger(__name__)
CHANGE_NO_PREDICTION = ("image_score", "false_alarm_rate")
"""Settings that change results but no stored map: a run of others takes its predictions over."""
WRITTEN_BY_A_TRACK = (
    SETTINGS_FILE, "results.json", "results.csv", "results.md", "config.yaml", "references.json", THRESHOLDS_FILE,
    "cost.json", "report.html", "predictions", "overlays", SHARDS, RUN_LOG,
)  # fmt: skip


def run_folder(out: str | None, track_folder: Path, settings: Mapping[str, Any]) -> Path:
    """OUT, or a folder named after the settings."""
    name = "{model}-{weights}-{data}-{shots}shot-seed{seed}".format(**settings)
    return Path(out) if out else below(track_folder, folder_name(f"{name}-{settings_digest(settings)}"))


@contextmanager
def alone_in(folder: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> Iterator[PredictionStore]:
    """The store of these settings in `folder`, locked while the block lasts; waits where another process has it.

    `fresh` discards what a track wrote there before, whatever its settings, and nothing else.

    Raises:
        TrackInputError: the folder holds another run, or files that are no run.
    """
    if not (fresh and _is_track_run(folder)):
        PredictionStore.create(folder, settings)  # refuses another folder before anything is written into it
    with alone(folder / LOCK_FILE, f"the run in {folder}"):
        if fresh and _is_track_run(folder):
            _discard(folder)
            write_atomically(folder / SETTINGS_FILE, json.dumps(settings, indent=2))
        yield PredictionStore.create(folder, settings)


@contextmanager
def working_in(folder: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> Iterator[PredictionStore]:
    """As `alone_in`; a new folder takes over the predictions of a run beside it that differs in no stored map.

    And any folder those of its shards.

    Raises:
        TrackInputError: as `alone_in`; a shard of other settings.
    """
    if not fresh:
        shard_folders(folder, settings)  # refuses others before anything is written
    with alone_in(folder, settings, fresh=fresh) as store:
        if not fresh and not (folder / "predictions").exists():
            _take_over(store)
        if not fresh:
            _gather(store)
        yield store


def link_latest(track_folder: Path, run_folder: Path) -> Path | None:
    """Let <outputs>/<track>/latest point to a run that is finished; returns it, None where that cannot be done.

    The link is replaced as a whole. A disk without links, or a folder of that name, is no reason to fail the run.
    """
    link, temporary = track_folder / "latest", track_folder / f".latest-{uuid.uuid4().hex}"
    inside = run_folder.resolve().parent == track_folder.resolve()
    try:
        track_folder.mkdir(parents=True, exist_ok=True)
        if link.exists() and not link.is_symlink():
            raise FileExistsError("it is no link")
        temporary.symlink_to(run_folder.name if inside else run_folder.resolve(), target_is_directory=True)
        os.replace(temporary, link)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        log.warning("%s was not moved to %s (%s); the run itself is finished", link, run_folder, error)
        return None
    return link


def _is_track_run(folder: Path) -> bool:
    """Whether a track made the folder; a training or `make predict` has a run.json of its own kind."""
    path = folder / SETTINGS_FILE
    return path.is_file() and read_settings(path).get("track") in ("zero_shot", "few_shot")


def _discard(folder: Path) -> None:
    """Delete what a track writes and nothing else; run.json last, so that a kill leaves a run to discard again."""
    for name in reversed(WRITTEN_BY_A_TRACK):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _take_over(store: PredictionStore) -> None:
    """Begin with the predictions of a run in a folder beside that decides the same ones, as far as it has come."""
    for path in sorted(store.folder.parent.glob(f"*/{SETTINGS_FILE}")):
        with suppress(TrackInputError, OSError):
            if path.parent != store.folder and _predicting(read_settings(path)) == _predicting(store.settings):
                if (kept := path.parent / THRESHOLDS_FILE).is_file():
                    shutil.copyfile(kept, store.folder / THRESHOLDS_FILE)
                store.copy_from(PredictionStore(path.parent))
                return


def _gather(store: PredictionStore) -> None:
    """Take over the predictions of the shards in the folder, and say how many those are by now."""
    folders = shard_folders(store.folder, store.settings)
    for folder in folders:
        store.copy_from(PredictionStore(folder))
        KeptThresholds(store.folder).take(folder)
    if folders:
        count = sum(len(store.rows(category)) for category in store.categories)
        print(f"{len(folders)} shards gathered: {count} images are predicted", flush=True)


def _predicting(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in CHANGE_NO_PREDICTION}
