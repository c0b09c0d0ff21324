"""How a chart is drawn: axes by matplotlib, and their SVG made to stand in a page that is light or dark."""

import io
import re
from typing import Any, cast
from xml.etree import ElementTree

import cv2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

WIDTH, HEIGHT = 280, 222
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 10, 38
"""The frame of the axes within a chart, in the chart's own pixels."""
COLOURS = {
    "images": "#0b63b5", "pixels": "#9a3fa0", "normal": "#2f7d6b", "anomalous": "#c2410c", "unlabelled": "#6b7280",
    "ink": "#1b2430", "soft": "#566172", "rule": "#dde2e9", "paper": "#fffffe",
}  # fmt: skip
"""matplotlib draws in these; the page has the style sheet's variables of the same names instead, for light and dark."""
FONT_PX = 10.5
TOLERANCE = 0.2
"""How far, in the chart's own pixels, a thinned line may pass from a point that was left out."""
CHANCE: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (1.5, 3)), "clip_on": False}
"""How a dotted line for chance is drawn."""


def new_axes(x_name: str, y_name: str, right: float = 1.0) -> Axes:
    """Empty axes from 0 to `right` and from 0 to 1, ticks in percent."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), facecolor="none")
    frame = (LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT)
    axes = figure.add_axes(frame, facecolor="none", axisbelow=True, xlim=(0, right), ylim=(0, 1))
    axes.spines[:].set_visible(False)
    axes.grid(color=COLOURS["rule"], linewidth=1, clip_on=False)
    axes.tick_params(left=False, bottom=False, labelcolor=COLOURS["soft"], labelsize=FONT_PX, pad=4)
    for axis, name, end in ((axes.xaxis, x_name, right), (axes.yaxis, y_name, 1.0)):
        axis.set_major_locator(FixedLocator([end * step / 4 for step in range(5)]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}"))
        axis.set_label_text(name, color=COLOURS["ink"], fontsize=FONT_PX)
    axes.xaxis.set_label_coords(0.5, -0.145)
    axes.yaxis.set_label_coords(-0.125, 0.5)
    return axes


def draw_curve(axes: Axes, points: np.ndarray, level: str, best: tuple[float, float] | None) -> np.ndarray:
    """The line through the points (N, 2), and where F1 is highest a round mark (images) or a square one (pixels).

    Returns the points that are drawn, as many as keep the line within TOLERANCE of all (Ramer, Douglas and Peucker).
    """
    colour, (shape, size) = COLOURS[level], {"images": ("o", 9), "pixels": ("s", 8)}[level]
    in_pixels = axes.transData.transform(points).astype(np.float32)
    thinned = axes.transData.inverted().transform(cv2.approxPolyDP(in_pixels, TOLERANCE, closed=False)[:, 0])
    (line,) = axes.plot(*thinned.T, color=colour, linewidth=2, clip_on=False, gid=f"line {level}")
    line.get_path().should_simplify = False
    if best is not None:
        style: dict[str, Any] = {
            "color": colour,
            "markeredgecolor": COLOURS["paper"],
            "markeredgewidth": 1.5,
            "zorder": 3,
        }
        axes.plot(*best, shape, markersize=size, clip_on=False, gid=f"mark {level}", **style)
    return thinned


def page_svg(axes: Axes, key: str) -> Markup:
    """The inside of matplotlib's `svg`, made to stand in a page.

    No namespaces, no ids but those referred to (`key` makes them unique), colours and fonts of the style sheet.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        FigureCanvasSVG(cast(Figure, axes.figure)).print_svg(buffer, metadata={"Date": None})
    svg = re.sub(r'xmlns="[^"]*"|<metadata>.*?</metadata>|\n *', " ", buffer.getvalue(), flags=re.DOTALL)
    root = ElementTree.fromstring(svg)
    for node in root.iter():
        node.tail = None
        node.text = node.text if node.tag == "text" else None
        if name := node.attrib.pop("id", "") if node.tag == "g" else "":
            node.attrib |= {} if re.search(r"_\d+$", name) else {"class": name}
        for attribute, value in [*node.attrib.items()]:
            _restyle(node, attribute, value)
    svg = "".join(ElementTree.tostring(node, "unicode") for node in root if node.tag == "g")
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def _restyle(node: ElementTree.Element, attribute: str, value: str) -> None:
    """One attribute of matplotlib's SVG: one decimal for coordinates, no font but the page's, plain `href`."""
    if attribute in ("d", "x", "y", "transform"):
        short = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value)
        node.set(attribute, re.sub(r" ?([MLCZz]) ?", r"\1", short))
        if short.startswith("rotate(-0 "):
            del node.attrib[attribute]
    elif attribute == "style":
        node.set(attribute, re.sub(r"font-family: [^;]*; ?|font-size: 10\.5px; ?", "", value))
    elif attribute == "clip-path":
        del node.attrib[attribute]
    elif attribute.endswith("}href"):
        del node.attrib[attribute]
        node.set("href", value)
