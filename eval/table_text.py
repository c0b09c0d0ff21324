"""Tables as text, the one way in which all of them are written: Markdown for people, CSV for programs."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A pipe table of one line per row; the columns numbered in `left` are aligned left, all others right.

    Pipes within cells are escaped, line breaks become blanks.
    """
    rule = ["---" if number in left else "---:" for number in range(len(columns))]
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return "".join("| " + " | ".join(row) + " |\n" for row in (columns, rule, *escaped))


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values with a header line, numbers in full precision, None as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()
