"""The detector stage of SAA: one image and P prompts through the package groundingdino-py, and through ours.

    python -m benchmarks.saa_detector [--prompts 5 10] [--threads 2] [--device cpu] [--out FILE.json]

Both sides have the real architecture (Swin-T OGC, BERT base) with the same random weights and vocabulary. The package
runs as `groundingdino.util.inference.predict` does, once per prompt; ours as `GroundingDinoGenerator.propose`. Times
are the least of the repeats, texts encoded anew in each. The floor is one look at the image and P passes of one caption
each through our encoder and decoder. Random weights detect nothing: what is compared is the arithmetic and its cost.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.grounding_dino_package import package_twin, quiet, unlike
from benchmarks.machine import machine, write_results
from models.saa.generator.base import Proposals
from models.saa.generator.grounding_dino import network as grounding_dino_network
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import CaptionReader, spelling_reader, to_pixels
from models.saa.generator.grounding_dino.network import GroundingDino
from models.saa.generator.grounding_dino.weights import ARCHITECTURES, random_network

PROMPTS = (
    "bottle", "defect on bottle", "damage on bottle", "flaw on bottle", "broken part. contamination. white broken",
    "crack", "black hole", "scratch", "thread. red defect. yellow defect", "color defect",
)  # fmt: skip
STAGES = ("text", "backbone", "encoder", "decoder", "rest", "all")
THRESHOLD = 0.1
Seconds = dict[str, float]
Found = tuple[Tensor, Tensor, Any]
"""The package's boxes, scores and phrases."""


class Clock:
    """Seconds by stage of one run: by the wall, or of this process alone, which other programs disturb less."""

    def __init__(self, device: torch.device, of_process: bool = False):
        self.device = device
        self.of_process = of_process
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.of_process else time.perf_counter()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a stage."""

        def run(*arguments: Any, **named: Any) -> Any:
            started = self.now()
            result = function(*arguments, **named)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.now() - started
            return result

        return run

    def with_rest(self) -> dict[str, float]:
        """All stages, and what they leave of the whole."""
        return {**self.seconds, "rest": 2 * self.seconds["all"] - sum(self.seconds.values())}

    def watch(self, module: nn.Module, stage: str) -> None:
        """Add the time of every call of a module."""
        begun: list[float] = []
        module.register_forward_pre_hook(lambda *_: begun.append(self.now()))

        def ended(*_: Any) -> None:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.now() - begun.pop()

        module.register_forward_hook(ended)


@dataclass
class Sides:
    """Both detectors with the same weights, and the image: raw for ours, as pixels for the package."""

    network: GroundingDino
    reader: CaptionReader
    twin: nn.Module
    clock: Clock
    image: Tensor
    pixels: Tensor

    @staticmethod
    def build(height: int, width: int, seed: int, clock: Clock) -> "Sides":
        """Random weights and a random image."""
        reader = spelling_reader(" ".join(PROMPTS).replace(".", "").split())
        network = random_network(ARCHITECTURES["swint_ogc"], seed).to(clock.device)
        with quiet():
            twin: Any = package_twin(network, ARCHITECTURES["swint_ogc"], reader.tokenizer)
        clock.watch(twin.bert, "text")
        for module in (twin.backbone, *twin.input_proj):
            clock.watch(module, "backbone")
        clock.watch(twin.transformer.encoder, "encoder")
        clock.watch(twin.transformer.decoder, "decoder")
        values = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed))
        image = values.to(torch.uint8)
        return Sides(network, reader, twin, clock, image, to_pixels(image, 800, 1333))

    def run_package(self, prompt: str) -> tuple[Seconds, Found]:
        """Seconds by stage and what was found, for one prompt."""
        with quiet():
            from groundingdino.util.inference import predict

            self.clock.seconds = {}
            run = self.clock.timed("all", predict)
            found = run(self.twin, self.pixels, prompt, THRESHOLD, THRESHOLD, device=str(self.clock.device))
        return self.clock.with_rest(), found

    def run_ours(self, prompts: Sequence[str], **settings: Any) -> tuple[Seconds, list[Proposals]]:
        """Seconds by stage and what was found, for all prompts together."""
        clock = Clock(self.clock.device, self.clock.of_process)
        generator = GroundingDinoGenerator(self.network, self.reader, **settings)
        with ExitStack() as stack:
            for owner, name, stage in (
                (self.network, "read", "text"), (self.network, "look", "backbone"),
                (grounding_dino_network, "enhance", "encoder"), (grounding_dino_network, "decode", "decoder"),
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(owner, name, clock.timed(stage, getattr(owner, name))))
            found = clock.timed("all", generator.propose)(self.image, prompts)
        return clock.with_rest(), found


def least(runs: Sequence[tuple[Seconds, Any]]) -> tuple[Seconds, Any]:
    """Of several runs the one with the least total."""
    return min(runs, key=lambda run: run[0]["all"])


def compare(sides: Sides, numbers: Sequence[int], repeats: int) -> dict[str, Any]:
    """Each prompt alone on both sides, in turn; then ours with all of them."""
    prompts = PROMPTS[: max(numbers)]
    sides.run_package(prompts[0])
    sides.run_ours(prompts[:1])
    package, alone = [], []
    for prompt in prompts:
        runs = [(sides.run_package(prompt), sides.run_ours([prompt])) for _ in range(repeats)]
        package.append(least([run[0] for run in runs]))
        alone.append(least([run[1] for run in runs])[0])
    together = {number: least([sides.run_ours(prompts[:number]) for _ in range(repeats)]) for number in numbers}
    separate = together[max(numbers)][1]
    check(separate, [found for _, found in package])
    result: dict[str, Any] = {}
    for number in numbers:
        theirs = {stage: sum(seconds[stage] for seconds, _ in package[:number]) for stage in STAGES}
        passes = sum(seconds[stage] for seconds in alone[:number] for stage in ("encoder", "decoder", "rest"))
        floor = min(seconds["backbone"] for seconds in alone) + passes
        result[str(number)] = report(number, theirs, together[number][0], floor)
    result["bfloat16"] = half_precision(sides, prompts, separate, repeats)
    return result


def report(number: int, package: Seconds, ours: Seconds, floor: float) -> dict[str, Any]:
    """Print one table; returns its numbers."""
    lines = [f"\nP = {number} prompts\n", "| stage | package, s | ours, s | ratio |", "|---|--:|--:|--:|"]
    for stage in STAGES:
        lines.append(f"| {stage} | {package[stage]:.2f} | {ours[stage]:.2f} | {package[stage] / ours[stage]:.1f} |")
    share = floor / ours["all"]
    lines.append(f"\nfloor {floor:.2f} s: {100 * share:.0f} % of what ours takes")
    print("\n".join(lines), flush=True)
    ratio = package["all"] / ours["all"]
    return {"package": package, "ours": ours, "ratio": ratio, "floor": floor, "floor_reached": share}


def check(separate: Sequence[Proposals], found: Sequence[Found]) -> None:
    """The same output to rounding, but for queries that tie; stops where more than one box in a hundred differs."""
    counts = [unlike(ours, package) for ours, package in zip(separate, found, strict=True)]
    different, boxes = sum(c[0] for c in counts), sum(c[1] for c in counts)
    assert different <= 0.01 * boxes, f"{different} of {boxes} boxes differ"
    gaps = torch.cat([c[2] for c in counts])
    print(
        f"{boxes - different} of {boxes} boxes and scores within {gaps.max():.1e}, {int((gaps <= 1e-4).sum())} of them "
        "within 1e-4, phrases the same",
        flush=True,
    )


def half_precision(sides: Sides, prompts: Sequence[str], whole: Sequence[Proposals], repeats: int) -> dict[str, Any]:
    """What bfloat16 costs and changes."""
    seconds, found = least([sides.run_ours(prompts, precision="bfloat16") for _ in range(repeats)])
    effect = change(whole, found)
    print(f"\nbfloat16, {len(prompts)} prompts: {seconds['all']:.2f} s; {effect}", flush=True)
    return {"seconds": seconds, **effect}


def change(before: Sequence[Proposals], after: Sequence[Proposals]) -> dict[str, float]:
    """How far the best score of a prompt moves, and how the number of boxes above the threshold changes."""
    best = [[max(found.scores.tolist(), default=0.0) for found in side] for side in (before, after)]
    gaps = [abs(a - b) for a, b in zip(*best, strict=True)]
    return {
        "mean_change_of_best_score": round(sum(gaps) / len(gaps), 4),
        "largest_change": round(max(gaps), 4),
        "boxes_before": sum(map(len, before)),
        "boxes_after": sum(map(len, after)),
    }


def main() -> None:
    """Print the tables and write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saa_detector", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[5, 10], help=f"how many, up to {len(PROMPTS)}")
    parser.add_argument("--size", type=int, nargs=2, default=(750, 1000), help="height and width of the image")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--processor-time", action="store_true", help="of this process; for --threads 1 on a busy machine"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    sides = Sides.build(*settings.size, settings.seed, Clock(torch.device(settings.device), settings.processor_time))
    about = {
        "machine": machine(), "threads": settings.threads, "pixels": tuple(sides.pixels.shape[1:]),
        "time": "of the process" if settings.processor_time else "by the wall",
    }  # fmt: skip
    processor = about["machine"]["processor"]
    print(f"{processor}, {settings.threads} threads, time {about['time']}, image {about['pixels']}", flush=True)
    result = {**about, **compare(sides, settings.prompts, settings.repeats)}
    write_results(settings.out, result)


if __name__ == "__main__":
    main()
