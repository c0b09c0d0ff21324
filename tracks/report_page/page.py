"""The page of a run, from its store: what page.html is filled with. No script, no network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from tqdm import tqdm

from eval.tables import mean_over_categories, track_score
from tracks.decide.decision import decisions
from tracks.errors import TrackInputError
from tracks.report_page import tables
from tracks.report_page.charts import category_charts
from tracks.report_page.choice import Choice
from tracks.report_page.drawing import HEIGHT, WIDTH
from tracks.report_page.html import FOLDER, percent, plural, templates
from tracks.report_page.pictures import Photos, Picture, Style, colours, read_picture
from tracks.report_page.record import RunRecord, read_record, unlike
from tracks.report_page.scored_run import ScoredCategory, ScoredRun, gather
from tracks.run.store import PredictionStore

COLOUR_STOPS = 16
FACTS = ("track", "model", "weights", "data", "shots", "seed")
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
    sections = list(_sections(store, run, photos, options.picture_side))
    images = sum(category.scores.num_images for category in run.categories)
    span = run.scale.high - run.scale.low
    settings = {key: value for key, value in record.settings.items() if key not in ("protocol", "categories")}
    return (
        templates()
        .get_template("page.html")
        .render(
            vars(tables),
            record=record,
            run=run,
            style_sheet=_style_sheet(),
            facts={key: str(record[key]) for key in FACTS}
            | {"scored": f"{plural(images, 'image')}, {plural(len(run.categories), 'category')}"},
            notices=_notices(record, run, photos),
            headlines=_headlines(record, run),
            decision=decisions(store),
            tick=100 * (run.scale.quiet - run.scale.low) / span if span > 0 else 0.0,
            sections=sections,
            map_sizes=_map_sizes(run),
            settings={"folder": record.folder, **settings},
        )
    )


def write_page(path: Path, page: str) -> int:
    """Write the page where it is to stand; returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(page.encode(errors="backslashreplace"))


def _sections(store: PredictionStore, run: ScoredRun, photos: Photos, side: int) -> Iterator[Markup]:
    """Every category in the order of the tables."""
    template = templates().get_template("category.html")
    for number, category in enumerate(run.categories, start=1):
        style = Style(run.scale, category.scores.metrics.get("f1_seg_threshold"), side)
        thresholds = category.threshold, category.own_threshold
        charts = category_charts(category.curves, category.rows, run.pro_limit, thresholds, f"chart-{number}")
        groups = _picture_groups(category, store, photos, style)
        yield Markup(
            template.render(
                vars(tables), category=category, number=number, charts=charts, chart_size=(WIDTH, HEIGHT), groups=groups
            )
        )


def _picture_groups(
    category: ScoredCategory, store: PredictionStore, photos: Photos, style: Style
) -> list[tuple[str, str, list[Picture]]]:
    """The images to show of a category: a heading, a sentence and the pictures of each group."""
    picks = category.picks
    groups = [
        ("Worst misses", tables.tally(category, 1), picks.misses),
        ("Worst false alarms", tables.tally(category, 0), picks.false_alarms),
        ("Clearest finds", "The anomalous images with the highest scores.", picks.hits),
    ]
    if picks.unlabelled:
        groups = [("Highest scores", "No image of this category is labelled.", picks.unlabelled)]
    drawn = []
    for heading, said, chosen in groups if picks.hits or picks.unlabelled else groups[:2]:
        bar = tqdm(chosen, desc=f"{category.name}: pictures", unit="image", leave=False)
        drawn.append((heading, said, [read_picture(pick, store, photos, style) for pick in bar]))
    return drawn


def _notices(record: RunRecord, run: ScoredRun, photos: Photos) -> list[str]:
    """What must not be overlooked."""
    items = [*record.cautions, *photos.remarks]
    if record.results and (found := unlike(record.results, run.tables)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        items.append(
            f"Scored anew from the store, this page does not agree with results.json: {'; '.join(found[:3])}{more}."
        )
    return items


def _headlines(record: RunRecord, run: ScoredRun) -> list[tuple[str, float | None, str]]:
    """The means over categories, with floors and intervals in the words below them."""
    means = {**mean_over_categories(run.tables), "score": track_score(run.tables)}
    cards = []
    for metric, name, remark in HEADLINES:
        floor, ends = means.get(f"{metric}_floor"), record.interval(metric)
        below = [
            f"interval {percent(ends[0])} to {percent(ends[1])}" if ends else "",
            f"floor {percent(floor)}" if floor is not None else "",
            remark,
        ]
        cards.append((name, means.get(metric), "; ".join(part for part in below if part)))
    return cards


def _map_sizes(run: ScoredRun) -> str:
    sizes = {category.name: category.map_sizes for category in run.categories}
    if len({(row.height, row.width) for category in run.categories for row in category.rows}) <= 1:
        return f"All maps are of one size, {next(iter(sizes.values()), '')}."
    listed = "; ".join(f"{name}: {size or 'none'}" for name, size in sizes.items())
    return f"Maps differ in size. {listed}."


def _style_sheet() -> Markup:
    """The CSS of the page, the colours of the maps included.

    It is our own file and holds neither `<` nor `&`, so it stands in the page as it is.
    """
    stops = colours()[np.linspace(0, 255, COLOUR_STOPS).round().astype(int)]
    scale = ",".join(f"#{bytes(stop).hex()}" for stop in stops)
    return Markup(f"{(FOLDER / 'style.css').read_text('utf-8')}.scale{{background:linear-gradient(to right,{scale})}}")
