"""The templates of the page, which escape every text that is no markup already, and the words of numbers and names."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent


@cache
def templates() -> Environment:
    """Those of this folder, with the functions below as filters; a name that is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "significant": significant, "breakable": breakable, "plural": plural}
    return made


def breakable(text: str) -> Markup:
    """A name that may be broken after the characters that file names and identifiers have instead of blanks."""
    parts = (part for part in re.split(r"(?<=[_/.-])", text) if part)
    return Markup("".join(f"{escape(part)}<wbr/>" for part in parts))


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
