"""python -m benchmarks.metrics: our scorer beside the other packages that are installed, for time, memory and value."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.metrics.compare import compare, run_child
from benchmarks.metrics.implementations import IMPLEMENTATIONS
from benchmarks.metrics.scaling import check_merge
from benchmarks.metrics.table import LEGEND, machine, to_markdown


def main() -> None:
    """Print the tables asked for, and write them with the machine and the commit to `--out`."""
    settings = _settings()
    result: dict[str, Any] = {"machine": machine(), "settings": _without_paths(settings), "comparisons": {}}
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
            _write(result, settings.out)
    _write(result, settings.out)


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


def _without_paths(settings: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}


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


def _write(result: dict[str, Any], out: Path | None) -> None:
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
