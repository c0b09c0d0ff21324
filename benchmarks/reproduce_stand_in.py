"""`make reproduce` from beginning to end without data and weights: random networks of the published architectures on
stand-ins with one good and one defective image of each category.

    python -m benchmarks.reproduce_stand_in [--tables april_gan/9 saa_extended/1] [--weights random] [--only ksdd2 mtd]

Shows that each command arrives at the printed comparison, every figure of ours in it, and what it costs: seconds and
peak memory of the command's own process. The figures mean nothing; `--weights tiny` makes it quick. What is finished
below --folder is found again, and a stopped command resumes, as any run does; --fresh begins anew.
SAM is ViT-B unless --refiner says otherwise (published: ViT-H, with several times the cost). With --quick the detector
sees images at 320 px (published: 800), in bfloat16, of its boxes only the best count, and several objects are compared
at 256 px (published: 1024).
Tables that share runs share them here. Other rows: --models clipseg --weights clipseg_random, --models winclip
--weights random_vitb16_plus_240, --models utad --weights saa_random.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import run_measured, write_results
from benchmarks.stand_in_trees import WRITERS, write_tree
from eval.published.reader import load
from eval.table_text import markdown_table

TABLES = ("april_gan/9", "saa_report/1", "saa_extended/1")
RANDOM = {"april_gan": "random_vitl14_336", "saa_report": "saa_random", "saa_extended": "saa_random"}

MODELS = {"april_gan": ("clip_adapter",), "saa_report": ("saa", "saa_plus"), "saa_extended": ("saa", "saa_plus")}
"""Of each paper's tables, the models that its random weights serve."""

QUICK = (
    "weights.saa.generator.short_side=320", "weights.saa.generator.box_threshold=0.25",
    "weights.saa.precision=bfloat16", "model.saliency_map.several_size=256",
)  # fmt: skip
"""Settings of SAA+ that keep the networks and cost less. A random detector scores hundreds of boxes above the
published threshold of 0.1, whatever it is asked; what a random SAM outlines is large, so that comparing several objects
place by place at 1024 px is slow."""


@dataclass(frozen=True)
class Outcome:
    """How one command went: what it cost, and how many figures of the table it put ours beside."""

    table: str
    exit_code: int
    seconds: float
    processor_seconds: float
    peak_memory_mb: float
    images: int
    figures: int
    answered: int


def arguments_of(table: str, options: argparse.Namespace, trees: dict[str, Path]) -> list[str]:
    """What follows `python -m tracks.reproduce`."""
    family = table.partition("/")[0]
    weights = options.weights if options.weights != "random" else RANDOM[family]
    arguments = [f"table={table}", f"use_weights={weights}", f"device={options.device}"]
    arguments += [f"models=[{','.join(options.models or MODELS[family])}]"]
    arguments += [f"outputs={options.folder / 'outputs'}", f"out={out_folder(table, options)}"]
    arguments += [f"+roots.{name}='{path}'" for name, path in trees.items()]
    if options.only:
        arguments.append(f"only=[{','.join(options.only)}]")
    if weights == "saa_random":
        chosen = [f"weights.saa.refiner.name={options.refiner}", *(QUICK if options.quick else ())]
        arguments += [f"+settings.{setting}" for setting in chosen]
    return [*arguments, *options.settings]


def out_folder(table: str, options: argparse.Namespace) -> Path:
    """Where the comparison of a table goes."""
    return Path(options.folder, "reproduce", options.weights, table)


FROM_MAKE = ("VANDKIT_RUN", "VANDKIT_ROOT", "VANDKIT_OUT")


def run_table(table: str, options: argparse.Namespace) -> Outcome:
    """Run the command of one table in a process of its own, its output passed on."""
    wanted = [name for name in load(table).data if not options.only or name in options.only]
    trees = {name: write_tree(name, options.folder / "data", options.width) for name in wanted}
    command = [sys.executable, "-m", "tracks.reproduce", *arguments_of(table, options, trees)]
    environment = {key: value for key, value in os.environ.items() if key not in FROM_MAKE}
    began_at = time.time()
    cost = run_measured(command, env=environment)
    figures, answered = read_comparison(out_folder(table, options)) if cost.exit_code == 0 else (0, 0)
    images = scored(options.folder / "outputs", set(wanted), began_at)
    return Outcome(
        table, cost.exit_code, round(cost.seconds, 1), round(cost.processor_seconds, 1), round(cost.peak_memory_mb),
        images, figures, answered,
    )  # fmt: skip


def read_comparison(folder: Path) -> tuple[int, int]:
    """How many figures the comparison has, and beside how many of them one of ours stands."""
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return len(rows), sum(row["ours"] != "" for row in rows)


def scored(outputs: Path, data: set[str], began_at: float) -> int:
    """Images in the runs on these data sets that were finished since then."""
    files = [path for path in outputs.glob("*/*/results.json") if not path.parent.is_symlink()]
    results = [json.loads(path.read_text()) for path in files if path.stat().st_mtime >= began_at - 1]
    return sum(one["images"] for one in results if one["data"] in data)


def to_text(outcomes: Sequence[Outcome]) -> str:
    """One row for each table."""
    columns = ["table", "images", "seconds", "of the processors", "peak memory MB", "figures with ours", "exit code"]
    rows = []
    for one in outcomes:
        cells = [one.table, one.images, one.seconds, one.processor_seconds, f"{one.peak_memory_mb:.0f}"]
        rows.append([str(cell) for cell in (*cells, f"{one.answered} of {one.figures}", one.exit_code)])
    return markdown_table(columns, rows)


def main() -> None:
    """Run the tables one after another; the exit code is not 0 unless all arrived at their comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), help="names of eval/published/index.yaml")
    parser.add_argument("--weights", default="random", help="random, or a name of conf/weights such as tiny")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=list(WRITERS), help="of these data sets, where a table needs several"
    )
    parser.add_argument("--models", nargs="+", default=[], help="of those that a table compares")
    parser.add_argument("--refiner", choices=("vit_b", "vit_l", "vit_h"), default="vit_b", help="random SAM")
    parser.add_argument("--quick", action="store_true", help="cheaper settings of SAA+, the same networks")
    parser.add_argument("--width", type=int, default=300, help="of the pictures, in pixels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("outputs", "stand_in"), help="for data, runs, comparisons")
    parser.add_argument("--fresh", action="store_true", help="delete what is in the folder first")
    parser.add_argument("--out", type=Path, help="write the outcomes here too, as JSON")
    parser.add_argument("--settings", nargs="+", default=[], help='such as "+settings.categories=[candle]"')
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.fresh:
        for name in ("data", "outputs", "reproduce"):
            shutil.rmtree(options.folder / name, ignore_errors=True)
    outcomes = [run_table(table, options) for table in options.tables]
    quick = f", SAA+ with {', '.join(QUICK)}" if options.quick else ""
    random = f"random networks, SAM {options.refiner}{quick}"
    print(f"\n{random if options.weights == 'random' else f'weights {options.weights}'}")
    print(to_text(outcomes), end="")
    write_results(options.out, {"outcomes": [asdict(one) for one in outcomes]})
    sys.exit(max(abs(one.exit_code) for one in outcomes))


if __name__ == "__main__":
    main()
