"""Our GroundingDINO against `groundingdino.util.inference.predict`, in the real architecture with random weights.

float64 shows that both compute the same. In float32 queries whose first guesses tie within rounding may change places
and then differ as queries do, on either side; so there one box in a hundred may have no equal.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks.grounding_dino_package import package_twin, quiet, unlike
from benchmarks.saa_detector import PROMPTS
from models.saa.generator import GroundingDinoGenerator
from models.saa.grounding_dino_build import ARCHITECTURES, random_network
from models.saa.grounding_dino_captions import CaptionReader, normalised, spelling_reader
from models.saa.grounding_dino_network import GroundingDino, together
from models.saa.grounding_dino_pixels import to_pixels

pytestmark = pytest.mark.slow
CAPTIONS = [PROMPTS[1], PROMPTS[4], PROMPTS[6]]  # 5, 11 and 5 tokens, of one and of three phrases
SIDES = {"short_side": 192, "long_side": 320}  # 24 x 36 tokens and three smaller levels: more than there are queries
THRESHOLD = 0.2
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reader() -> CaptionReader:
    return spelling_reader(" ".join(PROMPTS).replace(".", "").split())


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def both(request: pytest.FixtureRequest, reader: CaptionReader) -> Iterator[tuple[GroundingDino, Any]]:
    """Our network and the package's with the same weights."""
    network = random_network(ARCHITECTURES["swint_ogc"], 0).to(request.param)
    with quiet():
        yield network, package_twin(network, ARCHITECTURES["swint_ogc"], reader.tokenizer)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (3, 120, 180), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def generator_of(network: GroundingDino, reader: CaptionReader, **settings: Any) -> GroundingDinoGenerator:
    return GroundingDinoGenerator(network, reader, box_threshold=THRESHOLD, **SIDES, **settings)


def share_of_equal_rows(found: Tensor, expected: Tensor) -> float:
    """Of (Q, n) rows, how many are equal to the tolerance."""
    return float(((found - expected).abs().amax(dim=1) <= TOLERANCE).double().mean())


def test_boxes_scores_and_phrases_are_those_of_predict(
    both: tuple[GroundingDino, Any], reader: CaptionReader, image: Tensor
) -> None:
    with quiet():
        from groundingdino.util.inference import predict
    network, twin = both
    dtype = network.feat_map.weight.dtype
    pixels = to_pixels(image, **SIDES).to(dtype)
    for caption, found in zip(CAPTIONS, generator_of(network, reader).propose(image, CAPTIONS), strict=True):
        with quiet():
            boxes, scores, phrases = predict(twin, pixels, caption, THRESHOLD, 0.1, device="cpu")
        assert 50 < len(boxes) < 900
        if dtype == torch.float64:
            assert_close(found.boxes, boxes.float(), atol=TOLERANCE, rtol=0)
            assert_close(found.scores, scores.float(), atol=TOLERANCE, rtol=0)
            assert found.phrases == tuple(phrases)
        different, number, _ = unlike(found, (boxes, scores, phrases))
        assert different <= 0.01 * number


def test_raw_logits_and_boxes_are_the_package_s(
    both: tuple[GroundingDino, Any], reader: CaptionReader, image: Tensor
) -> None:
    network, twin = both
    pixels = to_pixels(image, **SIDES).to(network.feat_map.weight)
    captions = [reader.read(normalised(caption)) for caption in CAPTIONS]
    logits, boxes = network.detect(network.look(pixels), together(captions, [network.read(c) for c in captions]))
    least = 1.0 if pixels.dtype == torch.float64 else 0.99
    for i, caption in enumerate(captions):
        with quiet(), torch.no_grad():
            expected = twin(pixels[None], captions=[caption.text])
        length = len(caption.ids)
        assert boxes.shape[1:] == (900, 4)
        assert share_of_equal_rows(logits[i, :, :length], expected["pred_logits"][0, :, :length]) >= least
        assert share_of_equal_rows(boxes[i], expected["pred_boxes"][0]) >= least
        assert expected["pred_logits"][0, :, :length].std() > 0.5  # not all alike


def test_a_batch_is_one_caption_at_a_time(
    both: tuple[GroundingDino, Any], reader: CaptionReader, image: Tensor
) -> None:
    network, _ = both
    captions = [reader.read(normalised(caption)) for caption in CAPTIONS]
    features = [network.read(caption) for caption in captions]
    pixels = to_pixels(image, **SIDES).to(network.feat_map.weight)
    looked = network.look(pixels)
    logits, boxes = network.detect(looked, together(captions, features))
    least = 1.0 if pixels.dtype == torch.float64 else 0.99
    for i, (caption, feature) in enumerate(zip(captions, features, strict=True)):
        alone = network.detect(network.look(pixels), together([caption], [feature]))  # its own look at the image
        length = len(caption.ids)
        assert share_of_equal_rows(logits[i, :, :length], alone[0][0]) >= least
        assert share_of_equal_rows(boxes[i], alone[1][0]) >= least
        assert (logits[i, :, length:] == float("-inf")).all()


def test_the_shared_look_is_the_package_s_backbone(
    both: tuple[GroundingDino, Any], reader: CaptionReader, image: Tensor
) -> None:
    network, twin = both
    pixels = to_pixels(image, **SIDES).to(network.feat_map.weight)
    seen: dict[str, Any] = {}
    handle = twin.transformer.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs, src=args[0]), with_kwargs=True
    )
    with quiet(), torch.no_grad():
        twin(pixels[None], captions=[normalised(CAPTIONS[0])])
    handle.remove()
    looked = network.look(pixels)
    assert_close(looked.features, seen["src"][0])
    assert_close(looked.positions, seen["pos"][0], check_dtype=False)
    assert [list(shape) for shape in looked.levels.shapes] == seen["spatial_shapes"].tolist()
    caption = reader.read(normalised(CAPTIONS[0]))
    assert_close(network.read(caption), seen["memory_text"][0])


def test_a_batch_of_different_captions_goes_wrong_in_the_package(
    both: tuple[GroundingDino, Any], reader: CaptionReader, image: Tensor
) -> None:
    """Version 0.4.0 gives each caption's heads the masks of other captions; why ours does not call it with a batch."""
    network, twin = both
    if network.feat_map.weight.dtype != torch.float64:
        pytest.skip("shown in float64")
    pixels = to_pixels(image, **SIDES).double()
    texts = [normalised(caption) for caption in CAPTIONS]
    with quiet(), torch.no_grad():
        batch = twin(pixels.expand(3, -1, -1, -1), captions=texts)
        alone = twin(pixels[None], captions=texts[:1])
    length = len(reader.read(texts[0]).ids)
    gap = (batch["pred_logits"][0, :, :length].sigmoid() - alone["pred_logits"][0, :, :length].sigmoid()).abs().max()
    assert gap > 0.01
