"""Our GroundingDINO against `groundingdino.util.inference.predict`, in the real architecture with random weights.

float64 shows that both compute the same. In float32 ours may be no farther from float64 than the package's (see
`rounding.py`). Two queries whose first guesses tie within rounding may change ranks there, and as each rank has its own
content query, every row then moves by 1e-4: so float32 is given float64's ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.grounding_dino_package import package_twin, quiet
from benchmarks.saa_detector import PROMPTS
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import (
    CaptionReader,
    CaptionTokens,
    normalised,
    spelling_reader,
    to_pixels,
)
from models.saa.generator.grounding_dino.network import GroundingDino, together
from models.saa.generator.grounding_dino.weights import ARCHITECTURES, random_network
from tests.parity.rounding import assert_no_farther

pytestmark = pytest.mark.slow
CAPTIONS = [PROMPTS[1], PROMPTS[4], PROMPTS[6]]  # 5, 11 and 5 tokens, of one and of three phrases
SIDES = {"short_side": 192, "long_side": 320}  # 24 x 36 tokens and three smaller levels: more than there are queries
THRESHOLD = 0.2
TOLERANCE = 1e-5
"""Of float64; the package computes positions in float32 whatever its dtype, which leaves 1e-6."""

Found = list[dict[str, Tensor]]


@dataclass
class Both:
    """Our network, the package's with the same weights, and what each finds in the image for every caption."""

    network: GroundingDino
    twin: nn.Module
    together: Found
    alone: Found
    package: Found
    ranks: list[Tensor]


@contextmanager
def ranked_by(ranks: list[Tensor]) -> Iterator[None]:
    """`topk` returns these indices, one after another; if there are none, those that it finds, which it appends."""
    given, topk = iter(tuple(ranks)) if ranks else None, torch.topk

    def chosen(values: Tensor, k: int, dim: int = -1) -> Any:
        indices = topk(values, k, dim).indices if given is None else next(given)
        if given is None:
            ranks.append(indices)
        return torch.return_types.topk((values.gather(dim, indices), indices))

    with mock.patch.object(torch, "topk", chosen), mock.patch.object(Tensor, "topk", chosen):
        yield


@pytest.fixture(scope="module")
def reader() -> CaptionReader:
    return spelling_reader(" ".join(PROMPTS).replace(".", "").split())


@pytest.fixture(scope="module")
def captions(reader: CaptionReader) -> list[CaptionTokens]:
    return [reader.read(normalised(caption)) for caption in CAPTIONS]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (3, 120, 180), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def run_both(
    dtype: torch.dtype, reader: CaptionReader, captions: list[CaptionTokens], image: Tensor, ranks: list[Tensor]
) -> Both:
    network = random_network(ARCHITECTURES["swint_ogc"], 0).to(dtype)
    with quiet():
        twin = package_twin(network, ARCHITECTURES["swint_ogc"], reader.tokenizer)
    pixels = to_pixels(image, **SIDES).to(dtype)
    features = [network.read(caption) for caption in captions]
    looked = network.look(pixels)
    batch, alone, package = [], [], []
    with ranked_by(ranks):
        logits, boxes = network.detect(looked, together(captions, features))
        for i, (caption, feature) in enumerate(zip(captions, features, strict=True)):
            length = len(caption.ids)
            assert (logits[i, :, length:] == float("-inf")).all()
            look = {"features": looked.features, "positions": looked.positions, "words": feature}
            batch.append({"logits": logits[i, :, :length], "boxes": boxes[i], **look})
            own_logits, own_boxes = network.detect(network.look(pixels), together([caption], [feature]))
            alone.append({"logits": own_logits[0], "boxes": own_boxes[0]})
            package.append(seen_in(twin, pixels, caption.text, length))
    return Both(network, twin, batch, alone, package, ranks)


def seen_in(twin: nn.Module, pixels: Tensor, text: str, length: int) -> dict[str, Tensor]:
    """What the package finds, and what its encoder is given of the image and of the caption."""
    seen: dict[str, Any] = {}
    handle = twin.transformer.encoder.register_forward_pre_hook(  # type: ignore[union-attr, operator]
        lambda _, args, kwargs: seen.update(kwargs, src=args[0]), with_kwargs=True
    )
    with quiet(), torch.no_grad():
        found = twin(pixels[None], captions=[text])
    handle.remove()
    return {
        "logits": found["pred_logits"][0, :, :length], "boxes": found["pred_boxes"][0],
        "features": seen["src"][0], "positions": seen["pos"][0], "words": seen["memory_text"][0],
    }  # fmt: skip


@pytest.fixture(scope="module")
def exact(reader: CaptionReader, captions: list[CaptionTokens], image: Tensor) -> Both:
    return run_both(torch.float64, reader, captions, image, [])


@pytest.fixture(scope="module")
def rounded(exact: Both, reader: CaptionReader, captions: list[CaptionTokens], image: Tensor) -> dict[str, Found]:
    both = run_both(torch.float32, reader, captions, image, exact.ranks)  # the networks themselves are not kept
    return {"together": both.together, "alone": both.alone, "package": both.package}


def test_boxes_scores_and_phrases_are_those_of_predict(exact: Both, reader: CaptionReader, image: Tensor) -> None:
    with quiet():
        from groundingdino.util.inference import predict
    generator = GroundingDinoGenerator(exact.network, reader, box_threshold=THRESHOLD, **SIDES)
    pixels = to_pixels(image, **SIDES).double()
    for caption, found in zip(CAPTIONS, generator.propose(image, CAPTIONS), strict=True):
        with quiet():
            boxes, scores, phrases = predict(exact.twin, pixels, caption, THRESHOLD, 0.1, device="cpu")
        assert 50 < len(boxes) < 900
        assert_close(found.boxes, boxes.float(), atol=TOLERANCE, rtol=0)
        assert_close(found.scores, scores.float(), atol=TOLERANCE, rtol=0)
        assert found.phrases == tuple(phrases)


@pytest.mark.parametrize("what", ["logits", "boxes", "features", "positions", "words"])
def test_what_the_network_computes_is_the_package_s(exact: Both, what: str) -> None:
    for found, expected in zip(exact.together, exact.package, strict=True):
        assert_close(found[what], expected[what], atol=TOLERANCE, rtol=0, check_dtype=False)
    assert exact.package[0]["logits"].shape[0] == len(exact.package[0]["boxes"]) == 900
    assert exact.package[0]["logits"].std() > 0.5  # not all alike


@pytest.mark.parametrize("what", ["logits", "boxes"])
def test_a_batch_is_one_caption_at_a_time(exact: Both, what: str) -> None:
    for found, alone in zip(exact.together, exact.alone, strict=True):
        assert_close(found[what], alone[what], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("way", "what"),
    [("together", "features"), ("together", "words")]
    + [(way, what) for way in ("together", "alone") for what in ("logits", "boxes")],
)
def test_float32_is_no_farther_from_float64_than_the_package_s(
    exact: Both, rounded: dict[str, Found], way: str, what: str
) -> None:
    for ours, theirs, true in zip(rounded[way], rounded["package"], exact.package, strict=True):
        assert_no_farther(ours[what], theirs[what], true[what])


def test_a_batch_of_different_captions_goes_wrong_in_the_package(
    exact: Both, captions: list[CaptionTokens], image: Tensor
) -> None:
    """Version 0.4.0 gives each caption's heads the masks of other captions; why ours does not call it with a batch."""
    pixels = to_pixels(image, **SIDES).double()
    with quiet(), torch.no_grad():
        batch = exact.twin(pixels.expand(3, -1, -1, -1), captions=[caption.text for caption in captions])
    alone = exact.package[0]["logits"]
    gap = (batch["pred_logits"][0, :, : alone.shape[1]].sigmoid() - alone.sigmoid()).abs().max()
    assert gap > 0.01
