"""SAA's parts of transformers in published architectures with random weights, beside plain calls of transformers.

    python -m benchmarks.saa_parts mm_grounding_dino_tiny sam2.1_hiera_tiny sam_hq_vit_b owlv2_base_patch16
    python -m benchmarks.saa_parts mm_grounding_dino_tiny --short-side 240 --double
    python -m benchmarks.saa_parts sam3_detector sam3      # with transformers 5

One image of 480 x 640 pixels. Detectors get three captions, OWLv2 three pictures, refiners twelve boxes; the plain way
is one call of the model for each caption or picture, and one for all boxes of an encoded image. Seconds of the
processor, the largest difference of scores or mask logits, and the peak memory of the process so far. Random weights
find nothing: what is compared is the arithmetic and its cost.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Owlv2Config, Owlv2ForObjectDetection

from benchmarks.machine import machine, peak_mb
from models.images import normalised as image_normalised
from models.saa.generator import image_query, zero_shot_detector
from models.saa.generator.concepts import load_concepts
from models.saa.generator.grounding_dino.inputs import normalised, to_pixels
from models.saa.refiner.sam.refiner import resized
from models.saa.refiner.sam.successors import HALVES, load_successor
from models.weights.pretrained import load_pretrained

CAPTIONS = ["defect on metal nut", "broken part. contamination", "scratch"]
Both = tuple[Callable[[], Tensor], Callable[[], Tensor]]
"""What ours finds, and what plain calls find."""


def picture(height: int = 480, width: int = 640, seed: int = 0) -> Tensor:
    small = torch.rand(1, 3, height // 20, width // 20, generator=torch.Generator().manual_seed(seed))
    return (255 * F.interpolate(small, (height, width), mode="bilinear")[0]).to(torch.uint8)


def detector(architecture: str, short_side: int = 800, double: bool = False) -> Both:
    ours = zero_shot_detector.load_zero_shot_detector(
        "random:0", None, architecture=architecture, threshold=0.0, short_side=short_side
    )
    network: Any = ours.network.double() if double else ours.network
    ids = [torch.tensor([ours.reader.read(normalised(caption)).ids]) for caption in CAPTIONS]

    def plain() -> Tensor:
        pixels = to_pixels(picture(), short_side, 1333)[None].to(network.weight)
        found = [network.net(pixel_values=pixels, input_ids=each).logits[0] for each in ids]
        return torch.stack([each.amax(dim=-1).sigmoid().sort().values for each in found])

    return lambda: torch.stack([each.scores.sort().values for each in ours.propose(picture(), CAPTIONS)]), plain


def concepts() -> Both:
    ours = load_concepts("random:0", threshold=0.0)
    phrases = [phrase for caption in CAPTIONS for phrase in caption.split(". ")]
    texts = [ours._read(phrase) for phrase in phrases]

    def plain() -> Tensor:
        size = (ours.net.config.vision_config.backbone_config.image_size,) * 2
        pixels = image_normalised(resized(picture(), size).float()[None], HALVES, HALVES)
        found = [ours.net(pixel_values=pixels, text_embeds=text, attention_mask=mask) for text, mask in texts]
        scores = [each.pred_logits[0].sigmoid() * each.presence_logits[0].sigmoid() for each in found]
        return torch.cat(scores).sort().values

    return lambda: torch.cat([each.scores for each in ours.propose(picture(), CAPTIONS)]).sort().values, plain


def refiner(name: str) -> Both:
    ours, image = load_successor(name, weights="random:0"), picture()
    corners = torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([500.0, 350])
    boxes = torch.cat([corners, corners + 120], dim=1)
    height, width = ours.input_size(image)
    inside = boxes * torch.tensor([width / 640, height / 480]).repeat(2)

    def plain() -> Tensor:
        found = ours.net(**ours.encode(image), input_boxes=inside[None], multimask_output=False)
        return ours.at_full_size(found.pred_masks[0, :, 0], image)

    return lambda: torch.cat(list(ours.outline(image).logits(boxes))), plain


def query(architecture: str) -> Both:
    config = Owlv2Config(**image_query.ARCHITECTURES[architecture])
    net = load_pretrained(Owlv2ForObjectDetection, config, "random:0", architecture)
    pictures = [picture(80, 80, seed) for seed in (1, 2, 3)]
    ours = image_query.ImageQueryGenerator(net, pictures, threshold=0.0, box_overlap=1.0)

    def plain() -> Tensor:
        target, queries = ours._pixels(picture()), [ours._pixels(each) for each in pictures]
        found = [net.image_guided_detection(target, query_pixel_values=each).logits[0] for each in queries]
        return torch.stack([each.amax(dim=-1) for each in found]).amax(dim=0).sigmoid().sort().values

    def found() -> Tensor:
        scores = ours.propose(picture(), ["any"])[0].scores.sort().values  # without those that are 0
        return F.pad(
            scores, ((config.vision_config.image_size // config.vision_config.patch_size) ** 2 - len(scores), 0)
        )

    return found, plain


def compared(part: str, short_side: int = 800, double: bool = False) -> str:
    if part.startswith("owlv2"):
        ours, plain = query(part)
    elif part == "sam3_detector":
        ours, plain = concepts()
    elif part.startswith("sam"):
        ours, plain = refiner(part)
    else:
        ours, plain = detector(part, short_side, double)
    seconds, found = [], []
    with torch.no_grad():
        for call in (ours, plain):
            start = time.process_time()
            found.append(call())
            seconds.append(time.process_time() - start)
    off = float((found[0] - found[1]).abs().max())
    return (
        f"{part:24} ours {seconds[0]:6.1f} s  plain {seconds[1]:6.1f} s  difference {off:.1e} of {found[1].std():.1e}  "
        f"{peak_mb():,.0f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", help="names of architectures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--short-side", type=int, default=800, help="of what detectors see, in pixels")
    parser.add_argument("--double", action="store_true", help="detectors in float64: what differs there is no rounding")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(machine()["processor"], f"{options.threads} thread(s)", flush=True)
    for part in options.parts:
        print(compared(part, options.short_side, options.double), flush=True)


if __name__ == "__main__":
    main()
