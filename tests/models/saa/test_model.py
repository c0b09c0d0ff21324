"""The assembly with parts whose answers are known: both protocols against a slow one, and switch by switch."""

import logging
import math

import numpy as np
import PIL.Image
import pytest
import torch
from torch.testing import assert_close

from models.base import Prediction
from models.errors import ModelInputError
from models.saa.language import PromptBook, PromptChoice
from models.saa.model import SAA
from models.saa.rules import Rules
from tests.support.clip_stand_ins import PROMPTS
from tests.support.saa_stand_ins import (
    BOOK,
    BoxRefiner,
    ColourFeatures,
    GridGenerator,
    ScriptedGenerator,
    proposals,
    small_saa,
)

NUT = {"captions": [["scratch", "dent"]], "top_k": 3, "area_share": 0.5}
NUTS = PromptBook(source="test", general=("defect on {}",), products={"nut": NUT})
OBJECT = (0.5, 0.5, 0.8, 0.8, 0.9)
GENERAL_BOXES = [
    (0.3, 0.3, 0.2, 0.2, 0.6),
    (0.5, 0.5, 0.79, 0.79, 0.8),
    (0.35, 0.3, 0.2, 0.2, 0.5),
    (0.05, 0.05, 0.08, 0.08, 0.7),
]
SPECIFIC_BOXES = [(0.7, 0.6, 0.3, 0.1, 0.4), (0.3, 0.35, 0.1, 0.3, 0.65), (0.6, 0.7, 0.1, 0.1, 0.2)]


def picture(size=(40, 40), seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)


def script(object_caption="nut") -> ScriptedGenerator:
    return ScriptedGenerator(
        {
            object_caption: proposals(OBJECT, (0.1, 0.1, 0.1, 0.1, 0.3)),
            "defect on nut": proposals(*GENERAL_BOXES),
            "scratch. dent": proposals(*SPECIFIC_BOXES),
        }
    )


def rectangle(box, size):
    """The pixels of a box (cx, cy, w, h) whose centres lie in it."""
    cx, cy, w, h = box[:4]
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (abs(x / size[1] - cx) < w / 2) & (abs(y / size[0] - cy) < h / 2)


def slow_saa_plus(saliency, size, released, product=NUT):
    """Both protocols, a box at a time; `saliency` as the model's own part gives it."""
    kept = []
    item = rectangle(OBJECT, size)
    for cx, cy, w, h, score in GENERAL_BOXES + SPECIFIC_BOXES:
        mask = rectangle((cx, cy, w, h), size)
        if released:
            if not 0 < w * h < OBJECT[2] * OBJECT[3] * product["area_share"]:
                continue
        elif (
            not 0 < mask.sum() < item.sum() * product["area_share"] or not (mask & item).sum() / (mask | item).sum() > 0
        ):
            continue
        mean = saliency[mask].mean() if mask.any() else 0.0
        kept.append((score * math.exp((3 if released else 1) * mean), mask))
    best = sorted(kept, key=lambda region: -region[0])[: product["top_k"] if released else 5]
    total = sum(score * mask for score, mask in best)
    weight = (1 if released else 0) + sum(mask.astype(float) for _, mask in best)
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), 0), best


@pytest.mark.parametrize("rules", ["paper", "released"])
@pytest.mark.parametrize("size", [(40, 40), (40, 60)])
def test_both_protocols_equal_the_slow_one(rules, size):
    image = picture(size)
    released = rules == "released"
    model = small_saa(script("nut," if released else "nut"), prompts=NUTS, rules=rules)
    prediction = model.predict([image], ["nut"])
    saliency = model.saliency_map(image.flip(0) if released else image).double().numpy()
    expected, best = slow_saa_plus(saliency, size, released)
    resized = torch.nn.functional.interpolate(torch.from_numpy(expected)[None, None], (40, 40), mode="bilinear")[0, 0]
    assert_close(prediction.anomaly_maps[0], resized.float(), rtol=1e-5, atol=1e-6)
    assert 0 < len(best) < len(GENERAL_BOXES + SPECIFIC_BOXES)
    highest = best[0][0]
    assert_close(prediction.scalars["region_confidence"], torch.tensor([highest], dtype=torch.float32))
    assert_close(prediction.image_scores, torch.tensor([highest / (1 + highest)], dtype=torch.float32))


def test_the_plain_assembly_is_the_mean_of_all_regions_of_one_prompt():
    generator = ScriptedGenerator({"anomaly": proposals(*GENERAL_BOXES)})
    model = small_saa(generator, prompts=NUTS, language="naive", property=False, saliency=False, confidence=False)
    got = model.predict([picture()], ["nut"])
    masks = np.stack([rectangle(box, (40, 40)) for box in GENERAL_BOXES])
    scores = np.array([box[4] for box in GENERAL_BOXES])
    expected = (masks * scores[:, None, None]).sum(0) / np.maximum(masks.sum(0), 1)
    assert_close(got.anomaly_maps[0], torch.from_numpy(expected).float())
    assert generator.asked == [["anomaly"]], "no pass for the object, which nothing needs"


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("both", ["defect on nut", "scratch. dent"]),
        ("general", ["defect on nut"]),
        ("specific", ["scratch. dent"]),
        ("naive", ["anomaly"]),
    ],
)
def test_language_prompts_can_be_switched_off_apart(language, expected):
    generator = script()
    small_saa(generator, prompts=NUTS, language=language).predict([picture()], ["nut"])
    assert generator.asked == [["nut", *expected]]


@pytest.mark.parametrize("word", ["property", "saliency", "confidence"])
@pytest.mark.parametrize("rules", ["paper", "released"])
def test_each_other_prompt_can_be_switched_off_by_one_word(word, rules):
    own = "nut," if rules == "released" else "nut"
    options = {"prompts": PromptBook("test", ("defect on {}",), {"nut": {**NUT, "top_k": 2}}), "rules": rules,
               "switches": {"top_k": 2}}  # fmt: skip
    whole = small_saa(script(own), **options).predict([picture()], ["nut"])
    without = small_saa(script(own), **options, **{word: False}).predict([picture()], ["nut"])
    assert (whole.anomaly_maps - without.anomaly_maps).abs().max() > 0.01


def test_blue_and_red_are_swapped_for_refiner_and_saliency_only():
    image = picture()
    generator, refiner = script("nut,"), BoxRefiner()
    model = small_saa(generator, refiner, NUTS, rules="released")
    seen = []
    model.saliency_map.net.features = lambda images, size: (
        seen.append(images) or ColourFeatures().features(images, size)
    )
    model.predict([image], ["nut"])
    assert torch.equal(generator.images[0], image)
    assert torch.equal(refiner.images[0], image.flip(0))
    assert torch.equal(seen[0][0], image.flip(0))


def test_objects_are_outlined_only_where_that_is_used():
    refiner = BoxRefiner()
    released = small_saa(script("nut,"), refiner, NUTS, rules="released", confidence=False)
    released.predict([picture()], ["nut"])
    small = [box for box in GENERAL_BOXES + SPECIFIC_BOXES if box[2] * box[3] < 0.32]
    assert refiner.outlined == len(small)
    refiner = BoxRefiner()
    small_saa(script(), refiner, NUTS, confidence=False).predict([picture()], ["nut"])
    assert refiner.outlined == len(GENERAL_BOXES + SPECIFIC_BOXES) + 1, "the paper's filter compares outlines"


def test_regions_that_cannot_matter_are_not_outlined():
    boxes = [(0.1 + 0.0002 * n, 0.5, 0.1, 0.1, 1 / (n + 1)) for n in range(3000)]
    refiner = BoxRefiner()
    generator = ScriptedGenerator({"defect on nut": proposals(*boxes)})
    lazy = small_saa(generator, refiner, NUTS, language="general").predict([picture()], ["nut"])
    assert refiner.outlined < 200
    everything = small_saa(generator, BoxRefiner(), NUTS, language="general", switches={"exponent": 1000.0})
    assert lazy.anomaly_maps.max() > 0
    assert everything.predict([picture()], ["nut"]).anomaly_maps.isfinite().all()


def test_a_box_that_names_the_object_is_dropped_in_the_published_way_only():
    named = proposals((0.3, 0.3, 0.2, 0.2, 0.6), (0.6, 0.6, 0.1, 0.1, 0.5), phrases=["defect nut", "defect"])
    for rules, expected in (("paper", 2), ("released", 1)):
        refiner = BoxRefiner()
        generator = ScriptedGenerator({"defect on nut": named})
        small_saa(generator, refiner, NUTS, rules=rules, language="general").predict([picture()], ["nut"])
        assert refiner.outlined == expected, rules


def nuts_in_view(rules="released", **changes):
    """Three bodies, one of them of another colour, and a box on each."""
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    middles = [(0.25, 0.25, 0.3, 0.3), (0.75, 0.25, 0.3, 0.3), (0.5, 0.75, 0.3, 0.3)]
    for number, (cx, cy, w, h) in enumerate(middles):
        rows, columns = (slice(round((c - e / 2) * 64), round((c + e / 2) * 64)) for c, e in ((cy, h), (cx, w)))
        image[:, rows, columns] = torch.tensor([200, 60, 60] if number == 2 else [60, 60, 200])[:, None, None].byte()
    generator = ScriptedGenerator({
        "nut,": proposals(*[(*middle, 0.5) for middle in middles]),
        "defect on nut": proposals(*[(cx, cy, 0.1, 0.1, 0.5) for cx, cy, *_ in middles]),
    })  # fmt: skip
    book = PromptBook("test", ("defect on {}",), {"nut": {"count": 3, **changes}})
    return small_saa(generator, prompts=book, rules=rules), image


def test_several_objects_are_compared_with_each_other():
    model, image = nuts_in_view()
    row = model.predict([image], ["nut"]).anomaly_maps[0]
    odd, usual = row[30, 20], row[10, 10]
    assert odd > 1.1 * usual
    assert_close(usual, torch.tensor(0.25), msg="the alike ones keep their score of 0.5, halved by the denominator")
    single, image = nuts_in_view(count=1)
    alone = single.predict([image], ["nut"]).anomaly_maps[0]
    assert (alone - row).abs().max() > 0.01


def test_duplicates_are_merged_on_demand():
    boxes = [(0.3, 0.3, 0.2, 0.2, 0.9 - 0.1 * n) for n in range(3)] + [(0.7, 0.7, 0.2, 0.2, 0.3)]
    generator = ScriptedGenerator({"defect on nut": proposals(*boxes)})
    options = {"prompts": NUTS, "language": "general", "saliency": False, "switches": {"top_k": 2}}
    kept = small_saa(generator, **options).predict([picture()], ["nut"]).anomaly_maps[0]
    merged = small_saa(generator, merge_overlap=0.9, **options).predict([picture()], ["nut"]).anomaly_maps[0]
    assert_close(kept[12, 12], torch.tensor(0.85))
    assert kept[28, 28] == 0, "duplicates of the first box took both places"
    assert_close(merged[12, 12], torch.tensor(0.9))
    assert_close(merged[28, 28], torch.tensor(0.3))


def test_dense_saliency_ranks_all_pixels_and_lifts_none_into_a_region():
    plain = small_saa(script(), prompts=NUTS).predict([picture()], ["nut"]).anomaly_maps[0]
    dense = small_saa(script(), prompts=NUTS, dense_saliency=0.1).predict([picture()], ["nut"]).anomaly_maps[0]
    inside = plain > 0
    assert len(plain[~inside].unique()) == 1
    assert len(dense[~inside].unique()) > 100
    assert dense[~inside].max() < dense[inside].min()


def test_the_image_score_is_the_best_confidence_blended_with_saliency():
    image = picture()
    model = small_saa(script(), prompts=NUTS, score_saliency=0.25)
    x = model.predict([image], ["nut"]).scalars["region_confidence"]
    pixels = model.saliency_map(image).flatten().sort(descending=True).values
    top = pixels[: round(0.01 * len(pixels))].mean()
    expected = 0.75 * x / (1 + x) + 0.25 * top
    assert_close(model.predict([image], ["nut"]).image_scores, expected)


def test_the_source_that_agrees_with_the_saliency_is_chosen():
    """The source whose boxes lie on the odd patch wins, whatever it scores."""
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    image[:, 24:32, 24:32] = torch.tensor([250, 20, 20], dtype=torch.uint8)[:, None, None]
    right = PromptBook("right", ("spot",))
    wrong = PromptBook("wrong", ("speck",))
    generator = ScriptedGenerator(
        {"spot": proposals((0.7, 0.7, 0.2, 0.2, 0.3)), "speck": proposals((0.2, 0.2, 0.2, 0.2, 0.9))}
    )
    for sources in ({"a": right, "b": wrong}, {"a": wrong, "b": right}):
        model = small_saa(generator, prompts=PromptChoice(sources))
        chosen = model.predict([image], ["nut"]).anomaly_maps[0]
        expected = small_saa(generator, prompts=right).predict([image], ["nut"]).anomaly_maps[0]
        assert_close(chosen, expected)
        assert generator.asked[-2][1:] == ([book.general[0] for book in sources.values()]), "one pass for all sources"


def test_references_replace_the_image_itself():
    model = small_saa(script(), prompts=NUTS, dense_saliency=0.1)
    image, others = picture(), [picture(seed=1), picture((30, 50), seed=2)]
    model.fit([image, *others], "nut")
    known = model.predict([image], ["nut"])
    unknown = model.predict([picture(seed=9)], ["nut"])
    assert_close(known.scalars["region_confidence"][0], torch.tensor(0.65), rtol=1e-4, atol=1e-4)
    assert unknown.scalars["region_confidence"] > 1.001 * known.scalars["region_confidence"]
    left_out = model.reference_prediction("nut")
    model.fit(others, "nut")
    assert_close(left_out.anomaly_maps[0], model.predict([image], ["nut"]).anomaly_maps[0])


MANY = [(0.5, n / 3000, 0.1, 0.1, 0.4 + n / 9000) for n in range(3000)]
AWKWARD = {
    "no box": (ScriptedGenerator({"nut": proposals(OBJECT)}), (40, 40)),
    "no object": (ScriptedGenerator({"defect on nut": proposals(*GENERAL_BOXES)}), (40, 40)),
    "nothing at all": (ScriptedGenerator({}), (40, 40)),
    "a box outside the image": (ScriptedGenerator({"defect on nut": proposals((1.5, -0.5, 0.2, 0.2, 0.5))}), (40, 40)),
    "a box of no area": (ScriptedGenerator({"defect on nut": proposals((0.5, 0.5, 0.0, 0.0, 0.5))}), (40, 40)),
    "a region of one pixel": (
        ScriptedGenerator({"defect on nut": proposals((0.5, 0.5, 0.003, 0.003, 0.5))}),
        (400, 400),
    ),
    "3,000 boxes": (
        ScriptedGenerator({"defect on nut": proposals(*MANY)}),
        (40, 40),
    ),
    "a strip": (GridGenerator(), (40, 400)),
    "a high strip": (GridGenerator(), (400, 40)),
    "one pixel": (GridGenerator(), (1, 1)),
    "a flat picture": (GridGenerator(), (30, 50)),
}  # fmt: skip


def assert_finite(prediction: Prediction, count: int = 1) -> None:
    assert prediction.anomaly_maps.shape == (count, 40, 40)
    assert prediction.anomaly_maps.dtype == prediction.image_scores.dtype == torch.float32
    assert prediction.anomaly_maps.isfinite().all()
    assert prediction.image_scores.isfinite().all()
    assert ((prediction.image_scores >= 0) & (prediction.image_scores < 1)).all()


@pytest.mark.parametrize(("rules", "count"), [("paper", 1), ("released", 1), ("released", 4)])
@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_input_gives_a_finite_map(case, rules, count):
    generator, size = AWKWARD[case]
    image = torch.full((3, *size), 128, dtype=torch.uint8) if case == "a flat picture" else picture(size)
    book = PromptBook("test", ("defect on {}",), {"nut": {"count": count}})
    model = small_saa(generator, prompts=book, rules=rules, dense_saliency=0.1, score_saliency=0.5)
    assert_finite(model.predict([image], ["nut"]))
    model.fit([picture(size, seed=1)], "nut")
    assert_finite(model.predict([image], ["nut"]))
    assert_finite(model.reference_prediction("nut"))


@pytest.mark.slow
def test_a_large_photo_at_its_own_size():
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8))
    model = small_saa(script("nut,"), prompts=NUTS, rules="released")
    image = model.preprocess(photo)
    assert image.shape == (3, 3000, 4000)
    assert_finite(model.predict([image], ["nut"]))


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("models.saa")]


@pytest.mark.parametrize(
    ("answers", "count", "message"),
    [
        ({}, 1, "nut: no region left of 0 boxes"),
        ({"defect on nut": proposals((0.5, 0.5, 0.99, 0.99, 0.5))}, 1, "nut: no region left of 1 boxes"),
        ({"defect on nut": proposals(*GENERAL_BOXES)}, 1, "nut: no object found"),
        ({"nut,": proposals((0.3, 0.3, 0.2, 0.2, 0.9)), "defect on nut": proposals(*GENERAL_BOXES)}, 4,
         "nut: 4 objects expected, 1 found"),
        ({"nut,": proposals((0.3, 0.3, 0.001, 0.001, 0.9), (0.6, 0.6, 0.001, 0.001, 0.9)),
          "defect on nut": proposals(*GENERAL_BOXES)}, 4, "too small"),
    ],
)  # fmt: skip
def test_what_is_missing_is_a_warning_once(answers, count, message, caplog):
    book = PromptBook("test", ("defect on {}",), {"nut": {"count": count}})
    model = small_saa(ScriptedGenerator(answers), prompts=book, rules="released")
    with caplog.at_level(logging.INFO):
        model.predict([picture(), picture(seed=1), picture((30, 50))], ["nut"] * 3)
    assert len([text for text in said(caplog) if message in text]) == (3 if message == "too small" else 1)


def test_grey_and_transparent_pictures_and_palettes_become_rgb():
    preprocess = small_saa().preprocess
    for mode in ("L", "RGBA", "P", "1", "I;16"):
        image = preprocess(PIL.Image.new(mode, (50, 40)))
        assert image.shape == (3, 40, 50)
        assert image.dtype == torch.uint8


def test_sizes_are_kept_or_the_long_side_is_capped():
    photo = PIL.Image.new("RGB", (300, 100))
    assert small_saa(rules="released").preprocess(photo).shape == (3, 100, 300)
    assert small_saa(switches={"max_side": 150}).preprocess(photo).shape == (3, 50, 150)
    assert small_saa(switches={"max_side": 10}).preprocess(PIL.Image.new("RGB", (300, 1))).shape == (3, 1, 10)
    assert Rules.paper().max_side == 1333


def test_images_of_several_sizes_in_one_call():
    model = small_saa()
    images = [picture((40, 60)), picture((30, 30), seed=1)]
    together = model.predict(images, ["nut", "bolt"])
    for number, category in enumerate(["nut", "bolt"]):
        alone = model.predict([images[number]], [category])
        assert_close(together.anomaly_maps[number], alone.anomaly_maps[0])
        assert_close(together.image_scores[number], alone.image_scores[0])


def test_the_protocol_says_which_rules_prompts_and_parts():
    label = small_saa(rules="released", switches={"bgr": False}, language="general").protocol
    assert label["method"] == "SAA+"
    assert label["rules"] == "released with bgr=False"
    assert (label["language"], label["prompts"]) == ("general", "test prompts")
    assert (label["generator"], label["refiner"], label["saliency_features"]) == ("grid", "the box", "colours")
    assert "farthest" in label["saliency"]
    plain = small_saa(language="naive", property=False, saliency=False, confidence=False).protocol
    assert plain["method"] == "SAA"
    assert plain["language"] == "naive"
    assert small_saa(saliency=False, property=False).protocol["method"] == "SAA+ without P^P property, P^S saliency"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "all"}, "language to be one of both"),
        ({"rules": "published"}, "rules to be one of|rule to be"),
        ({"switches": {"color": True}}, "switches among"),
        ({"dense_saliency": -1}, "dense_saliency to be at least 0"),
        ({"score_saliency": 2}, "score_saliency to be between 0 and 1"),
        ({"map_size": 0}, "map_size"),
        ({"merge_overlap": 0}, "merge_overlap"),
        ({"prompts": PROMPTS}, "prompts=saa_general"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ModelInputError, match=message):
        small_saa(**options)


def test_weights_without_parts_are_refused_with_the_way_out():
    saliency = small_saa().saliency_map
    with pytest.raises(ModelInputError, match=r"generator to be a built part.*weights=tiny"):
        SAA(None, BoxRefiner(), saliency, BOOK)


def test_one_category_for_each_image():
    for categories in ("nut", ["nut", "bolt"]):
        with pytest.raises(ModelInputError, match="one category for each of 1 images"):
            small_saa().predict([picture()], categories)
