"""Convolutions with batch norm and activation folded in: the same numbers as timm's own, whatever way they are run."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch.testing import assert_close

from models.clip import folding


@pytest.fixture(scope="module")
def nets():
    """A net with TensorFlow's padding and what its norms have seen, and the same folded."""
    torch.manual_seed(0)
    plain, folded = (timm.create_model("tf_efficientnet_lite0", num_classes=0).eval() for _ in range(2))
    for module in plain.modules():
        if isinstance(module, BatchNormAct2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    folded.load_state_dict(plain.state_dict())
    folding.fold_batch_norms(folded)
    return plain, folded


@pytest.mark.parametrize("one_call", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (63, 50)])
def test_a_folded_net_computes_the_same(nets, one_call, size, monkeypatch):
    plain, folded = nets
    monkeypatch.setattr(folding, "ONE_CALL", one_call and folding.ONE_CALL)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, stages = plain.forward_intermediates(images)
        got, got_stages = folded.forward_intermediates(images)
    assert not [module for module in folded.modules() if isinstance(module, BatchNormAct2d)]
    assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert_close(got_stages, stages, rtol=1e-3, atol=1e-4)


def test_gradients_and_lower_precision_go_torchs_own_way(nets):
    _, folded = nets
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    folded(images).sum().backward()
    assert images.grad.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_close(folded(images).float(), nets[0](images).float(), rtol=0.1, atol=0.1)
