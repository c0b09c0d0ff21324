"""What can be wrong with the machine: weights, torch and its GPU, folders that cannot be written, no room."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from models.errors import ModelInputError
from models.weights.cache import cache_folder, offline_by
from models.weights.catalogue import WeightFile, catalogue, copy_elsewhere, how_to_fetch, verify
from tracks.checkup.data import Row
from tracks.command.names import unknown

LEAST_ROOM = 5e9
"""Bytes below which free room on the disk of the outputs is worth a note."""


def check_weights(wanted: Sequence[str]) -> list[Row]:
    """Whether weight files are as recorded: those that ship, those fetched, those wanted by name or group."""
    entries = catalogue()
    groups = sorted({group for entry in entries.values() for group in entry.groups})
    for name in wanted:
        if name not in entries and name not in groups:
            raise unknown("weight files", name, [*groups, *entries])
    damaged, missing, here, absent = [], [], 0, 0
    for entry in entries.values():
        needed = bool(entry.file) or entry.name in wanted or bool(set(entry.groups) & set(wanted))
        try:
            is_here = _is_here(entry)
        except ModelInputError as error:
            damaged.append(f"{entry.name}: {error}")
            continue
        here += is_here
        if not is_here:
            missing += [entry.name] if needed else []
            absent += not needed
    rows = [
        Row("weights damaged", "problem" if damaged else "ok", "; ".join(damaged) or f"{here} here, all as recorded")
    ]
    if missing:
        command = how_to_fetch([entries[name] for name in missing])
        rows.append(Row("weights missing", "problem", f"{', '.join(missing)}; {command}"))
    if absent:
        rows.append(Row("weights not fetched", "note", f"{absent} files; make weights lists them"))
    return rows


def _is_here(entry: WeightFile) -> bool:
    if entry.path.is_file():
        verify(entry, entry.path)
        return True
    return copy_elsewhere(entry) is not None


def check_torch() -> Row:
    """Whether torch computes, and on what."""
    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        try:
            names = [_try_device(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            return Row("torch", "problem", f"{version}: a GPU is there but does not compute ({reason}); use DEVICE=cpu")
        return Row("torch", "ok", f"{version}, {'; '.join(names)}")
    if any(Path("/dev").glob("nvidia[0-9]*")):
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        return Row("torch", "problem", f"{version}: a GPU is there but cannot be used; torch is built for {built}: "
                   "install a driver that fits, or use DEVICE=cpu")  # fmt: skip
    return Row("torch", "note", f"{version}, no GPU: it runs on the CPU, slowly with the published weights")


def _try_device(device: torch.device) -> str:
    """The device's name and free memory, after a small product on it."""
    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones).sum()) != 64.0**3:
        raise RuntimeError("a product of ones came out wrong")
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def check_folders(outputs: Path) -> list[Row]:
    """Whether the folders of outputs and of fetched files can be written, and whether there is room."""
    rows = [_writable("outputs", outputs), _writable("cache", cache_folder())]
    free = shutil.disk_usage(_existing(outputs)).free
    rows.append(Row("room for outputs", "note" if free < LEAST_ROOM else "ok", f"{free / 1e9:.1f} GB free"))
    if variable := offline_by():
        rows.append(Row("downloads", "note", f"forbidden by {variable}"))
    return rows


def _writable(name: str, folder: Path) -> Row:
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        return Row(f"{name} writable", "problem", f"{folder}: {error.strerror}; choose another folder")
    return Row(f"{name} writable", "ok", str(folder))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
