"""What the run's own thresholds, fixed before any test image was seen, decide: false alarms and recall."""

from collections.abc import Mapping
from typing import Any

from tracks.decide.decision import grouped
from tracks.report_page.html import Child, Html, breakable, element, significant
from tracks.report_page.tables import boxed, group_head, head_cell, name_cell, share_cell

PAIRS = (("false_alarms", "normal", "false_alarm_rate"), ("found", "anomalous", "recall"))


def decision_table(decision: Mapping[str, Any]) -> Html:
    """A row per category and the counts of all pooled, then where the thresholds come from; takes `decisions`."""
    head = element(
        "thead",
        element("tr", head_cell("category", rowspan=2), head_cell("threshold", rowspan=2),
                group_head("normal images", 3), group_head("anomalous images", 3), head_cell("undecided", rowspan=2)),
        element("tr", [head_cell(text) for text in ("called", "of", "false alarms", "called", "of", "recall")]),
    )  # fmt: skip
    rows = [
        element("tr", name_cell(breakable(name)), _threshold_cell(entry), _cells(entry))
        for name, entry in decision["categories"].items()
    ]
    last = element("tr", name_cell("pooled"), element("td", "—"), _cells(decision["pooled"]), class_="mean")
    caption = "Decided by a threshold that no label of a test image went into; shares in percent"
    return element("div", boxed(caption, "decision", head, element("tbody", rows, last)), _notes(decision))


def _threshold_cell(entry: Mapping[str, Any]) -> Html:
    value = entry["threshold"]
    return element("td", "—" if value is None else significant(value))


def _cells(entry: Mapping[str, Any]) -> list[Child]:
    """Called, of how many, and the share, for normal and for anomalous images; dashes where nothing is decided."""
    cells: list[Child] = []
    for called, total, share in PAIRS:
        counts = ("—" if entry[key] is None else f"{entry[key]:,}" for key in (called, total))
        cells += [*(element("td", count) for count in counts), share_cell(entry[share])]
    return [*cells, element("td", "—" if entry["undecided"] is None else f"{entry['undecided']:,}")]


def _notes(decision: Mapping[str, Any]) -> list[Html]:
    """The target, the rule behind each threshold, and why some category has none."""
    categories, target = decision["categories"], decision["target_rate"]
    said = [] if target is None else [f"Target: at most {target:.1%} false alarms."]
    for source, members in grouped(categories, "source").items():
        said.append(f"Threshold of {_named(members, categories)}: {source}.")
    for reason, members in grouped(categories, "none_because").items():
        said.append(f"No threshold for {_named(members, categories)}: {reason}.")
    said += [f"{name}: {remark}." for name, entry in categories.items() for remark in entry.get("remarks", ())]
    return [element("p", sentence, class_="note") for sentence in said]


def _named(members: list[str], categories: Mapping[str, Any]) -> str:
    return "all categories" if len(members) == len(categories) > 1 else ", ".join(members)
