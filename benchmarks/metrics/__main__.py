"""python -m benchmarks.metrics: our scorer beside the other packages that are installed, for time, memory and value."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import write_results
from benchmarks.metrics.compare import compare, run_child
from benchmarks.metrics.implementations import COLUMNS, IMPLEMENTATIONS
from benchmarks.metrics.scaling import check_merge
from eval.table_text import markdown_table

LEGEND = (
    "Each row in a process of its own, its libraries on one thread. Seconds: median of up to 5 runs after a tiny one, "
    "in brackets by part. Extra MB: the peak of the first run above what the process held with the category loaded."
)


def main() -> None:
    """Print the tables asked for, and write them with the machine and the commit to `--out`."""
    settings = _settings()
    shown = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    result: dict[str, Any] = {"settings": shown, "comparisons": {}}
    if settings.check_merge:
        result["merge"] = check_merge(settings.images[0], settings.size, settings.seed)
        print(_merge_line(result["merge"]))
    if settings.stream:
        result["stream"] = [_streamed(number, settings) for number in settings.stream]
    if not settings.check_merge and not settings.stream:
        for number in settings.images:
            rows = list(compare(number, settings.size, settings.seed, settings.limit, settings.only))
            result["comparisons"][number] = rows
            print(
                f"\n{number} maps of {settings.size} x {settings.size} pixels. {LEGEND}\n\n{to_markdown(rows)}",
                flush=True,
            )
            write_results(settings.out, result)
    write_results(settings.out, result)


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 200, 800], help="sizes of the category")
    parser.add_argument("--size", type=int, default=518, help="height and width of a map")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600, help="most seconds for one implementation and category")
    parser.add_argument("--only", default="", help="part of the names of the implementations to run")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--check-merge", action="store_true", help="instead: 8 shards in 8 processes against one pass")
    parser.add_argument("--stream", type=int, nargs="+", metavar="N", help="instead: peak memory over so many images")
    settings = parser.parse_args()
    names = [one.name for one in IMPLEMENTATIONS]
    if not any(settings.only in name for name in names):
        parser.error(f"--only: expected part of one of the names {'; '.join(names)}; got {settings.only!r}")
    return settings


def _merge_line(found: dict[str, Any]) -> str:
    same = all([*found["same_metrics"].values(), *found["same_curves"].values()])
    return (
        f"{found['shards']} shards of {found['images']} images in {found['shards']} processes, merged in order and "
        f"backwards: {'the same as' if same else 'NOT the same as'} one pass, bit for bit, in {found['num_metrics']} "
        f"metrics and all curves; the largest shard's file has {found['largest_shard_bytes']} bytes"
    )


def _streamed(number: int, settings: argparse.Namespace) -> dict[str, Any]:
    arguments = [str(number), str(settings.size), str(settings.seed)]
    found = run_child(["benchmarks.metrics.scaling", *arguments])
    if "error" in found:
        raise SystemExit(f"error: streaming {number} images: {found['error']}")
    print(
        f"{number} images, one at a time: peak {found['peak_mb']:.0f} MB, {found['extra_mb']:.0f} MB of them since the "
        f"first image; {1000 * found['seconds'] / number:.2f} ms an image",
        flush=True,
    )
    return found


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A pipe table: seconds (in brackets by part), memory above the maps, values to six digits; or what went wrong."""
    header = ["implementation", "computes", "seconds", "extra MB", *COLUMNS.values()]
    return markdown_table(header, map(_cells, rows), left=(0, 1))


def _cells(row: Mapping[str, Any]) -> list[str]:
    about = [row["name"], row["computes"]]
    if "error" in row:
        return [*about, row["error"], "", *[""] * len(COLUMNS)]
    values = (row["values"].get(metric) for metric in COLUMNS)
    shown = ("" if value is None else f"{value:.6f}" for value in values)
    return [*about, _seconds(row["seconds"]), f"{row['extra_mb']:.0f}", *shown]


def _seconds(parts: Mapping[str, float]) -> str:
    total = f"{sum(parts.values()):.3g}"
    if len(parts) == 1:
        return total
    return f"{total} ({', '.join(f'{name} {seconds:.3g}' for name, seconds in parts.items())})"


if __name__ == "__main__":
    main()
