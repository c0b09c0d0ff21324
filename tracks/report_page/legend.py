"""What charts and maps have in common, explained once: line kinds, colours, the shared scale; and the style sheet."""

from pathlib import Path

import numpy as np

from tracks.report_page.html import Html, element, significant
from tracks.report_page.pictures import colours
from tracks.run.overlay import HeatScale

STYLE_SHEET = Path(__file__).with_name("style.css")
STOPS = 16


def style_sheet() -> Html:
    """The CSS of the page, the colours of the maps included.

    It is our own file and holds neither `<` nor `&`, so it stands in the page as it is.
    """
    table = colours()
    stops = ",".join(f"#{bytes(table[place]).hex()}" for place in np.linspace(0, 255, STOPS).round().astype(int))
    return Html(f"{STYLE_SHEET.read_text(encoding='utf-8')}.scale{{background:linear-gradient(to right,{stops})}}")


def curve_legend() -> Html:
    """Which line and which mark is what, in every chart."""
    items = [
        ("swatch images", "images, round mark"),
        ("swatch pixels", "pixels, square mark"),
        ("swatch dotted", "chance: scores that tell nothing"),
    ]
    return element(
        "div",
        element("h3", "The curves"),
        element("ul", [element("li", element("span", class_=class_), text) for class_, text in items], class_="key"),
        element(
            "p",
            "The mark on each line is where F1 is highest. Lines are thinned for drawing: no threshold left out lies "
            "further than a fifth of a pixel from the line. All metrics use every threshold.",
            class_="note",
        ),
    )


def map_legend(scale: HeatScale) -> Html:
    """The colour scale with its three values, and the outlines."""
    low, quiet, high = (significant(value) for value in (scale.low, scale.quiet, scale.high))
    span = scale.high - scale.low
    place = 100 * (scale.quiet - scale.low) / span if span > 0 else 0.0
    tick = element("span", class_="tick", style=f"left:{place:.1f}%")
    middle = element("span", quiet, style=f"left:{place:.1f}%") if 12 <= place <= 85 else None
    items = [("swatch defect", "outline of the marked defect"), ("swatch called", "at or above the pixel threshold")]
    return element(
        "div",
        element("h3", "The pictures"),
        element("div", tick, class_="scale", role="img", aria_label=f"Colour scale of all maps, {low} to {high}"),
        element("div", element("span", low), middle, element("span", high), class_="ends"),
        element("ul", [element("li", element("span", class_=class_), text) for class_, text in items], class_="key"),
        element(
            "p",
            f"Photo, outlines, anomaly map. All maps of all categories share one scale: {low}, below which half of all "
            f"pixels lie, is darkest and {high} lightest; 99.9 % of the pixels of normal images lie below the tick at "
            f"{quiet}. Brighter is more anomalous. Pixel thresholds are those of F1-max, one for each category.",
            class_="note",
        ),
    )  # fmt: skip
