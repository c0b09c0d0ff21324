"""A picture of how the training went."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.disk import write_atomically

VALIDATION_CURVES = {
    "auroc_seg": "pixel AUROC",
    "ap_seg": "pixel AP",
    "f1_seg": "pixel F1-max",
    "auroc_cls": "image AUROC",
}


def draw_curves(path: Path, history: Sequence[Mapping[str, float | int | None]]) -> None:
    """Write a PNG: mean training loss by epoch, and beside it the validation metrics where there are any.

    `history` has a row per epoch with `epoch`, `loss` and any of the metrics; None leaves a gap.
    """
    validated = any(row.get(metric) is not None for row in history for metric in VALIDATION_CURVES)
    figure = Figure(figsize=(10 if validated else 5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    panels[0].plot(*_curve(history, "loss"), marker=".", color="black")
    panels[0].set(xlabel="epoch", ylabel="loss (sum over stages of focal + dice)", title="training")
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
