"""AnomalyDINO and the position window of its bank, against an obvious slow version."""

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_closing, binary_dilation, gaussian_filter
from sklearn.decomposition import PCA
from torch.testing import assert_close

from models.baselines.anomaly_dino import ANGLES, AnomalyDINO, foreground
from models.errors import ModelInputError
from models.images import AspectPreprocess
from models.nearest import beyond_positions
from tests.support.baseline_stand_ins import small_vit


def image(high: int, wide: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, high, wide), generator=generator, dtype=torch.uint8)


def model(**options) -> AnomalyDINO:
    return AnomalyDINO(small_vit(final_norm=True), **{"rotations": "none", "map_size": 40, **options})


def tokens_of(built: AnomalyDINO, given: torch.Tensor) -> torch.Tensor:
    """Patch tokens on their grid (h, w, C), rows of length 1."""
    pixels = AspectPreprocess(built.side, 14)(PIL.Image.fromarray(given.permute(1, 2, 0).numpy()))
    features = built.backbone.encode_image(pixels[None])
    return F.normalize(features.stages[-1][0], dim=1).unflatten(0, features.grids[-1])


@pytest.mark.parametrize("radius", [None, 0, 1])
def test_distances_maps_and_scores_are_those_of_a_loop(radius):
    built = model(side=154, pos_radius=radius)
    references, query = [image(60, 70, 1), image(60, 70, 2)], image(60, 70, 3)
    built.fit(references, "nut")
    got = built.predict([query], ["nut"])
    theirs, own = [tokens_of(built, each) for each in references], tokens_of(built, query)
    high, wide = own.shape[:2]
    expected = torch.full((high, wide), torch.inf)
    for i in range(high):
        for j in range(wide):
            for bank in theirs:
                for k in range(high):
                    for n in range(wide):
                        if radius is None or max(abs(i - k), abs(j - n)) <= radius:
                            expected[i, j] = min(expected[i, j], 1 - own[i, j] @ bank[k, n])
    worst = expected.flatten().sort(descending=True).values[: int(high * wide * 0.01)]
    assert len(worst) == 1
    assert_close(got.image_scores[0], worst.mean(), rtol=1e-4, atol=1e-6)
    whole = F.interpolate(expected[None, None], (60, 70), mode="bilinear")[0, 0]
    smooth = torch.from_numpy(gaussian_filter(whole.numpy(), 4.0))
    assert_close(
        got.anomaly_maps[0], F.interpolate(smooth[None, None], (40, 40), mode="bilinear", antialias=True)[0, 0]
    )


def test_a_window_holds_the_same_place_on_a_grid_of_another_shape():
    apart = beyond_positions((2, 3), [((4, 3), 2)], 0, torch.device("cpu"))(slice(0, 6), slice(0, 24))
    near = (~apart[0]).nonzero().flatten().tolist()
    assert near == [0, 3, 12, 15]  # the first cell is the upper two of the first column, in both views
    assert (~apart).any(dim=1).all()


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_the_mask_is_the_first_component_above_ten_dilated_and_closed(offset):
    generator = np.random.default_rng(0)
    grid, direction = (9, 11), generator.normal(size=16)
    object_there = np.zeros(grid)
    object_there[3:6, 3:8] = 1
    tokens = generator.normal(size=(99, 16)) + 40 * object_there.reshape(-1, 1) * direction / np.linalg.norm(direction)
    tokens = (tokens + offset).astype(np.float32)
    component = PCA(1, svd_solver="full").fit_transform(tokens).reshape(grid)
    mask = component > 10
    middle = mask[1:7, 2:8]
    if middle.sum() <= 0.35 * middle.size:
        mask = -component > 10
    grown = binary_dilation(mask.flatten(), np.ones(3))
    expected = binary_closing(np.pad(grown, 3, mode="edge"), np.ones(3))[3:-3]
    assert 0 < expected.sum() < 99
    assert np.array_equal(foreground(torch.from_numpy(tokens), grid).numpy(), expected)


def test_eight_rotations_are_remembered_where_they_are_asked_for():
    rows = {}
    for rotations in ("agnostic", "informed", "none", ["nut"]):
        built = model(rotations=rotations)
        for category in ("nut", "screw"):
            built.fit([image(60, 60)], category)
        rows[str(rotations)] = [len(built._states[category]["bank"]) // 16 for category in ("nut", "screw")]
    assert rows == {"agnostic": [8, 8], "informed": [1, 8], "none": [1, 1], "['nut']": [8, 1]}
    assert len(ANGLES) == 8


def test_an_image_that_lies_turned_is_as_good_as_known():
    part = F.interpolate(image(6, 6)[None].float(), (60, 60), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
    turned = part.rot90(1, (1, 2))
    scores = []
    for rotations in ("none", "agnostic"):
        built = model(rotations=rotations)
        built.fit([part], "nut")
        scores.append(float(built.predict([turned], ["nut"]).image_scores))
    assert scores[1] < 0.5 * scores[0]


def test_masked_patches_count_as_zero():
    plain, masked = model(masking="never"), model(masking=["nut"])
    for built in (plain, masked):
        built.fit([image(60, 60)], "nut")
    masked._mask = lambda tokens, grid, category: torch.zeros(len(tokens), dtype=torch.bool)
    assert float(masked.predict([image(60, 60, 5)], ["nut"]).anomaly_maps.abs().max()) == 0
    assert float(plain.predict([image(60, 60, 5)], ["nut"]).anomaly_maps.max()) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rotations": "some"}, "agnostic, informed, none"),
        ({"masking": "maybe"}, "always, published_mvtec, never"),
        ({"stage": 2}, "stage"),
        ({"side": 7}, "stride"),
        ({"pos_radius": -1}, "pos_radius"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(ModelInputError, match=said):
        model(**options)
