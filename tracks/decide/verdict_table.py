"""predictions.csv: a row for each judged photo, there as soon as it is judged, and written anew once all are."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from io import RawIOBase
from pathlib import Path

from tqdm import tqdm

from tracks.decide.judge import Verdict
from tracks.decide.threshold import Threshold

CSV_FILE = "predictions.csv"
COLUMNS = ("file", "score", "verdict", "threshold", "map", "overlay", "note")


def written(
    verdicts: Iterable[Verdict], path: Path, threshold: Threshold | None, failures: list[OSError]
) -> Iterator[Verdict]:
    """Pass verdicts on, each already in the CSV file and printed: what is judged stays if the run is stopped.

    A row that cannot be written costs no verdict; what the system said goes into `failures`.
    """
    with path.open("wb", buffering=0) as file:
        _keep(file, COLUMNS, failures)
        for verdict in verdicts:
            _keep(file, _cells(verdict, threshold), failures)
            tqdm.write(str(verdict))
            yield verdict


def _keep(file: RawIOBase, cells: Iterable[str], failures: list[OSError]) -> None:
    try:
        file.write(_line(cells))
    except OSError as error:
        failures.append(error)


def as_csv(verdicts: Sequence[Verdict], threshold: Threshold) -> bytes:
    """The whole content of predictions.csv."""
    return _line(COLUMNS) + b"".join(_line(_cells(verdict, threshold)) for verdict in verdicts)


def _line(cells: Iterable[str]) -> bytes:
    """One row; a file name that is no valid Unicode comes out as the bytes it has."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode("utf-8", "surrogateescape")


def _cells(verdict: Verdict, threshold: Threshold | None) -> list[str]:
    """The values of `COLUMNS`; nine digits give a float32 back exactly, so the verdict follows from them."""
    score = "" if verdict.score is None else f"{verdict.score:.9g}"
    value = "" if threshold is None else f"{threshold.value:.9g}"
    return [verdict.name, score, verdict.verdict, value, verdict.map_file, verdict.overlay_file, verdict.note]
