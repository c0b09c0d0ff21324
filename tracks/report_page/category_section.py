"""The part of a report about one category: curves, scores, recall by kind of defect, worst images."""

from tqdm import tqdm

from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.report_page.curve_charts import precision_recall_chart, pro_chart, roc_chart
from tracks.report_page.html import Child, Html, element, percent, plural, significant
from tracks.report_page.photos import Photos
from tracks.report_page.pictures import Shown, Style, picture_row
from tracks.report_page.score_histogram import score_histogram
from tracks.report_page.scored_run import ScoredCategory
from tracks.report_page.tables import recall_table
from tracks.run.store import PredictionStore


def category_section(category: ScoredCategory, number: int, pro_limit: float, pictures: Child) -> Html:
    """The section with its heading; `number` is the place of the category, from 1."""
    curves = category.curves
    charts = [
        precision_recall_chart(curves),
        roc_chart(curves),
        pro_chart(curves, pro_limit),
        score_histogram(category.rows, category.threshold, category.own_threshold),
    ]
    return element(
        "section",
        element("h3", category.name, id=f"category-{number}"),
        element("p", _summary(category), class_="summary"),
        element("div", charts, class_="charts") if any(charts) else None,
        recall_table(category, number),
        pictures,
        class_="category",
    )


def picture_groups(
    category: ScoredCategory, store: PredictionStore, photos: Photos, style: Style, first: int
) -> tuple[Html, int]:
    """The worst images of a category in two columns, and how many there are; `first` numbers the first of them."""
    picks = category.picks
    groups = [
        ("miss", "Worst misses", _tally(category, 1), picks.misses),
        ("alarm", "Worst false alarms", _tally(category, 0), picks.false_alarms),
    ]
    if picks.unlabelled:
        groups = [("unlabelled", "Highest scores", "No image of this category is labelled.", picks.unlabelled)]
    columns, number = [], first
    for kind, heading, tally, chosen in groups:
        rows = []
        for pick in tqdm(chosen, desc=f"{category.name}: pictures", unit="image", leave=False):
            shown = Shown(store.read_map(pick.row), store.read_mask(pick.row), photos.find(pick.row))
            rows.append(picture_row(pick, shown, style, number, kind))
            number += 1
        columns.append(element("div", element("h4", heading), element("p", tally, class_="note"), rows))
    return element("div", columns, class_="groups"), number - first


def _tally(category: ScoredCategory, label: int) -> str:
    """How many images of a label the run's own threshold gets wrong, and how many that of F1-max does."""
    rows = [row for row in category.rows if row.label == label]
    kind = "anomalous" if label else "normal"
    if not rows:
        return f"There is no {kind} image."
    images = plural(len(rows), f"{kind} image")
    verdicts = [category.verdicts[row.name] for row in rows if row.name in category.verdicts]
    own = f"{images}; the run has no threshold of its own."
    if verdicts:
        wrong, undecided = verdicts.count(GOOD if label else DEFECT), verdicts.count(UNDECIDED)
        called = "missed" if label else "called defects"
        unsure = f", {undecided:,} undecided" if undecided else ""
        own = f"{wrong:,} of {images} {called} by the run's own threshold{unsure}."
    if category.threshold is None:
        return own
    wrong = sum((row.image_score < category.threshold) == bool(label) for row in rows)
    side = ("lies" if wrong == 1 else "lie") + " below" if label else "reaches" if wrong == 1 else "reach"
    return f"{own} {wrong:,} {side} the F1-max threshold, {significant(category.threshold)}, chosen with the labels."


def _summary(category: ScoredCategory) -> str:
    if not category.rows:
        return "The store holds no prediction of it."
    scores = category.scores
    counts = [plural(scores.num_images, "image"), f"{scores.num_anomalous:,} anomalous"]
    if scores.num_unlabelled:
        counts.append(f"{scores.num_unlabelled:,} with neither label nor mask, which no number counts")
    numbers = [
        f"{shown} {percent(scores.metrics.get(metric))} (floor {percent(scores.metrics.get(f'{metric}_floor'))})"
        for metric, shown in (("f1_cls", "F1-max of the images"), ("f1_seg", "F1-max of the pixels"))
        if scores.metrics.get(metric) is not None
    ]
    ends = f" {'; '.join(numbers)}." if numbers else ""
    return f"{', '.join(counts)}; maps of {category.map_sizes}.{ends}"
