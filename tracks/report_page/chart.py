"""Line and bar charts as inline SVG: an `Axes` turns values into coordinates, a chart is axes and what lies on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracks.report_page.curve_points import thin
from tracks.report_page.html import Child, Html, element, short

WIDTH, HEIGHT = 280, 222
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 10, 38
TOLERANCE = 0.2
"""How far, in the chart's own pixels, a thinned line may pass from a point that was left out."""

Tick = tuple[float, str]
SHARES: tuple[Tick, ...] = ((0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100"))
"""Ticks of an axis in percent."""


@dataclass(frozen=True)
class Axis:
    """One axis: its range, low < high, its name and its ticks."""

    name: str
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[Tick] = SHARES


@dataclass(frozen=True)
class Axes:
    """An x and a y axis, and where their values lie in the picture."""

    x: Axis
    y: Axis

    def place(self, xy: np.ndarray) -> np.ndarray:
        """Values (N, 2) as coordinates (N, 2) in the picture."""
        low, high = np.array([self.x.low, self.y.low]), np.array([self.x.high, self.y.high])
        shares = (np.asarray(xy, dtype=np.float64) - low) / (high - low)
        return np.array([LEFT, HEIGHT - BOTTOM]) + shares * [WIDTH - LEFT - RIGHT, TOP + BOTTOM - HEIGHT]

    def point(self, x: float, y: float) -> tuple[float, float]:
        """The coordinates of one value."""
        placed = self.place(np.array([[x, y]]))[0]
        return float(placed[0]), float(placed[1])


def chart(title: str, spoken: str, axes: Axes, layers: Sequence[Child], note: Child = None) -> Html:
    """A figure: title, picture (`spoken` for those who do not see it) and a note below."""
    picture = element(
        "svg", _grid(axes), *layers, role="img", aria_label=spoken, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart"
    )
    return element("figure", element("figcaption", title), picture, element("p", note, class_="note") if note else None)


def line(axes: Axes, xy: np.ndarray, class_: str) -> tuple[Html, int]:
    """A line through the points (N, 2), and through how many of them it was drawn."""
    placed = thin(axes.place(xy), TOLERANCE)
    return element("path", d=_commands(placed), class_=f"line {class_}"), len(placed)


def area(axes: Axes, xy: np.ndarray, class_: str) -> Html:
    """The area between the points (N, 2) and the x axis."""
    closed = np.concatenate([[[xy[0, 0], axes.y.low]], xy, [[xy[-1, 0], axes.y.low]]])
    return element("path", d=_commands(thin(axes.place(closed), TOLERANCE)) + "z", class_=f"area {class_}")


def rule(axes: Axes, start: tuple[float, float], end: tuple[float, float], class_: str) -> Html:
    """A straight line between two values."""
    (x1, y1), (x2, y2) = axes.point(*start), axes.point(*end)
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"rule {class_}")


def mark(axes: Axes, x: float, y: float, class_: str) -> Html:
    """A point of note: a circle for images, a square for pixels."""
    cx, cy = axes.point(x, y)
    if class_ == "pixels":
        return element("rect", x=cx - 4, y=cy - 4, width=8, height=8, class_=f"mark {class_}")
    return element("circle", cx=cx, cy=cy, r=4.5, class_=f"mark {class_}")


def bar(axes: Axes, left: float, right: float, end: float, class_: str) -> Html:
    """A bar from y = 0 to y = `end`, up or down."""
    (x1, y1), (x2, y2) = axes.point(left, max(end, 0.0)), axes.point(right, min(end, 0.0))
    return element("rect", x=x1, y=y1, width=max(x2 - x1 - 0.6, 0.4), height=y2 - y1, class_=f"bar {class_}")


def label(axes: Axes, x: float, y: float, text: str, anchor: str = "middle") -> Html:
    """A word inside the picture."""
    at_x, at_y = axes.point(x, y)
    return element("text", text, x=at_x, y=at_y, text_anchor=anchor, class_="name", paint_order="stroke")


def _grid(axes: Axes) -> list[Child]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts: list[Child] = []
    for value, text in axes.x.ticks:
        x, _ = axes.point(value, axes.y.low)
        parts.append(element("line", x1=x, y1=float(TOP), x2=x, y2=float(bottom), class_="grid"))
        parts.append(element("text", text, x=x, y=float(bottom + 13), text_anchor="middle"))
    for value, text in axes.y.ticks:
        _, y = axes.point(axes.x.low, value)
        parts.append(element("line", x1=float(LEFT), y1=y, x2=float(right), y2=y, class_="grid"))
        parts.append(element("text", text, x=float(LEFT - 6), y=y + 3.5, text_anchor="end"))
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    upright = f"translate(11 {short(middle_y)}) rotate(-90)"
    parts.append(element("text", axes.x.name, x=middle_x, y=float(HEIGHT - 6), text_anchor="middle", class_="axis"))
    parts.append(element("text", axes.y.name, transform=upright, text_anchor="middle", class_="axis"))
    return parts


def _commands(placed: np.ndarray) -> str:
    """Coordinates (N, 2) as a path, one decimal, relative to the point before so that it stays short."""
    tenths = np.rint(placed * 10).astype(int)
    steps = np.diff(tenths, axis=0)
    moves = "".join(_step(x / 10, y / 10) for x, y in steps.tolist() if x or y)
    return f"M{short(tenths[0, 0] / 10)} {short(tenths[0, 1] / 10)}{moves}"


def _step(x: float, y: float) -> str:
    if not y:
        return f"h{short(x)}"
    return f"l{short(x)} {short(y)}" if x else f"v{short(y)}"
