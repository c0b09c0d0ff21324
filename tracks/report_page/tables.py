"""The tables of a report, each in a box of its own that scrolls where it is too wide."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from eval.tables import COLUMNS, count_averaged, mean_over_categories
from tracks.decide.threshold import DEFECT
from tracks.report_page.html import Child, Html, breakable, element, percent, significant
from tracks.report_page.intervals import Interval, interval, what_they_are
from tracks.report_page.scored_run import ScoredCategory, ScoredRun

LEVELS = {"cls": "images (cls)", "seg": "pixels (seg)", "region": "regions", "": "both"}
RANKED = ("cls", "seg", "region")


def boxed(caption: str, number: str, head: Child, body: Child) -> Html:
    """A table with a caption, in a box that scrolls sideways and can be reached by keyboard."""
    table = element("table", element("caption", element("span", caption), id=f"caption-{number}"), head, body)
    return element("div", table, class_="scroll", role="region", tabindex=0, aria_labelledby=f"caption-{number}")


def results_table(run: ScoredRun, results: Mapping[str, Any]) -> Html:
    """A row per category and their mean, percent, intervals below their number, blanks numbered and explained."""
    reasons = _Reasons()
    rows = [_category_row(number, category, results, reasons) for number, category in enumerate(run.categories, 1)]
    body = element("tbody", rows, _mean_row(run, results, reasons))
    caption = f"Results in percent{what_they_are(results)}"
    return element("div", boxed(caption, "results", _results_head(), body), reasons.notes(), _fewer(run))


def thresholds_table(run: ScoredRun) -> Html:
    """Per category, where F1-max is reached on images, pixels and regions, with precision and recall there."""
    columns = ("threshold", "precision", "recall")
    head = element(
        "thead",
        element("tr", head_cell("category", rowspan=2), [group_head(LEVELS[level], len(columns)) for level in RANKED]),
        element("tr", [head_cell(name) for _ in RANKED for name in columns]),
    )
    rows = [
        element("tr", name_cell(breakable(name)), [_threshold_cells(metrics, level) for level in RANKED])
        for name, metrics in run.tables.items()
    ]
    return boxed(
        "Where F1 is highest: threshold, and precision and recall in percent",
        "thresholds",
        head,
        element("tbody", rows),
    )


def recall_table(category: ScoredCategory, number: int) -> Html | None:
    """What is found of each kind of defect, and with what precision; None where no kind is known.

    At the F1-max thresholds, and of images at the run's own threshold too.
    """
    by_type = category.scores.recall_by_type
    if not by_type:
        return None
    found = [("image", "image recall"), ("pixel", "pixel recall"), ("region", "region recall")]
    columns = [(key, shown) for key, shown in found if any(kind.get(key) is not None for kind in by_type.values())]
    own = [head_cell("image recall, own threshold")] if category.verdicts else []
    head = element(
        "thead",
        element("tr", head_cell("kind of defect"), head_cell("images"), own, [head_cell(s) for _, s in columns]),
    )
    rows = [
        element(
            "tr",
            name_cell(breakable(name)),
            element("td", str(kind["images"])),
            share_cell(_found_of_kind(category, name)) if own else None,
            [share_cell(kind.get(key)) for key, _ in columns],
        )
        for name, kind in by_type.items()
    ]
    rows.append(_precision_row(category, [key for key, _ in columns], bool(own)))
    caption = f"{category.name}: recall by kind of defect at the F1-max thresholds, and the precision there, percent"
    return boxed(caption, f"recall-{number}", head, element("tbody", rows))


def _precision_row(category: ScoredCategory, columns: Sequence[str], own: bool) -> Html:
    """What share of all that is called a defect is one: images, pixels, regions of all kinds together."""
    levels = {"image": "cls", "pixel": "seg", "region": "region"}
    return element(
        "tr",
        name_cell("precision, all kinds"),
        element("td", "—"),
        share_cell(_own_precision(category)) if own else None,
        [share_cell(category.scores.metrics.get(f"precision_{levels[key]}")) for key in columns],
        class_="mean",
    )


def _found_of_kind(category: ScoredCategory, name: str) -> float | None:
    verdicts = [category.verdicts.get(row.name) for row in category.rows if row.label == 1 and row.defect_type == name]
    return verdicts.count(DEFECT) / len(verdicts) if verdicts else None


def _own_precision(category: ScoredCategory) -> float | None:
    called = [row for row in category.rows if row.label is not None and category.verdicts.get(row.name) == DEFECT]
    return sum(row.label == 1 for row in called) / len(called) if called else None


def key_table(
    caption: str, number: str, values: Mapping[str, Any], otherwise: Mapping[str, Sequence[str]] | None = None
) -> Html:
    """Keys and values, one a row; `otherwise` holds remarks to set below the value of a key."""
    rows = []
    for key, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        remarks = [element("em", remark) for remark in (otherwise or {}).get(key, ())]
        rows.append(element("tr", name_cell(breakable(key)), element("td", shown, remarks)))
    head = element("thead", element("tr", head_cell("key"), head_cell("value")), class_="unseen")
    return element("div", boxed(caption, number, head, element("tbody", rows)), class_="keys")


class _Reasons:
    """Why cells are blank, each reason numbered where it first comes up."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, reason: str) -> Html:
        number = self._numbers.setdefault(reason, len(self._numbers) + 1)
        link = element(
            "a", "—", element("sup", str(number)), href=f"#blank-{number}", aria_label=f"blank, note {number}"
        )
        return element("td", link, class_="blank", title=reason)

    def notes(self) -> list[Html]:
        if not self._numbers:
            return []
        items = [element("li", reason, id=f"blank-{number}") for reason, number in self._numbers.items()]
        return [element("p", "Blank, and left out of the mean:", class_="note"), element("ol", items, class_="note")]


def _fewer(run: ScoredRun) -> Html | None:
    """Which means are over fewer than all categories."""
    counts, total = count_averaged(run.tables), len(run.categories)
    over: dict[int, list[str]] = {}
    for metric, shown in COLUMNS.items():
        over.setdefault(counts[metric], []).append(shown)
    said = [f"{', '.join(shown)}: mean over {n} of {total} categories." for n, shown in over.items() if n < total]
    return element("p", " ".join(said), class_="note") if said else None


def _category_row(number: int, category: ScoredCategory, results: Mapping[str, Any], reasons: _Reasons) -> Html:
    scores = category.scores
    cells = []
    for metric in COLUMNS:
        value = scores.metrics.get(metric)
        if value is None:
            cells.append(reasons.mark(scores.reasons.get(metric, "not computed")))
        else:
            cells.append(_metric_cell(metric, value, interval(results, category.name, metric)))
    link = element("a", breakable(category.name), href=f"#category-{number}")
    return element("tr", name_cell(link), cells, _counts([category]))


def _mean_row(run: ScoredRun, results: Mapping[str, Any], reasons: _Reasons) -> Html:
    cells = [
        reasons.mark("no category has it")
        if value is None
        else _metric_cell(metric, value, interval(results, None, metric))
        for metric, value in mean_over_categories(run.tables).items()
    ]
    return element("tr", name_cell("mean"), cells, _counts(run.categories), class_="mean")


def _counts(categories: Sequence[ScoredCategory]) -> list[Html]:
    """How many images, and how many of them anomalous, there are in all."""
    images = sum(category.scores.num_images for category in categories)
    anomalous = sum(category.scores.num_anomalous for category in categories)
    return [element("td", f"{count:,}") for count in (images, anomalous)]


def _metric_cell(metric: str, value: float, ends: Interval | None) -> Html:
    if metric.endswith("_floor"):
        return element("td", percent(value), class_="floor")
    return share_cell(value, element("small", f"{percent(ends[0])} to {percent(ends[1])}") if ends else None)


def share_cell(value: float | None, below: Child = None) -> Html:
    """A share in percent with a bar below it."""
    bar = None if value is None else f"--share:{value:.3f}"
    return element("td", percent(value), below, style=bar, class_="share")


def _threshold_cells(metrics: Mapping[str, float | None], level: str) -> list[Html]:
    threshold = metrics.get(f"f1_{level}_threshold")
    shown = "—" if threshold is None else significant(threshold)
    return [element("td", shown), *(share_cell(metrics.get(f"{share}_{level}")) for share in ("precision", "recall"))]


def _results_head() -> Html:
    levels = [(_level(metric), shown) for metric, shown in COLUMNS.items()]
    groups = [(level, len(list(of))) for level, of in groupby(levels, key=lambda pair: pair[0])]
    return element(
        "thead",
        element(
            "tr", head_cell("category", rowspan=2), [group_head(LEVELS[level], width) for level, width in groups],
            group_head("images in all", 2),
        ),
        element("tr", [head_cell(shown.removesuffix(f" {level}")) for level, shown in levels], head_cell("number"),
                head_cell("anomalous")),
    )  # fmt: skip


def _level(metric: str) -> str:
    """What a metric ranks: "cls", "seg", "region" or "" for several."""
    return next((level for level in LEVELS if level and level in metric.split("_")), "")


def head_cell(text: str, rowspan: int | None = None) -> Html:
    """The heading of a column."""
    return element("th", text, scope="col", rowspan=rowspan)


def name_cell(shown: Child) -> Html:
    """The heading of a row."""
    return element("th", shown, scope="row")


def group_head(text: str, width: int) -> Html:
    """The heading of `width` columns."""
    return element("th", text, scope="colgroup", colspan=width, class_="group")
