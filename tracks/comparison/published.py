"""What the papers print for the models that `make compare` runs, taken from eval/published: which row is which model.

A figure is a mean over a whole data set. For part of it there are figures only where the paper has them by category.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from eval.published.reader import PublishedTable, load
from tracks.comparison.cells import setting_of

APRIL_GAN = {"WinCLIP": "winclip", "Ours": "clip_adapter", "SPADE": "spade", "PaDiM": "padim", "PatchCore": "patchcore"}
SAA_PAPER = {"ClipSeg": "clipseg", "UTAD": "utad", "SAA": "saa", "SAA+": "saa_plus"}
SEVEN = {
    "AUROC-cls": "auroc_cls", "F1-max-cls": "f1_cls", "AP-cls": "ap_cls", "AUROC-segm": "auroc_seg",
    "F1-max-segm": "f1_seg", "AP-segm": "ap_seg", "PRO-segm": "pro_seg",
}  # fmt: skip
BY_SETTING = {"mvtec": "april_gan/3", "visa": "april_gan/4"}
BY_CATEGORY = {
    "mvtec": {0: "april_gan/5", 1: "april_gan/6", 2: "april_gan/7", 4: "april_gan/8"},
    "visa": {0: "april_gan/9", 1: "april_gan/10", 2: "april_gan/11", 4: "april_gan/12"},
}
RERUNS = {"mvtec": "reruns/saa_plus_mvtec", "visa": "reruns/saa_plus_visa"}
SAA_COLUMNS = {"mvtec": "MVTec-AD", "visa": "VisA", "ksdd2": "KSDD2", "mtd": "MTD"}
SAA_METRICS = {"F_p": "f1_seg", "F_r": "f1_region"}


@dataclass(frozen=True)
class Published:
    """Figures of one method in one setting: percent by metric id, deviations where printed, and which table says so."""

    model: str
    shots: int
    table: str
    figures: dict[str, float]
    deviations: dict[str, float] = field(default_factory=dict)
    note: str = ""


def published(data: str, categories: Sequence[str], models: Sequence[str], shots: Sequence[int]) -> list[Published]:
    """All figures of these models on these categories of a data set, by model and shots."""
    known = _all_categories(data)
    whole = known is None or set(known) == set(categories)
    found = _of_whole(data) if whole else _of_part(data, categories)
    return [each for each in found if each.model in models and each.shots in shots and each.figures]


def source_of(table: PublishedTable) -> str:
    """Where a table stands, in words."""
    where = f"arXiv {table.source.arxiv}" if table.source.arxiv else table.source.title
    number = f", Table {table.number}" if table.number else ""
    return f"{table.name} ({where}{number}): {table.caption}; {table.metrics}"


def _all_categories(data: str) -> list[str] | None:
    """The categories behind a published mean; None for sets of one category, and for sets without figures."""
    if data not in BY_CATEGORY:
        return None
    return [row.words["Object"] for row in load(BY_CATEGORY[data][0]).rows if row.words["Object"] != "Mean"]


def _of_whole(data: str) -> list[Published]:
    found = []
    if data in BY_SETTING:
        table = load(BY_SETTING[data])
        for row in table.rows:
            model, setting = APRIL_GAN.get(row.words["Method"]), row.words["Setting"]
            shots = next(number for number in (0, 1, 2, 4) if setting_of(number) == setting)
            if model:
                figures = {SEVEN[name]: value for name, value in row.figures.items() if value is not None}
                stds = {SEVEN[name]: value for name, value in row.deviations.items() if value is not None}
                found.append(Published(model, shots, table.name, figures, stds))
    if data in SAA_COLUMNS:
        found += _of_saa(SAA_COLUMNS[data])
    return found


def _of_saa(column: str) -> list[Published]:
    table = load("saa_extended/1")
    by_model: dict[str, dict[str, float]] = {}
    for row in table.rows:
        model, value = SAA_PAPER.get(row.words["Method"]), row.figures[column]
        if model and value is not None:
            by_model.setdefault(model, {})[SAA_METRICS[row.words["Metric"]]] = value
    note = "the paper's region F1 may count several regions for one"
    return [Published(model, 0, table.name, figures, note=note) for model, figures in by_model.items()]


def _of_part(data: str, categories: Sequence[str]) -> list[Published]:
    """Means over these categories of what is printed by category; nothing where one of them is not."""
    found = []
    for shots, name in BY_CATEGORY.get(data, {}).items():
        if figures := _mean(name, "Object", categories, SEVEN):
            found.append(Published("clip_adapter", shots, name, figures, note=_part_note(categories)))
    if data in RERUNS and (figures := _mean(RERUNS[data], "Category", categories, {"F_p": "f1_seg"})):
        found.append(Published("saa_plus", 0, RERUNS[data], figures, note=_part_note(categories)))
    return found


def _part_note(categories: Sequence[str]) -> str:
    return f"mean over {len(categories)} of its categories" if len(categories) > 1 else f"its category {categories[0]}"


def _mean(table: str, word: str, categories: Sequence[str], columns: dict[str, str]) -> dict[str, float]:
    rows = {row.words[word]: row for row in load(table).rows}
    if not set(categories) <= set(rows):
        return {}
    means = {}
    for column, metric in columns.items():
        values = [value for name in categories if (value := rows[name].figures[column]) is not None]
        if len(values) == len(categories):
            means[metric] = sum(values) / len(values)
    return means
