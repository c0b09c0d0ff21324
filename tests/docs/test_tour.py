"""The notebook runs from top to bottom, and is kept without outputs."""

import json
from pathlib import Path

import matplotlib as mpl

NOTEBOOK = json.loads((Path(__file__).resolve().parents[2] / "docs/tour.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_its_cells_run_in_order_and_find_most_defects():
    mpl.use("Agg")
    known: dict = {"__name__": "__main__"}
    for cell in CODE:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), known)
    scores = {True: [], False: []}
    for sample, scored in zip(known["samples"], known["few_shot"], strict=True):
        scores[sample.label == 1].append(scored.score)
    assert sorted(scores[True])[1] > known["threshold"].value > max(scores[False])  # one of three stays unseen
    assert known["threshold"].false_alarm_rate is not None
    known["plt"].close("all")


def test_it_is_kept_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
