"""What a training says of itself: settings, its folder's name, the header of its adapters, the log and its picture."""

import csv
import io
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig

from models.clip_adapter.adapter import AdapterHeader
from models.disk import write_atomically
from models.vector_adapter.checkpoint import made_for
from tracks.command.paths import folder_name
from tracks.decide.threshold import FEW_FALSE_ALARMS
from tracks.run.fingerprint import settings_digest
from train.adapters.config import TrainOptions
from train.adapters.heads import Head
from train.adapters.source import Course

CHANGE_NO_WEIGHT = ("epochs", "workers", "checkpoint_every", "max_cache_gb", "cache_dir", "keep_cache")
"""Options that may differ when a training is continued."""
VALIDATION_CURVES = {
    "auroc_seg": "pixel AUROC",
    "ap_seg": "pixel AP",
    "f1_seg": "pixel F1-max",
    "auroc_cls": "image AUROC",
}


def describe(head: Head, course: Course, options: TrainOptions) -> dict[str, Any]:
    """The settings that decide the weights, as they stand in run.json."""
    backbone, encoder = head.backbone, made_for(head.backbone)
    samples = [*course.samples, *course.validation_samples]
    chosen = {key: value for key, value in asdict(options).items() if key not in CHANGE_NO_WEIGHT}
    return {
        "trained_on": course.trained_on,
        "learnt": course.learnt,
        "held_out": course.held_out,
        "images": settings_digest({"images": [[one.category, one.name, one.fingerprint] for one in samples]}),
        "backbone": backbone.name,
        "backbone_weights": backbone.weights,
        "backbone_fingerprint": encoder["backbone_fingerprint"],
        "stages": list(backbone.stages),
        "image_size": backbone.image_size,
        "activation": encoder["activation"],
        "precision": getattr(backbone, "precision", "float32"),
        **head.settings,
        **chosen,
        "target": course.target,
    }


def run_folder(cfg: DictConfig, settings: dict[str, Any]) -> Path:
    """OUT, or a folder named after the settings."""
    if cfg.out:
        return Path(cfg.out)
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    weights = choices.get("weights", settings["backbone"])
    name = f"{weights}-{settings['trained_on']}-for-{settings['target']}-seed{settings['seed']}"
    return Path(cfg.outputs) / "train" / folder_name(f"{name}-{settings_digest(settings)}")


def adapter_header(
    head: Head, course: Course, options: TrainOptions, epochs: tuple[int, int], threshold: float | None
) -> AdapterHeader:
    """The header of the adapters of one epoch; `epochs` is that epoch and the number trained so far."""
    held_out = ", ".join(course.held_out)
    source = (
        f"highest recall less at most {FEW_FALSE_ALARMS:.0%} false alarms (Youden's J), {head.scores} of {held_out} in "
        f"{course.trained_on}, "
        "each image looked at whole"
    )
    notes = (
        f"for {course.target}; learnt from {', '.join(course.learnt)}; held out {held_out or 'nothing'}; "
        f"{options.select} epoch, {epochs[0]} of {epochs[1]}; batch {options.batch_size}, "
        f"learning rate {options.learning_rate:g}, mosaic {options.aug_rate:g}, "
        f"dice on normal images {'counted' if options.dice_on_normal else 'left out'}, seed {options.seed}"
    )
    return AdapterHeader(
        **made_for(head.backbone),
        image_size=head.backbone.image_size,
        trained_on=(course.trained_on,),
        commit=current_commit(),
        image_threshold=threshold,
        threshold_source="" if threshold is None else source,
        notes=notes,
    )


def current_commit() -> str:
    """The commit of this source tree, or "unknown"."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """The history as CSV, one line per epoch; an empty cell where there is no number."""
    if not history:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode())


def draw_curves(path: Path, history: Sequence[Mapping[str, float | int | None]]) -> None:
    """Write a PNG: mean training loss by epoch, and beside it the validation metrics where there are any.

    `history` has a row per epoch with `epoch`, `loss` and any of the metrics; None leaves a gap.
    """
    validated = any(row.get(metric) is not None for row in history for metric in VALIDATION_CURVES)
    figure = Figure(figsize=(10 if validated else 5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    panels[0].plot(*_curve(history, "loss"), marker=".", color="black")
    panels[0].set(xlabel="epoch", ylabel="loss", title="training")
    if validated:
        for metric, label in VALIDATION_CURVES.items():
            panels[1].plot(*_curve(history, metric), marker=".", label=label)
        panels[1].set(xlabel="epoch", ylim=(0, 1), title="validation categories")
        panels[1].legend()
    for panel in panels:
        panel.xaxis.get_major_locator().set_params(integer=True)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    write_atomically(path, content.getvalue())


def _curve(history: Sequence[Mapping[str, float | int | None]], key: str) -> tuple[list[int], list[float]]:
    values = [(row["epoch"], row.get(key)) for row in history]
    nan = float("nan")
    return [int(epoch or 0) for epoch, _ in values], [nan if value is None else float(value) for _, value in values]
