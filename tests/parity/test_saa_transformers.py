"""SAA's parts of transformers against transformers' own processors and post-processing, with small random networks."""

import open_clip
import PIL.Image
import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_convert
from transformers import GroundingDinoImageProcessor, GroundingDinoProcessor, SamHQProcessor, SamImageProcessor

from models.saa.generator.concepts import ConceptGenerator
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import normalised, spelling_reader
from models.saa.generator.image_query import ImageQueryGenerator
from models.saa.generator.zero_shot_detector import ZeroShotDetector
from models.saa.refiner.sam.successors import SuccessorRefiner
from tests.support.sam_stand_ins import boxes_in, picture
from tests.support.transformers_stand_ins import (
    DETECTORS,
    REFINERS,
    small_concepts,
    small_detector,
    small_owlv2,
    small_refiner,
)

CAPTIONS = ["defect on bottle", "broken part. hole", "hole"]
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def as_pil(image):
    return PIL.Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_scores_and_phrases_are_those_of_the_processor(kind):
    reader = spelling_reader(["defect", "on", "bottle", "broken", "part", "hole"], as_bert=True)
    image = picture(60, 80)
    sizes = {"shortest_edge": 96, "longest_edge": 160}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(size=sizes), reader.tokenizer)
    generator = GroundingDinoGenerator(
        ZeroShotDetector(small_detector(kind)), reader, short_side=96, long_side=160, box_threshold=0
    )
    plain = small_detector(kind)
    scores = generator.propose(image, CAPTIONS[:1])[0].scores.sort().values
    generator.box_threshold = threshold = scores[9:11].mean().item()  # between two scores
    proposed = generator.propose(image, CAPTIONS)
    assert len(proposed[0]) == 30
    for caption, found in zip(CAPTIONS, proposed, strict=True):
        inputs = processor(images=as_pil(image), text=normalised(caption), return_tensors="pt")
        with torch.no_grad():
            outputs = plain(**inputs)
        expected = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=threshold, text_threshold=0.1, target_sizes=[(60, 80)]
        )[0]
        assert len(found) > 0
        boxes = box_convert(found.boxes, "cxcywh", "xyxy") * torch.tensor([80, 60, 80, 60])
        assert_close(boxes / 80, expected["boxes"] / 80, **TOLERANCE)
        assert_close(found.scores, expected["scores"], **TOLERANCE)
        theirs = [phrase.replace(".", "").strip() for phrase in expected["text_labels"]]
        assert [phrase.removeprefix("[CLS]").strip() for phrase in found.phrases] == theirs


def test_sam_hq_masks_are_those_of_the_processor():
    net, image, boxes = small_refiner("sam_hq"), picture(48, 64), boxes_in(48, 64, 5)
    side = {"longest_edge": 64}
    processor = SamHQProcessor(SamImageProcessor(size=side, pad_size={"height": 64, "width": 64}))
    processor.target_size = 64
    inputs = processor(images=as_pil(image), input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        low = net(inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False).pred_masks
    expected = processor.image_processor.post_process_masks(
        low, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False,
        pad_size={"height": 64, "width": 64},
    )[0][:, 0]  # fmt: skip
    found = torch.cat(list(SuccessorRefiner(net).outline(image).logits(boxes)))
    assert_close(found, expected.float(), **TOLERANCE)


@pytest.mark.parametrize("kind", [kind for kind in REFINERS if kind != "sam_hq"])
def test_sam2_and_sam3_masks_are_those_of_the_processor(kind):
    size = {"height": 64, "width": 64}
    if kind == "sam2":
        from transformers import Sam2ImageProcessorFast, Sam2Processor  # another name in transformers 5

        processor = Sam2Processor(Sam2ImageProcessorFast(size=size), target_size=64)
    else:
        from transformers import Sam3ImageProcessor, Sam3TrackerProcessor

        processor = Sam3TrackerProcessor(Sam3ImageProcessor(size=size), target_size=64)
    net, image, boxes = small_refiner(kind), picture(64, 64), boxes_in(64, 64, 5)
    inputs = processor(images=as_pil(image), input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        low = net(inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False).pred_masks
    expected = processor.post_process_masks(low, inputs["original_sizes"], binarize=False)[0][:, 0]
    found = torch.cat(list(SuccessorRefiner(net).outline(image).logits(boxes)))
    assert_close(found, expected, **TOLERANCE)


@pytest.mark.skipif("sam3" not in REFINERS, reason="SAM 3 comes with transformers 5")
def test_boxes_of_sam3s_detector_are_those_of_the_processor():
    from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3Processor

    net, image, vocabulary = small_concepts(), picture(64, 64), open_clip.SimpleTokenizer(context_length=32)
    pieces = [*[*vocabulary.encoder][:-2], "<|startoftext|>", "<|endoftext|>"]  # CLIP's own names of these
    tokenizer = CLIPTokenizer(
        vocab=dict(zip(pieces, range(len(pieces)), strict=True)), merges=list(vocabulary.bpe_ranks)
    )
    processor = Sam3Processor(Sam3ImageProcessor(size={"height": 64, "width": 64}), tokenizer)
    generator = ConceptGenerator(net, threshold=0)
    scores = generator.propose(image, CAPTIONS[2:])[0].scores.sort().values
    generator.threshold = threshold = scores[4:6].mean().item()  # between two scores
    for caption, found in zip(["defect on bottle", "hole"], generator.propose(image, CAPTIONS[::2]), strict=True):
        inputs = processor(images=as_pil(image), text=caption, return_tensors="pt")
        with torch.no_grad():
            outputs = net(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
        expected = processor.post_process_object_detection(outputs, threshold, target_sizes=[(64, 64)])[0]
        order = expected["scores"].argsort(descending=True)
        assert len(found) == len(order) > 0
        assert_close(found.scores, expected["scores"][order], **TOLERANCE)
        assert_close(box_convert(found.boxes, "cxcywh", "xyxy"), expected["boxes"][order] / 64, **TOLERANCE)
        assert found.phrases == (caption,) * len(found)


def test_queries_score_as_in_image_guided_detection():
    net, image = small_owlv2(), picture(50, 80)
    pictures = [picture(20, 30, seed=3), picture(30, 12, seed=4)]
    generator = ImageQueryGenerator(net, pictures, threshold=0, box_overlap=1.0)
    with torch.no_grad():
        outputs = [
            net.image_guided_detection(generator._pixels(image), query_pixel_values=generator._pixels(each))
            for each in pictures
        ]
    scores = torch.stack([each.logits[0].amax(dim=-1) for each in outputs]).amax(dim=0).sigmoid()
    found = generator.propose(image, ["hole"])[0]
    order = scores.argsort(descending=True)
    assert_close(found.scores, scores[order], **TOLERANCE)
    square = outputs[0].target_pred_boxes[0] * torch.tensor([1, 80 / 50, 1, 80 / 50])
    assert_close(found.boxes.sort(dim=0).values, square.sort(dim=0).values, **TOLERANCE)
