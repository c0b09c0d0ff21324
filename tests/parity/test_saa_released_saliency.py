"""Both rules of the saliency at real sizes, WideResNet50 with seeded random weights, against full sorts.

From the same features, in float64: what the network's own rounding does is not looked at.
"""

import cv2
import numpy as np
import pytest
import torch

from models.saa.saliency.features import load_wide_resnet
from models.saa.saliency.prompt import Saliency
from tests.support.sam_stand_ins import picture

pytestmark = pytest.mark.slow


class InFloat64:
    """The features of a net, in float64."""

    def __init__(self, net):
        self.net, self.antialias = net, net.antialias

    def features(self, images, size):
        return self.net.features(images, size).double()


@pytest.fixture(scope="module")
def net():
    return InFloat64(load_wide_resnet("random:0"))


def rows_of(net, image, size, rule="released"):
    if rule == "released":  # as the published code shows it to the net
        shown = cv2.resize(image.permute(1, 2, 0).numpy(), (size, size), interpolation=cv2.INTER_LINEAR)
        image = torch.from_numpy(shown).permute(2, 0, 1)
    maps = net.features(image[None], size)[0].flatten(1).t()
    return (maps / maps.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize(("rule", "scale"), [("paper", 1.0), ("released", 0.5)])
def test_single_instance_over_4096_patches(net, rule, scale):
    image = picture(64, 64)  # of the grid's size, which upsampling leaves alone
    rows = rows_of(net, image, 256, rule)
    assert len(rows) == 4096
    distances = np.sort(scale * (1 - rows @ rows.T), axis=1)
    expected = distances[:, :-401:-1].mean(axis=1) if rule == "released" else distances[:, 1:401].mean(axis=1)
    got = Saliency(net, rule=rule)(image).flatten().numpy()
    assert expected.std() > 1e-4
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_several_instances_over_16384_patches(net):
    """The published code's way: an instance's own features are zeroed in a copy, then it meets all others."""
    image, objects = picture(128, 128), torch.zeros(3, 128, 128, dtype=torch.bool)
    objects[0, 5:40, 10:60], objects[1, 70:110, 60:95], objects[2, 30:60, 50:80] = True, True, True
    rows, members = rows_of(net, image, 512), objects.flatten(1).numpy()
    expected = np.zeros(len(rows))
    for own in range(3):
        left = rows * ~members[own][:, None]
        others = np.concatenate([left[members[other]] for other in range(3) if other != own])
        distance = 0.5 * (1 - (rows[members[own]] @ others.T).max(axis=1))
        expected[members[own]] = np.maximum(expected[members[own]], distance)
    got = Saliency(net, rule="released", several_size=512)(image, objects).flatten().numpy()
    assert expected.std() > 1e-5
    np.testing.assert_allclose(got, expected, atol=1e-7)
