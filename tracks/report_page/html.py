"""HTML that cannot be broken by what it says: every text is escaped unless it is `Html` already."""

import re
from collections.abc import Iterable
from html import escape

VOID = {"meta", "br", "image", "use", "path", "line", "rect", "circle", "polyline", "polygon"}
"""Elements that are written without a closing tag when they are empty; the page is well-formed XML."""


class Html(str):
    """Markup that is ready to stand in a page."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """An element: `element("td", "a < b", class_="name")` is `<td class="name">a &lt; b</td>`.

    Children are text (escaped), `Html` (as it is), nested sequences of both, or None (nothing). Of an attribute's
    name a trailing `_` is dropped and the others become `-`; one whose value is None is left out.
    """
    opening = "".join([name, *(_attribute(key, value) for key, value in attributes.items() if value is not None)])
    inner = join(children)
    return Html(f"<{opening}/>" if not inner and name in VOID else f"<{opening}>{inner}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """The children one after the other."""
    return Html("".join(_render(child) for child in children))


def breakable(text: str) -> Html:
    """A name that may be broken after the characters that file names and identifiers have instead of blanks."""
    return join(join([part, Html("<wbr/>")]) for part in re.split(r"(?<=[_/.-])", text) if part)


def short(value: float) -> str:
    """A coordinate with at most one decimal: 12.0 is "12"."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def significant(value: float) -> str:
    """A score or a threshold, four significant digits."""
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share in [0, 1] in percent with one decimal; a dash for None."""
    return "—" if share is None else f"{100 * share:.1f}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 image, 2 images, 3 categories."""
    many = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else many}"


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    return escape(str(child), quote=False) if isinstance(child, str | int) else join(child)


def _attribute(key: str, value: str | float) -> str:
    text = short(value) if isinstance(value, float) else str(value)
    return f' {key.removesuffix("_").replace("_", "-")}="{escape(text)}"'
