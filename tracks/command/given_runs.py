"""The finished runs that a command is given by their folders."""

from collections.abc import Iterable
from pathlib import Path

from tracks.command.names import listed, missing_path
from tracks.errors import TrackInputError
from tracks.run.store import SETTINGS_FILE, PredictionStore


def run_folders(value: str | Iterable[str] | None, variable: str = "RUN") -> list[Path]:
    """The folder or folders that a setting names, none if it is empty.

    Raises:
        TrackInputError: one that is not there, or that holds no run of a track.
    """
    given = [value] if isinstance(value, str) else value or []
    return [_checked(Path(folder).expanduser(), variable) for folder in given if folder]


def open_run(value: str | Iterable[str] | None, variable: str = "RUN") -> PredictionStore:
    """The one run that a setting names.

    Raises:
        TrackInputError: as `run_folders`, and where none or several are named.
    """
    folders = run_folders(value, variable)
    if not folders:
        raise none_named(variable)
    if len(folders) > 1:
        raise TrackInputError(f"expected one run as {variable}, got {listed([str(folder) for folder in folders])}")
    return PredictionStore(folders[0])


def none_named(variable: str = "RUN") -> TrackInputError:
    """The error for a command that was given no run; for the caller to raise."""
    return TrackInputError(
        f"expected the folder of a finished run, got none; name it, for example {variable}=outputs/few_shot/latest"
    )


def _checked(folder: Path, variable: str) -> Path:
    if not folder.exists():
        raise missing_path("a run folder", folder)
    if not folder.is_dir():
        raise TrackInputError(f"expected a run folder, got the file {folder}; name the folder that it lies in")
    if not (folder / SETTINGS_FILE).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{SETTINGS_FILE}"))
        holds = (
            f"it holds the runs {listed(inside)}: name one of them" if inside else "name the one that a track printed"
        )
        raise TrackInputError(f"expected a run folder with a {SETTINGS_FILE} as {variable}, got {folder}; {holds}")
    settings = PredictionStore(folder).settings
    if not isinstance(settings, dict) or not isinstance(settings.get("categories"), list):
        raise TrackInputError(
            f"expected a run of a track as {variable}, got {folder}, whose {SETTINGS_FILE} names no categories"
            + _made_by_predict(settings)
        )
    return folder


def _made_by_predict(settings: object) -> str:
    if not isinstance(settings, dict) or settings.get("track") != "predict":
        return "; name another folder"
    return (
        ": `make predict` wrote it, whose photos have no labels and whose results stand in predictions.csv; for "
        "labelled images run `make few-shot` or `make zero-shot`"
    )
