"""AnomalyDINO and DINOv2 against their authors' code, on the same random weights and pictures.

Runs where VANDKIT_ANOMALY_DINO names a checkout of github.com/dammsi/AnomalyDINO and VANDKIT_DINOV2 one of
github.com/facebookresearch/dinov2; neither is installed or kept here.
"""

import os
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.testing import assert_close

from models.baselines.anomaly_dino import AnomalyDINO, foreground
from models.imagenet.vit import load_vit

CHECKOUTS = [os.environ.get(name, "") for name in ("VANDKIT_ANOMALY_DINO", "VANDKIT_DINOV2")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(CHECKOUTS), reason="VANDKIT_ANOMALY_DINO and VANDKIT_DINOV2 name no checkouts"),
]
SIDE = 224


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Their wrapper around their DINOv2 ViT-S/14, its weights random and in a file, and their functions."""
    with pytest.MonkeyPatch.context() as patch:
        for checkout in CHECKOUTS:
            patch.syspath_prepend(checkout)
        for name in ("src", *(name for name in sys.modules if name.startswith("src."))):
            patch.delitem(sys.modules, name, raising=False)
        patch.setitem(sys.modules, "tifffile", sys.modules.get("tifffile") or ModuleType("tifffile"))
        from dinov2.models.vision_transformer import vit_small
        from src.backbones import DINOv2Wrapper
        from src.post_eval import mean_top1p
        from src.utils import augment_image, dists2map

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = vit_small(patch_size=14, img_size=518, init_values=1.0, block_chunks=0).eval()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(0.02 * torch.randn(parameter.shape))
        patch.setattr(torch.hub, "load", lambda *_: net)
        wrapper = DINOv2Wrapper("dinov2_vits14", "cpu", SIDE)
    file = tmp_path_factory.mktemp("weights") / "dinov2_vits14.pth"
    torch.save(net.state_dict(), file)
    return wrapper, (mean_top1p, augment_image, dists2map), str(file)


def picture(seed: int, high: int, wide: int) -> np.ndarray:
    """A blurred random picture with a bright object in its middle."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (high, wide, 3), dtype=np.uint8)
    cv2.ellipse(
        pixels, (wide // 2, high // 2), (wide // 3, high // 4), 20 * seed, 0, 360, (250, 200, 90 + 20 * seed), -1
    )
    return cv2.GaussianBlur(pixels, (0, 0), 2)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def nearest(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Half the squared distance of rows of length 1 to the nearest, as their index finds it."""
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    return index.kneighbors(queries)[0][:, 0] ** 2 / 2


@pytest.mark.parametrize(("masking", "size"), [("never", (300, 260)), ("always", (260, 300))])
def test_features_masks_distances_maps_and_scores_are_theirs(theirs, masking, size):
    wrapper, (mean_top1p, augment_image, dists2map), file = theirs
    reference, query = picture(1, *size), picture(2, *size)
    rows = [wrapper.extract_features(wrapper.prepare_image(view)[0]) for view in augment_image(reference)]
    bank = np.concatenate(rows)
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    tensor, grid = wrapper.prepare_image(query)
    tokens = wrapper.extract_features(tensor)
    mask = np.ones(len(tokens), dtype=bool)
    if masking == "always":
        mask = wrapper.compute_background_mask(tokens, grid, threshold=10, masking_type=True)
    distances = np.zeros(len(tokens))
    distances[mask] = nearest((tokens / np.linalg.norm(tokens, axis=1, keepdims=True))[mask], bank)

    ours = AnomalyDINO(
        load_vit("vit_small_patch14_dinov2", weights=file, stages=[12], final_norm=True), side=SIDE, masking=masking
    )
    ours.fit([as_tensor(reference)], "nut")
    state = ours._states["nut"]
    assert_close(state["bank"], torch.from_numpy(bank), rtol=0, atol=1e-4)
    found, found_grid = ours._tokens(as_tensor(query))
    assert found_grid == grid
    assert_close(found, torch.from_numpy(tokens), rtol=0, atol=1e-4)
    if masking == "always":
        assert np.array_equal(foreground(found, grid).numpy(), mask)
        assert 0 < mask.sum() < mask.size
    got = ours.predict([as_tensor(query)], ["nut"])
    assert float(got.image_scores) == pytest.approx(mean_top1p(distances), abs=1e-4)
    whole = torch.from_numpy(dists2map(distances.reshape(grid), query.shape))
    small = torch.nn.functional.interpolate(whole[None, None], (256, 256), mode="bilinear", antialias=True)[0, 0]
    assert_close(got.anomaly_maps[0].double(), small, rtol=0, atol=1e-4)
