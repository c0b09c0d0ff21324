"""Parts that lie turned: the references' turned views join where the references say that it helps, and only there."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from models.clip_adapter.turns import TURNS, turned, turning_gain
from tests.support.clip_stand_ins import random_images, small_model


def test_the_seven_other_ways_of_a_square_are_all_different():
    image = torch.arange(12.0).view(1, 3, 2, 2)
    views = turned(image)
    assert views.shape == (len(TURNS), 3, 2, 2)
    assert len({tuple(view.flatten().tolist()) for view in [image[0], *views]}) == 8


def tokens_of(images):
    return functional.normalize(images.flatten(2).transpose(1, 2) - 0.5, dim=-1)


def scene(seed=0):
    return functional.interpolate(torch.rand(1, 24, 4, 4, generator=torch.Generator().manual_seed(seed)), size=8)


def test_turned_parts_gain_and_parts_that_lie_alike_do_not():
    part = scene()
    alike = part.expand(4, -1, -1, -1) + 0.02 * torch.rand(4, 24, 8, 8)
    lying = torch.cat([torch.rot90(image[None], i, (2, 3)) for i, image in enumerate(alike)])
    # The content of a patch turns with the part: channels come in fours, one for each quarter.
    lying = torch.cat([image.unflatten(0, (6, 4)).roll(i, 1).flatten(0, 1)[None] for i, image in enumerate(lying)])

    def views(images):
        turned_back = [torch.rot90(images.flip(-1) if flip else images, k, (2, 3)) for k, flip in TURNS]
        return torch.cat(
            [
                each.unflatten(1, (6, 4)).roll(k, 2).flatten(1, 2)
                for each, (k, _) in zip(turned_back, TURNS, strict=True)
            ]
        )

    gain = {name: turning_gain(tokens_of(images), tokens_of(views(images))) for name, images in
            (("alike", alike), ("lying", lying))}  # fmt: skip
    assert gain["lying"] > 0.5
    assert gain["alike"] < 0.1


def test_one_reference_cannot_tell():
    assert turning_gain(tokens_of(scene()), tokens_of(turned(scene()))) == 0


@pytest.mark.parametrize("kind", ["timm", "vit"])
def test_a_turned_reference_is_left_out_with_all_its_views(kind):
    """Left out, a reference scores as a test image of the others, whose turned views are remembered too."""
    images = random_images(3, small_model(kind).backbone.image_size)
    options = {"turns": 1e-9, "memory_score_weight": 0.5, "memory_score_map": "memory"}
    model = small_model(kind, **options)
    model.fit(images, "nut")
    left_out = model.reference_prediction("nut").anomaly_maps
    for i in range(3):
        others = small_model(kind, **options)
        others.fit(images[[j for j in range(3) if j != i]], "nut")
        assert_close(others.predict(images[i : i + 1], ["nut"]).anomaly_maps[0], left_out[i], atol=1e-3, rtol=1e-3)


def test_a_turned_copy_of_a_reference_is_normal_where_turns_count():
    plain, turning = small_model("timm"), small_model("timm", turns=1e-9)
    images = random_images(2, plain.backbone.image_size)
    for model in (plain, turning):
        model.fit(images, "nut")
    seen = torch.rot90(images[:1], 1, (2, 3))
    memory = [model.predict(seen, ["nut"]).anomaly_maps - small_model("timm").predict(seen, ["nut"]).anomaly_maps for
              model in (plain, turning)]  # fmt: skip
    assert_close(memory[1], torch.zeros_like(memory[1]), atol=1e-4, rtol=0)
    assert memory[0].mean() > 0.01
