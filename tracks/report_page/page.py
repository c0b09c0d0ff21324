"""The page, from the top: what was run, headline numbers, tables, categories, protocol, cost. No script, no network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.tables import mean_over_categories, track_score
from tracks.decide.decision import decisions
from tracks.errors import TrackInputError
from tracks.report_page.category_section import category_section, picture_groups
from tracks.report_page.choice import Choice
from tracks.report_page.cost import cost_facts
from tracks.report_page.decision_table import decision_table
from tracks.report_page.html import Child, Html, element, percent, plural
from tracks.report_page.intervals import interval
from tracks.report_page.legend import curve_legend, map_legend, style_sheet
from tracks.report_page.photos import Photos
from tracks.report_page.pictures import Style
from tracks.report_page.record import RunRecord, read_record, unlike
from tracks.report_page.scored_run import ScoredRun, gather
from tracks.report_page.tables import key_table, results_table, thresholds_table
from tracks.run.store import PredictionStore

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HEADLINES = (
    ("score", "track score", "mean over categories of the harmonic mean of both F1-max"),
    ("auroc_cls", "AUROC of images", "chance is 50"),
    ("f1_cls", "F1-max of images", ""),
    ("auroc_seg", "AUROC of pixels", "chance is 50"),
    ("f1_seg", "F1-max of pixels", ""),
    ("pro_seg", "PRO", "every defect region counts the same"),
)


@dataclass(frozen=True)
class PageOptions:
    """What to show: how many images of each category, the longest side of their pictures in pixels; and how many
    processes share the scoring.
    """

    choice: Choice
    picture_side: int = 300
    processes: int = 1

    def __post_init__(self) -> None:
        for key, value, least in (("picture_side", self.picture_side, 16), ("workers", self.processes, 1)):
            if not isinstance(value, int) or value < least:
                raise TrackInputError(f"expected {key} as a whole number from {least} on, got {value}")


def render_page(store: PredictionStore, photos: Photos, options: PageOptions) -> str:
    """The whole page of a run folder as HTML (and well-formed XML).

    Raises:
        TrackInputError: the folder holds no run of a track, or a file of it does not decode.
    """
    record = read_record(store)
    run = gather(store, options.choice, record.image_score, options.processes)
    categories = _categories(store, run, photos, options.picture_side)
    body = [
        _header(record, run),
        element("main", _notices(record, run, photos), _headlines(record, run), _results(store, record, run),
                categories, _protocol(record, run), _cost(record), _run(record)),
        element("footer", "Made by vandkit from the run's prediction store. The page needs no network and no script."),
    ]  # fmt: skip
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{record.title}, seed {record['seed']}"),
        element("style", style_sheet()),
    ]
    return "<!DOCTYPE html>\n" + element("html", element("head", head), element("body", body), lang="en") + "\n"


def write_page(path: Path, page: str) -> int:
    """Write the page where it is to stand; returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(page.encode(errors="backslashreplace"))


def _header(record: RunRecord, run: ScoredRun) -> Html:
    images = sum(category.scores.num_images for category in run.categories)
    facts: Mapping[str, Child] = {
        "track": str(record["track"]),
        "model": str(record["model"]),
        "weights": str(record["weights"]),
        "data": str(record["data"]),
        "shots": str(record["shots"]),
        "seed": str(record["seed"]),
        "scored": f"{plural(images, 'image')}, {plural(len(run.categories), 'category')}",
    }
    pairs = [element("div", element("dt", key), element("dd", value)) for key, value in facts.items()]
    links = [("results", "Results"), ("categories", "Categories"), ("protocol", "Protocol"), ("cost", "Cost")]
    return element(
        "header",
        element("p", "Anomaly detection report", class_="eyebrow"),
        element("h1", record.title),
        element("dl", pairs, class_="facts"),
        element("nav", [element("a", text, href=f"#{id_}") for id_, text in links], aria_label="Sections"),
    )


def _notices(record: RunRecord, run: ScoredRun, photos: Photos) -> Html | None:
    """What must not be overlooked; None if there is nothing of the kind."""
    items = [*record.cautions, *photos.remarks]
    if record.results and (found := unlike(record.results, run.tables)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        items.append(
            f"Scored anew from the store, this page does not agree with results.json: {'; '.join(found[:3])}{more}."
        )
    if not items:
        return None
    return element("aside", element("h2", "Read this first"), element("ul", [element("li", i) for i in items]))


def _headlines(record: RunRecord, run: ScoredRun) -> Html:
    """The means over categories in large type, floors and intervals below them."""
    means = {**mean_over_categories(run.tables), "score": track_score(run.tables)}
    cards = []
    for metric, name, remark in HEADLINES:
        floor = means.get(f"{metric}_floor")
        ends = interval(record.results, None, metric)
        below = [
            f"interval {percent(ends[0])} to {percent(ends[1])}" if ends else "",
            f"floor {percent(floor)}" if floor is not None else "",
            remark,
        ]
        text = "; ".join(part for part in below if part)
        cards.append(
            element("div", element("dt", name), element("dd", percent(means.get(metric)), element("small", text)))
        )
    return element("dl", cards, class_="headlines", aria_label="Means over categories, percent")


def _results(store: PredictionStore, record: RunRecord, run: ScoredRun) -> Html:
    explained = (
        "F1-max is the best F1 over all thresholds, chosen with the labels of the test images. It cannot fall below "
        "its floor, the F1 of calling everything anomalous. The mean is the plain mean over categories."
    )
    return element(
        "section",
        element("h2", "Results", id="results"),
        results_table(run, record.results),
        element("p", explained, class_="note"),
        thresholds_table(run),
        decision_table(decisions(store)),
    )


def _categories(store: PredictionStore, run: ScoredRun, photos: Photos, side: int) -> Html:
    """Every category in the order of the tables, after what their charts and pictures have in common."""
    sections, pictures = [], 0
    for number, category in enumerate(run.categories, start=1):
        style = Style(run.scale, category.scores.metrics.get("f1_seg_threshold"), side)
        groups, count = picture_groups(category, store, photos, style, pictures + 1)
        pictures += count
        sections.append(category_section(category, number, run.pro_limit, groups))
    legends = element("div", curve_legend(), map_legend(run.scale), class_="legends")
    return element("section", element("h2", "Categories", id="categories"), legends, sections)


def _protocol(record: RunRecord, run: ScoredRun) -> Html:
    sizes = {category.name: category.map_sizes for category in run.categories}
    one_size = len({(row.height, row.width) for category in run.categories for row in category.rows}) <= 1
    listed = "; ".join(f"{name}: {size or 'none'}" for name, size in sizes.items())
    text = (
        f"All maps are of one size, {next(iter(sizes.values()), '')}."
        if one_size
        else f"Maps differ in size. {listed}."
    )
    return element(
        "section",
        element("h2", "Protocol", id="protocol"),
        element("p", "Numbers are comparable only where all of this is the same. ", text),
        key_table("The label that every number here carries", "protocol", record.protocol, record.otherwise),
    )


def _cost(record: RunRecord) -> Html:
    table = key_table("What the run cost", "cost", cost_facts(record.results))
    return element("section", element("h2", "Cost", id="cost"), table)


def _run(record: RunRecord) -> Html:
    """Everything else that run.json says, folded away."""
    shown = {"folder": record.folder} | {
        key: value for key, value in record.settings.items() if key not in ("protocol", "categories")
    }
    table = key_table("What run.json says", "run", shown)
    return element("section", element("details", element("summary", "All settings of the run"), table))
