"""The one direction of imports, held by reading the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"models", "eval", "tracks", "train"}
MAY_IMPORT = {
    "models": {"models"},
    "eval": {"eval"},
    "tracks": {"tracks", "models", "eval"},
    "train": {"train", "tracks", "models", "eval"},
}
RUNNABLE_WITH_HYDRA = {
    "tracks/command/cli.py", "tracks/command/settings.py", "tracks/command/text_settings.py",
    "tracks/command/config.py", "tracks/run/build.py", "tracks/run/track.py",
    "tracks/predict.py", "tracks/fit.py", "tracks/decide/product.py", "tracks/decide/settings.py",
    "tracks/score.py", "tracks/report.py", "tracks/compare_runs.py", "tracks/submit.py",
    "tracks/sweep.py", "tracks/zero_shot.py", "tracks/few_shot.py", "tracks/doctor.py", "tracks/data.py",
    "tracks/reproduce.py", "tracks/compare.py", "tracks/api.py", "train/adapter.py", "train/tiny.py",
    "train/card.py", "train/adapters/config.py", "train/adapters/record.py", "tracks/new_model.py", "tracks/demo.py",
    "tracks/export.py",
}  # fmt: skip


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(path):
    """Top-level names of the packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_go_one_way(package):
    files = modules(package)
    assert files
    for path in files:
        wrong = (set(imported(path)) & OURS) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_runnable_modules_touch_hydra():
    touching = {
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in modules(package)
        if {"hydra", "omegaconf"} & set(imported(path))
    }
    assert touching <= RUNNABLE_WITH_HYDRA, touching - RUNNABLE_WITH_HYDRA


def test_no_file_is_called_utils():
    assert not [path for package in OURS for path in modules(package) if "util" in path.stem]
