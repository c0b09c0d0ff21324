"""The overview of methods: its figures are those of the published tables, and every model and page stands in it."""

import re
from pathlib import Path

import pytest
import yaml

from eval.published.reader import load

PAGES = Path(__file__).resolve().parents[2] / "docs/methods"
TEXT = (PAGES / "index.md").read_text(encoding="utf-8")
COLUMNS = ("AUROC-cls", "F1-max-segm", "AP-segm", "PRO-segm")
QUOTED = {"padim": "PaDiM", "spade": "SPADE", "patchcore": "PatchCore", "winclip": "WinCLIP", "clip_adapter": "Ours"}
SAA = {"utad": "UTAD", "clipseg": "ClipSeg", "saa": "SAA", "saa_plus": "SAA+"}
LATER = {
    "UniADet, DINOv2-R L": ("UniADet with DINOv2-R", "UniADet with DINOv2-R L"),
    "UniADet, DINOv3 L": ("UniADet with DINOv3", "UniADet with DINOv3 L"),
    "AnomalyVFM, RADIO": ("AnomalyVFM with RADIO",),
    "anomaly_dino": ("AnomalyDINO",),
    "subspace_ad": ("SubspaceAD",),
    "anomaly_dino_batch (transductive)": ("AnomalyDINO batched",),
    "subspace_ad_batch (transductive)": ("SubspaceAD batched",),
    "musc (transductive)": ("MuSc with CLIP L-336 at 518",),
    "musc, DINOv2 L (transductive)": ("MuSc with DINOv2-L at 518",),
}
ROWS = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if re.match(r"\| [04] \|", line)]


def published(name, shots, data):
    """The printed figures of a row of the page, by column."""
    if name in QUOTED:
        setting = f"{shots}-shot" if shots != "0" else "zero-shot"
        rows = load(f"april_gan/{3 if data == 'mvtec' else 4}").matching({"Method": QUOTED[name], "Setting": setting})
    elif name in SAA:
        cell = load("saa_extended/1").cell({"mvtec": "MVTec-AD", "visa": "VisA"}[data], Metric="F_p", Method=SAA[name])
        return {"F1-max-segm": cell}
    else:
        rows = [
            row
            for table in ("few_shot", "zero_shot", "batch")
            for row in load(f"best/{table}").rows
            if row.words["Method"] in LATER[name] and (row.words["Shots"], row.words["Data"]) == (shots, data)
        ]
    (row,) = rows
    return row.figures


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]}-{row[0]}")
def test_a_row_states_what_was_printed(row):
    shots, name, *cells, _ = row
    for column, cell in zip(COLUMNS, cells, strict=True):
        both = [published(name.replace("`", ""), shots, data).get(column) for data in ("mvtec", "visa")]
        assert cell.strip() == ("" if both == [None, None] else " / ".join(f"{value:.1f}" for value in both))


def test_every_model_and_every_page_stand_in_it():
    models = {path.stem for path in (PAGES.parents[1] / "conf/model").glob("*.yaml")}
    assert models - set(re.findall(r"`(\w+)`", TEXT)) == {"constant", "random", "ensemble"}
    pages = {path.name for path in PAGES.glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"\]\((\w+\.md)\)", TEXT))
    site = yaml.load((PAGES.parents[1] / "mkdocs.yml").read_text(), yaml.BaseLoader)  # it names a function
    (methods,) = (each["Methods"] for each in site["nav"] if "Methods" in each)
    assert {f"methods/{name}" for name in pages | {"index.md"}} == set(methods)
    assert len(ROWS) > 20
