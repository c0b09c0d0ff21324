"""Outlining, saliency and top-K of SAA+, step by step as published and as here: same weights, same result, both times.

    python -m benchmarks.saa_stages [--boxes 60] [--side 512] [--device cpu] [--full]

The weights are random, the architectures real (SAM ViT-B, WideResNet50). Without --full SAM's image encoder is left out
(both ways get the same random embedding) and four instances are compared at 256 px instead of 1024.
"""

import argparse
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from torch import Tensor

from models.saa.confidence import top_regions
from models.saa.refiner.sam.refiner import SamOutliner, SamRefiner, load_sam
from models.saa.result import anomaly_map
from models.saa.saliency.features import WideResNetFeatures, load_wide_resnet
from models.saa.saliency.prompt import Saliency

TOP_K, FACTOR, NEIGHBOURS = 5, 3.0, 400
ROOT = Path(__file__).resolve().parents[1]


def timed(run: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, Any]:
    """Least seconds of some runs, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def scene(side: int, num_boxes: int) -> tuple[Tensor, Tensor, Tensor]:
    """A picture, boxes in its pixels, and scores of a detector's kind: many low, few high."""
    generator = torch.Generator().manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, 24, 24, generator=generator), (side, side), mode="bicubic")[0]
    corner = torch.rand(num_boxes, 2, generator=generator) * side * 0.8
    boxes = torch.cat([corner, corner + side * (0.03 + 0.2 * torch.rand(num_boxes, 2, generator=generator))], dim=1)
    scores = 0.1 - 0.08 * torch.rand(num_boxes, generator=generator).log()
    return (image.clamp(0, 1) * 255).to(torch.uint8), boxes, scores


# The published way.


def plain_single(net: WideResNetFeatures, image: Tensor) -> Tensor:
    """All 4096 x 4096 distances, all of them sorted."""
    rows = F.normalize(net.features(image[None], 256), dim=1)[0].flatten(1).t()
    distance = torch.sort(0.5 * (1 - rows @ rows.t()), dim=1, descending=True).values[:, :NEIGHBOURS].mean(dim=1)
    return F.interpolate(distance.view(1, 1, 64, 64), image.shape[1:], mode="bilinear")[0, 0]


def plain_several(net: WideResNetFeatures, image: Tensor, objects: Tensor, size: int) -> Tensor:
    """Each instance against a copy of all features in which its own are zero."""
    maps = F.normalize(net.features(image[None], size), dim=1)
    grid = maps.shape[2:]
    rows = maps[0].flatten(1).t()
    members = F.interpolate(objects[None].float(), grid, mode="nearest")[0].bool().flatten(1)
    saliency = torch.zeros(len(rows), device=rows.device)
    for number, own in enumerate(members):
        left = rows.clone()
        left[own] = 0
        others = torch.cat([left[member] for other, member in enumerate(members) if other != number])
        distance = 0.5 * (1 - (rows[own] @ others.t()).amax(dim=1))
        saliency[own] = torch.maximum(saliency[own], distance)
    return F.interpolate(saliency.view(1, 1, *grid), image.shape[1:], mode="bilinear")[0, 0]


def plain_regions(predictor: SamPredictor, boxes: Tensor, scores: Tensor, saliency: Tensor, size: Any) -> np.ndarray:
    """Every box outlined in one call, then region after region on the CPU, to the map."""
    inside = predictor.transform.apply_boxes_torch(boxes, size).to(predictor.device)
    masks = predictor.predict_torch(None, None, inside, multimask_output=False)[0][:, 0].cpu().numpy()
    salient = saliency.cpu().numpy()
    rescored = [
        score * np.exp(FACTOR * salient[mask].mean()) if mask.any() else score
        for mask, score in zip(masks, scores.tolist(), strict=True)
    ]
    total, weight = np.zeros(size), np.ones(size)
    for region in np.argsort(rescored)[::-1][:TOP_K]:
        total += masks[region] * rescored[region]
        weight += masks[region]
    return total / weight


def our_regions(
    outliner: SamOutliner, boxes: Tensor, scores: Tensor, saliency: Tensor, size: Any
) -> tuple[Tensor, int]:
    """The map, and how many boxes were outlined for it."""
    regions = top_regions(outliner.masks, boxes, scores, size, saliency=saliency, factor=FACTOR, top_k=TOP_K)
    return anomaly_map(regions, extra_weight=1.0), regions.num_outlined


class Report:
    """One line per stage."""

    def __init__(self) -> None:
        print(f"{'stage':46} {'plain s':>9} {'ours s':>9} {'ratio':>6}")

    def line(self, stage: str, plain: float, ours: float) -> None:
        print(f"{stage:46} {plain:9.3f} {ours:9.3f} {plain / ours:6.2f}", flush=True)


def same(got: Any, expected: Any, tolerance: float) -> None:
    """Fail unless both agree."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=tolerance, rtol=0)


def compare_saliency(net: WideResNetFeatures, image: Tensor, report: Report, options: argparse.Namespace) -> Tensor:
    """Time both forms of saliency; returns the single-instance one."""
    device, size = image.device, 1024 if options.full else 256
    ours = Saliency(net, rule="released", several_size=size)
    plain_time, expected = timed(lambda: plain_single(net, image), device, options.repeats)
    our_time, saliency = timed(lambda: ours(image), device, options.repeats)
    same(saliency.cpu(), expected.cpu(), 1e-5)
    report.line("saliency, one instance (net included)", plain_time, our_time)
    quarter = options.side // 4
    objects = torch.zeros(4, options.side, options.side, dtype=torch.bool, device=device)
    for number, mask in enumerate(objects):
        mask[quarter // 2 :, :][:quarter, number * quarter : (number + 1) * quarter - 4] = True
    plain_time, expected = timed(lambda: plain_several(net, image, objects, size), device, 1)
    our_time, got = timed(lambda: ours(image, objects), device, 1)
    same(got.cpu(), expected.cpu(), 1e-5)
    report.line(f"saliency, 4 instances at {size} px (net included)", plain_time, our_time)
    return saliency


def compare_outlines(
    refiner: SamRefiner, image: Tensor, boxes: Tensor, report: Report, options: argparse.Namespace
) -> tuple[SamPredictor, SamOutliner]:
    """Time encoding and decoding; returns both ways with the image set."""
    device, size = image.device, tuple(image.shape[1:])
    predictor, outliner = SamPredictor(refiner.sam), refiner.outline(image)
    pixels = image.permute(1, 2, 0).cpu().numpy()
    if options.full:
        plain_time, _ = timed(lambda: predictor.set_image(pixels), device, 1)
        our_time, outliner._tokens = timed(lambda: refiner.encode(image), device, 1)
        report.line("SAM image encoder", plain_time, our_time)
    else:
        predictor.features = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1)).to(device)
        predictor.original_size, predictor.is_image_set = size, True
        predictor.input_size = predictor.transform.get_preprocess_shape(*size, refiner.image_size)
        outliner._tokens = refiner._decoder.image_tokens(predictor.features)
    inside = predictor.transform.apply_boxes_torch(boxes, size).to(device)
    plain_time, expected = timed(
        lambda: predictor.predict_torch(None, None, inside, multimask_output=False, return_logits=True)[0][:, 0],
        device, options.repeats,
    )  # fmt: skip
    our_time, got = timed(lambda: torch.cat(list(outliner.logits(boxes))), device, options.repeats)
    same(got.cpu(), expected.cpu(), 1e-4 * float(expected.abs().max()))
    report.line(f"SAM, {len(boxes)} boxes outlined, all of them", plain_time, our_time)
    return predictor, outliner


def main() -> None:
    """Run all stages and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=60, help="boxes that the detector proposes")
    parser.add_argument("--side", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--repeats", type=int, default=2, help="runs, of which the fastest counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="SAM's image encoder too, and instances at 1024 px")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, device {options.device}, "
          f"torch {torch.__version__}, commit {commit.stdout.strip() or 'unknown'}")  # fmt: skip
    image, boxes, scores = scene(options.side, options.boxes)
    device = torch.device(options.device)
    image, size = image.to(device), tuple(image.shape[1:])
    with torch.no_grad():
        report = Report()
        saliency = compare_saliency(load_wide_resnet("random:0").to(device), image, report, options)
        refiner = load_sam("vit_b", weights="random:0").to(device)
        predictor, outliner = compare_outlines(refiner, image, boxes, report, options)
        plain_time, expected = timed(lambda: plain_regions(predictor, boxes, scores, saliency, size), device, 1)
        our_time, (got, outlined) = timed(lambda: our_regions(outliner, boxes, scores, saliency, size), device, 1)
        different = float((np.abs(got.cpu().numpy() - expected) > 1e-4).mean())
        assert different < 1e-3, f"{different:.4f} of the map differs"
        report.line(f"boxes to map, {outlined} of {len(boxes)} outlined", plain_time, our_time)


if __name__ == "__main__":
    main()
