"""WinCLIP: its windows, its harmonic means and its scores, each against the obvious slow version."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.testing import assert_close

from models.baselines.winclip import WinCLIP
from models.baselines.windows import (
    at_patches,
    attention_pool,
    encode_windows,
    harmonic_mean,
    window_grid,
    window_patches,
)
from models.clip.backbone import load_backbone
from models.clip.text import PromptEnsemble
from models.errors import ModelInputError
from tests.support.clip_stand_ins import PROMPTS, SIZES, random_images, small_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PUBLISHED = Path(__file__).resolve().parents[3] / "conf/prompts/winclip.yaml"


def test_windows_are_all_squares_of_the_grid_row_by_row():
    assert window_patches((3, 4), 2).tolist() == [
        [0, 1, 4, 5], [1, 2, 5, 6], [2, 3, 6, 7], [4, 5, 8, 9], [5, 6, 9, 10], [6, 7, 10, 11],
    ]  # fmt: skip
    assert window_patches((2, 3), 3).tolist() == [[0, 1, 2, 3, 4, 5]]  # no smaller window than the grid allows


@pytest.mark.parametrize(("side", "number"), [(2, 196), (3, 169)])
def test_the_published_grid_has_as_many_windows_as_published(side, number):
    places = window_patches((15, 15), side)
    assert places.shape == (number, side * side)
    assert window_grid((15, 15), side) == (number**0.5, number**0.5)
    assert torch.bincount(places.flatten(), minlength=225).view(15, 15)[7, 7] == side * side


def test_the_harmonic_mean_is_that_and_never_above_the_arithmetic():
    values = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.5, 0.5], [1.0, 0.0, 1.0]])
    assert_close(harmonic_mean(values, 1), torch.tensor([3 / (1 + 0.5 + 0.25), 0.5, 0.0]))


@pytest.mark.parametrize(("grid", "side"), [((4, 5), 2), ((4, 5), 3), ((2, 2), 3)])
def test_a_place_gets_the_harmonic_mean_of_the_windows_that_hold_it(grid, side):
    places = window_patches(grid, side)
    scores = torch.rand(2, len(places), generator=torch.Generator().manual_seed(0)) + 0.01
    got = at_patches(scores, places, grid)
    for image in range(2):
        for place in range(grid[0] * grid[1]):
            holding = [float(score) for score, held in zip(scores[image], places, strict=True) if place in held]
            expected = len(holding) / sum(1 / score for score in holding)
            assert got[image].flatten()[place].item() == pytest.approx(expected, rel=1e-5)


def test_a_vits_window_is_what_the_tower_makes_of_its_patches_alone():
    backbone = small_backbone("vit")
    visual, images = backbone.clip.visual, random_images(2, SIZES["vit"])
    features = encode_windows(backbone, images, (2, 3), windows_at_once=7)
    assert [each.shape[1] for each in features.windows] == [25, 16]
    sequence = visual.patch_dropout(visual.ln_pre(_with_positions(visual, images)))
    for side, windows in zip((2, 3), features.windows, strict=True):
        for number, places in enumerate(window_patches((6, 6), side)):
            cut = sequence[:, [0, *(1 + places).tolist()]]
            expected = visual.ln_post(visual.transformer(cut))[:, 0] @ visual.proj
            assert_close(windows[:, number], expected, **CLOSE)
    assert_close(features.embedding, visual(images), **CLOSE)
    assert_close(features.tokens, visual.ln_post(visual.transformer(sequence))[:, 1:], **CLOSE)


def _with_positions(visual, images):
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(images), 1, -1)
    return torch.cat([classes, patches], dim=1) + visual.positional_embedding


def test_the_window_of_all_patches_is_the_image():
    backbone = small_backbone("vit")
    features = encode_windows(backbone, random_images(2, SIZES["vit"]), (6,))
    assert_close(features.windows[0][:, 0], features.embedding, **CLOSE)


def test_a_resnets_whole_region_is_its_own_attention_pool():
    backbone = small_backbone("resnet")
    images = random_images(2, SIZES["resnet"])
    features = encode_windows(backbone, images, (2, 3), windows_at_once=3)
    expected = backbone.encode_image(images)
    assert features.grid == (3, 3)
    assert [each.shape[1] for each in features.windows] == [4, 1]
    assert_close(features.embedding, expected.embedding, **CLOSE)
    assert_close(features.windows[1][:, 0], expected.embedding, **CLOSE)  # 3 x 3 is the whole grid
    assert_close(features.tokens, expected.stages[2], **CLOSE)


def test_a_resnets_region_is_pooled_with_the_positions_it_has():
    pool = small_backbone("resnet").clip.visual.attnpool
    places = torch.randn(1, 4, pool.q_proj.in_features)
    moved = attention_pool(pool, places, torch.tensor([[4, 5, 7, 8]]))
    assert (attention_pool(pool, places, torch.tensor([[0, 1, 3, 4]])) - moved).abs().max() > 1e-3
    shuffled = attention_pool(pool, places[:, [2, 0, 3, 1]], torch.tensor([[7, 4, 8, 5]]))
    assert_close(shuffled, moved, **CLOSE)


def test_the_zero_shot_map_and_score_are_those_of_the_paper():
    backbone = small_backbone("vit")
    model = WinCLIP(backbone, PROMPTS, temperature=0.07)
    images = random_images(1, SIZES["vit"])
    got = model.predict(images, ["nut"])
    features, text = encode_windows(backbone, images, (2, 3)), PROMPTS.text_features(backbone, "nut")

    def abnormal(embedding):
        logits = F.normalize(embedding, dim=-1) @ text / 0.07
        return float(logits[1].exp() / logits.exp().sum())

    score = abnormal(features.embedding[0])
    assert got.image_scores.item() == pytest.approx(score, rel=1e-5)
    plain = torch.empty(6, 6)
    for place in range(36):
        inverse = [1 / score]
        for side, windows in zip((2, 3), features.windows, strict=True):
            places = window_patches((6, 6), side)
            held = [1 / abnormal(windows[0, n]) for n in range(len(places)) if place in places[n]]
            inverse.append(sum(held) / len(held))
        plain.view(-1)[place] = 3 / sum(inverse)
    expected = F.interpolate(plain[None, None], (48, 48), mode="bilinear")[0]
    assert_close(got.anomaly_maps, expected, **CLOSE)


def test_references_enter_by_windows_and_places_in_equal_parts():
    backbone = small_backbone("vit")
    model = WinCLIP(backbone, PROMPTS)
    images, references = random_images(1, SIZES["vit"]), random_images(2, SIZES["vit"], seed=5)
    words = model.predict(images, ["nut"])
    model.fit(references, "nut")
    got = model.predict(images, ["nut"])
    seen, known = (encode_windows(backbone, each, (2, 3)) for each in (images, references))
    parts = [_half_distance(seen.tokens[0], known.tokens).view(1, 6, 6)]
    for side, mine, theirs in zip((2, 3), seen.windows, known.windows, strict=True):
        parts.append(at_patches(_half_distance(mine[0], theirs)[None], window_patches((6, 6), side), (6, 6)))
    association = torch.stack(parts).mean(0)
    assert_close(got.image_scores, (words.image_scores + association.max()) / 2, **CLOSE)
    sized = F.interpolate(association[None], (48, 48), mode="bilinear")[0]
    assert_close(got.anomaly_maps, (words.anomaly_maps + sized) / 2, **CLOSE)
    assert_close(got.scalars["text_score"], words.image_scores, **CLOSE)


def _half_distance(rows, bank):
    cosine = F.normalize(rows, dim=-1) @ F.normalize(bank.flatten(0, 1), dim=-1).T
    return (1 - cosine.amax(dim=1)) / 2


def test_the_published_prompts_are_as_many_as_published():
    fields = yaml.safe_load(PUBLISHED.read_text())
    normal, anomalous = PromptEnsemble(
        normal_states=fields["normal_states"],
        anomalous_states=fields["anomalous_states"],
        templates=fields["templates"],
    ).sentences("bottle")
    assert (len(fields["templates"]), len(normal), len(anomalous)) == (22, 154, 88)
    assert len({*normal, *anomalous}) == 242
    assert "a photo of a flawless bottle for visual inspection." in normal
    assert "a jpeg corrupted photo of the bottle with damage." in anomalous


@pytest.mark.slow
def test_the_published_architecture_sees_one_image():
    backbone = load_backbone("ViT-B-16-plus-240", weights="random:0", image_size=240, stages=[12], activation="gelu")
    model = WinCLIP(backbone, PROMPTS)
    prediction = model.predict(random_images(1, 240), ["nut"])
    assert prediction.anomaly_maps.shape == (1, 240, 240)
    assert prediction.anomaly_maps.isfinite().all()


def test_a_resnet_says_that_its_windows_are_not_the_published():
    assert "not as published" in WinCLIP(small_backbone("resnet"), PROMPTS).protocol["windows"]
    assert "encoded by themselves" in WinCLIP(small_backbone("vit"), PROMPTS).protocol["windows"]


def test_what_is_no_clip_and_what_are_no_prompts_are_refused():
    with pytest.raises(ModelInputError, match=r"expected backbone to be a CLIP.*laion_vitb16_plus_240"):
        WinCLIP(None, PROMPTS)
    with pytest.raises(ModelInputError, match="prompts=winclip"):
        WinCLIP(small_backbone("vit"), None)
    with pytest.raises(ModelInputError, match=r"\(B, 3, 48, 48\)"):
        WinCLIP(small_backbone("vit"), PROMPTS).predict(torch.zeros(1, 3, 40, 40), ["nut"])
