"""The recipe of the small weights, in seconds: what it draws, what it teaches, and that it can be stopped."""

import functools
import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional
from torch.testing import assert_close

from models.clip.backbone import load_backbone
from models.clip.weights import ClipHeader, build_clip, save_clip
from models.clip_adapter.checkpoint import check_adapter_fits, load_adapter
from models.vector_adapter.checkpoint import check_vectors_fit, trained_vectors
from tests.support.dataset_stand_ins import save_image, save_mask
from tests.support.second_device import DEVICE, second_device
from tracks.command.cli import CONF
from tracks.errors import TrackInputError
from train import tiny
from train.small import batches, model, views, words
from train.small.batches import BatchSource, augment_twins
from train.small.corpus import Corpus, CorpusPlan, build_corpus
from train.small.model import TinyClip
from train.small.photos import pack, read_photos
from train.small.words import (
    NAMES_PER_PRODUCT,
    PAIRS,
    STATE_COSINE,
    CaptionSampler,
    Words,
    draw_together,
    teach_words,
    vocabulary_nouns,
)
from train.tiny import train_tiny, train_vectors

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 64, "timm_model_name": "test_efficientnet", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}  # fmt: skip
SAMPLER = CaptionSampler(["flawless {}", "{}"], ["damaged {}"], ["a photo of a {}.", "the {}."], ["river", "seven"], 24)


def overrides(tmp_path, **changed):
    (tmp_path / "clip.json").write_text(json.dumps(SMALL))
    values = {
        "config": tmp_path / "clip.json", "work": tmp_path / "work", "variants": 1, "invented": 1, "scenes": 2,
        "batch_scenes": 2, "picture_size": 48, "render_workers": 1, "text_steps": 4,
        "rounds": "[{steps:3,learning_rate:2e-3,large_share:0,squash:0.15},"
        "{steps:1,learning_rate:1e-3,large_share:0.5,squash:0.4}]",
        "looks": 2, "imagenet": "false", "photos": "null", "warmup": 1, "save_every": 2, "device": "cpu",
        "bfloat16": "false", **changed,
    }  # fmt: skip
    return [f"{key}={value}" for key, value in values.items()]


def settings(tmp_path, **changed):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("tiny", overrides(tmp_path, **changed))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Renders each corpus once, whichever folder a training works in."""
    return functools.cache(lambda plan: build_corpus(plan, tmp_path_factory.mktemp("corpus"), workers=1))


@pytest.fixture
def few_sentences(monkeypatch):
    """As many as the tests look at: tokens of thousands cost more than the steps."""
    for module in (words, batches):
        monkeypatch.setattr(module, "PAIRS", 500)


@pytest.fixture
def quick(rendered, few_sentences, monkeypatch):
    monkeypatch.setattr("train.tiny.build_corpus", lambda plan, *_: rendered(plan))


def test_a_pair_of_sentences_differs_in_the_state_alone():
    for seed in range(50):
        normal, anomalous = SAMPLER.pair("hex_nut", np.random.default_rng(seed))
        assert normal != anomalous
        assert ("a photo of" in normal) == ("a photo of" in anomalous)
        assert "_" not in normal + anomalous
        assert ("hex nut" in normal) == ("hex nut" in anomalous)


def test_nouns_are_plain_words_of_the_vocabulary():
    nouns = vocabulary_nouns()
    assert {"river", "seven", "bottle"} <= set(nouns)
    assert all(word.isalpha() and len(word) >= 3 for word in nouns)


def test_twins_are_equal_but_for_the_defect():
    generator = torch.Generator().manual_seed(0)
    normal = torch.rand(6, 3, 48, 48, generator=generator)
    masks = torch.zeros(6, 48, 48, dtype=torch.bool)
    masks[:, 16:26, 20:30] = True
    defective = torch.where(masks[:, None], 1 - normal, normal)
    images, marked = augment_twins(normal, defective, masks, 32, seed=5)
    assert images.shape == (12, 3, 32, 32)
    assert not marked[:6].any()
    assert marked[6:].flatten(1).any(1).all()
    near = functional.max_pool2d(marked[6:, None].float(), 13, 1, 6) > 0  # pasting, blur and contrast reach further
    difference = (images[:6] - images[6:]).abs().amax(1, keepdim=True)
    assert difference[near].mean() > 5 * difference[~near].mean()
    again, _ = augment_twins(normal, defective, masks, 32, seed=5)
    assert_close(again, images, rtol=0, atol=0)


def test_pictures_of_one_product_are_taken_alike():
    ramp = torch.linspace(0.2, 0.8, 48).view(1, 1, 1, 48).expand(12, 3, 48, 48).clone()
    masks = torch.zeros(12, 48, 48, dtype=torch.bool)
    images, _ = augment_twins(ramp, ramp, masks, 32, seed=1, scenes=3)
    profile = functional.avg_pool2d(images[:12].mean(1, keepdim=True), 16).flatten(1)  # four corners' brightness
    profile = (profile - profile.mean(1, keepdim=True)).view(4, 3, 4)
    within = (profile - profile.mean(1, keepdim=True)).abs().mean()
    between = (profile.mean(1) - profile.mean((0, 1))).abs().mean()
    assert between > 2 * within


def test_a_batch_holds_scenes_of_a_look_and_their_twins(tmp_path):
    plan = CorpusPlan(variants=1, invented=2, scenes=3, image_size=48)
    number = np.arange(len(plan))
    images = np.broadcast_to((number // 6 % 256)[:, None, None, None], (len(plan), 48, 48, 3)).astype(np.uint8)
    corpus = Corpus(plan, images, np.zeros((len(plan), 48, 48), bool), np.array([plan.picture(i)[0] for i in number]))
    names = len(plan.categories)
    text = (torch.randn(PAIRS, 4, 2), torch.randn(names, NAMES_PER_PRODUCT, 4))
    source = BatchSource(corpus, text, settings(tmp_path, looks=4, batch_scenes=3, zero_shot_share=0.5), "cpu")
    batches = [source.draw(step, 32) for step in range(20)]
    assert {batch.shots for batch in batches} == {0, 1, 2}
    for batch in batches:
        assert batch.images.shape == (24, 3, 32, 32)
        products = batch.products.view(2, 4, 3)
        assert_close(products[0], products[1])
        assert (products == products[..., :1]).all()


def test_a_scene_meets_the_other_scenes_of_its_product():
    torch.manual_seed(0)
    net = TinyClip(SMALL, [1, 2, 3, 4]).eval()
    images = torch.rand(12, 3, 64, 64)  # two products of three scenes, and their twins
    text = functional.normalize(torch.randn(12, 16, 2), dim=1)
    seen = net(images, text, scenes=3, shots=2)
    changed = images.clone()
    changed[4] = torch.rand(3, 64, 64)  # a scene of the second product: a reference of 3, 5, 9 and 11
    again = net(changed, text, scenes=3, shots=2)
    moved = (again.map_logits - seen.map_logits).abs().amax((1, 2, 3)) > 1e-6
    assert moved.nonzero()[:, 0].tolist() == [3, 4, 5, 9, 11]


def test_words_learn_one_direction_and_are_drawn_together(few_sentences, tmp_path):
    torch.manual_seed(0)
    clip = build_clip(SMALL, image_size=64, activation="gelu")
    sentences = Words.draw(SAMPLER, ["gear", "hex_nut", "coin"], seed=0)
    teach_words(clip, sentences, settings(tmp_path, text_steps=200), "cpu")
    directions, _ = sentences.embedded(clip, "cpu")
    away = functional.normalize(directions[..., 1] - directions[..., 0], dim=-1)[:100]
    assert (away @ away.T).mean() > 0.9
    text = clip.encode_text(sentences.pairs.flatten(0, 1)).unflatten(0, (500, 2)).mean(0)
    assert functional.cosine_similarity(text[0], text[1], dim=0) == pytest.approx(STATE_COSINE, abs=1e-4)
    draw_together(clip, sentences.pairs, 0.99)
    text = clip.encode_text(sentences.pairs.flatten(0, 1)).unflatten(0, (500, 2)).mean(0)
    assert functional.cosine_similarity(text[0], text[1], dim=0) == pytest.approx(0.99, abs=1e-4)


def test_a_corpus_is_pairs_of_a_scene_and_is_rendered_once(tmp_path):
    plan = CorpusPlan(variants=1, invented=1, scenes=1, image_size=48)
    corpus = build_corpus(plan, tmp_path, workers=1)
    assert len(corpus.images) == len(plan) == 2 * len(plan.categories)
    assert not corpus.masks[::2].any()
    assert corpus.masks[1::2].reshape(len(plan) // 2, -1).any(1).all()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("chunk-*")}
    again = build_corpus(plan, tmp_path, workers=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("chunk-*")} == stamps
    np.testing.assert_array_equal(again.images, corpus.images)


def test_stopped_and_started_again_ends_in_the_same_weights(quick, tmp_path, monkeypatch):
    whole = train_tiny(settings(tmp_path, work=tmp_path / "whole"))
    real, calls = TinyClip.forward, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(TinyClip, "forward", stops)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(settings(tmp_path, work=tmp_path / "cut"))
    continued = train_tiny(settings(tmp_path, work=tmp_path / "cut"))
    assert len(calls) == 4 + 2  # two steps were kept
    assert_close(continued.state_dict(), whole.state_dict(), rtol=0, atol=1e-4)  # a step moves by 2e-3


def test_a_checkpoint_of_other_settings_is_not_resumed_from(quick, tmp_path, caplog):
    whole = train_tiny(settings(tmp_path, seed=1, work=tmp_path / "whole"))
    train_tiny(settings(tmp_path, seed=0, work=tmp_path / "cut"))
    changed = train_tiny(settings(tmp_path, seed=1, work=tmp_path / "cut"))
    assert "made with other settings: training starts anew" in caplog.text
    assert_close(changed.state_dict(), whole.state_dict(), rtol=0, atol=1e-4)  # a step moves by 2e-3


@pytest.fixture
def plates(tmp_path):
    """Settings of vectors that learn on a few pictures."""
    for name in ("good/0", "good/1", "hole/0", "hole/1"):
        save_image(tmp_path / "data" / "plate" / "test" / f"{name}.png")
    for number in range(2):
        save_mask(tmp_path / "data" / "plate" / "ground_truth" / "hole" / f"{number}_mask.png")
    save_image(tmp_path / "data" / "plate" / "train" / "good" / "0.png")
    root = f"data.root={tmp_path / 'data'}"
    return ["model=vector_adapter", "data=mvtec", root, "target=visa", "epochs=1", "aug_rate=0"]


def test_vectors_learn_last_against_the_towers_that_were_saved(tmp_path, plates):
    clip = build_clip(SMALL, image_size=64, activation="gelu")
    facts = {"backbone": "clip", "stages": (1, 2), "image_size": 64, "activation": "gelu"}
    save_clip(tmp_path / "clip.safetensors", clip.state_dict(), SMALL, ClipHeader(**facts, trained_on=("x",)))
    file = train_vectors(tmp_path / "clip.safetensors", settings(tmp_path, vectors=plates))
    backbone = load_backbone(str(tmp_path / "clip.json"), weights=str(tmp_path / "clip.safetensors"))
    vectors = trained_vectors(file)
    check_vectors_fit(vectors, backbone)
    assert vectors.header.backbone_fingerprint == backbone.fingerprint


def test_the_command_runs_to_its_end_and_ships_all_three_files(tmp_path, plates, quick, monkeypatch):
    """As `make tiny` does, whose configuration is there already when the vectors' is wanted."""
    noted, out = [], tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(tiny, "record", noted.append)
    monkeypatch.setattr(sys, "argv", ["tiny", *overrides(tmp_path, vectors=plates, out=out)])
    tiny.main()
    assert noted == ["tiny"]
    assert sorted(file.stem for file in out.iterdir()) == ["tiny_adapter", "tiny_clip", "tiny_vectors"]
    (out / "tiny_clip.json").write_text(json.dumps(SMALL))
    backbone = load_backbone(str(out / "tiny_clip.json"), weights=str(out / "tiny_clip.safetensors"))
    adapter, header = load_adapter(out / "tiny_adapter.safetensors")
    check_adapter_fits(adapter, backbone)
    check_vectors_fit(trained_vectors(out / "tiny_vectors.safetensors"), backbone)
    assert header.backbone_fingerprint == backbone.fingerprint


def test_photographs_are_looks_of_their_own_whose_defects_are_made(tmp_path):
    plan = CorpusPlan(variants=1, invented=1, scenes=2, image_size=48)
    number = np.arange(len(plan))
    images, masks = np.zeros((len(plan), 48, 48, 3), np.uint8), np.ones((len(plan), 48, 48), bool)
    corpus = Corpus(plan, images, masks, np.array([plan.picture(i)[0] for i in number]))
    text = (torch.randn(PAIRS, 4, 2), torch.randn(len(plan.categories) + 1, NAMES_PER_PRODUCT, 4))
    photos = torch.randint(100, 200, (3, 48, 48, 3), dtype=torch.uint8)
    cfg = settings(tmp_path, looks=6, photo_share=0.5)
    batches = [BatchSource(corpus, text, cfg, "cpu", photos).draw(step, 32) for step in range(6)]
    normal = torch.cat([batch.images[:12] for batch in batches])
    defective = torch.cat([batch.images[12:] for batch in batches])
    marked = torch.cat([batch.masks[12:] for batch in batches])
    is_photo = normal.flatten(1).std(dim=1) > 0.02
    assert 0.2 < is_photo.float().mean() < 0.8
    of_photos = marked[is_photo].flatten(1)
    assert 0 < of_photos.float().mean() < 0.3  # the masks of renderings are all True here
    assert of_photos.any(1).float().mean() > 0.4
    changed = (normal - defective).abs().amax(1)[is_photo].flatten(1)
    assert changed[of_photos].mean() > 3 * changed[~of_photos].mean()


def test_a_gpu_draws_the_batches_of_a_cpu_but_for_the_noise_of_the_camera(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "_noisy", lambda images, amount, generator: images)
    plan, random = CorpusPlan(variants=1, invented=1, scenes=2, image_size=48), np.random.default_rng(0)
    images, masks = (
        random.integers(256, size=(len(plan), 48, 48, 3)).astype(np.uint8),
        random.random((len(plan), 48, 48)),
    )
    corpus = Corpus(plan, images, masks < 0.2, np.array([plan.picture(i)[0] for i in range(len(plan))]))
    text = (torch.randn(PAIRS, 4, 2), torch.randn(len(plan.categories) + 1, NAMES_PER_PRODUCT, 4))
    photos, cfg = (
        torch.randint(100, 200, (3, 48, 48, 3), dtype=torch.uint8),
        settings(tmp_path, looks=6, photo_share=0.5),
    )
    ours = [BatchSource(corpus, text, cfg, "cpu", photos).draw(step, 32) for step in (0, 3)]
    with second_device():
        moved = (text[0].to(DEVICE), text[1].to(DEVICE))
        source = BatchSource(corpus, moved, cfg, str(DEVICE), photos)
        theirs = [vars(source.draw(step, 32)) for step in (0, 3)]
        theirs = [{name: getattr(value, "held", value) for name, value in batch.items()} for batch in theirs]
    for batch, expected in zip(theirs, map(vars, ours), strict=True):
        assert_close(batch, expected, rtol=0, atol=0)


def test_photos_are_packed_and_read_again(tmp_path):
    for name, side in (("shirt-1", 300), ("hat-2", 200)):
        PIL.Image.new("RGB", (side, side + 50), (200, 60, 60)).save(tmp_path / f"{name}.jpg")
    assert pack(tmp_path, tmp_path / "photos.zip") == 2
    photos = read_photos(tmp_path / "photos.zip", 64)
    assert photos.shape == (2, 64, 64, 3)
    assert (photos.float().mean((0, 1, 2)) - torch.tensor([200.0, 60, 60])).abs().max() < 8


def test_the_photos_that_ship_are_read():
    assert read_photos(CONF.parent / "train/small/photos_cc0.zip", 32).shape == (1000, 32, 32, 3)


def test_the_image_towers_weights_are_taken_in_their_order_and_checked(tmp_path, monkeypatch):
    net = timm.create_model("test_efficientnet", num_classes=0)
    file = tmp_path / "net.pth"
    saved = {f"other.{i}": torch.randn_like(t) if t.is_floating_point() else t for i, t in
             enumerate(net.state_dict().values())}  # fmt: skip
    torch.save({**saved, "classifier": torch.zeros(3)}, file)
    monkeypatch.setattr(model, "files", lambda _: [SimpleNamespace(suffix=".pth", locate=lambda: file)])
    with pytest.raises(TrackInputError, match=r"with sha256 5793.*got [0-9a-f]{64}; pip install"):
        model.load_tower(net)
    monkeypatch.setattr(model, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    model.load_tower(net)
    for got, wanted in zip(net.state_dict().values(), saved.values(), strict=True):
        assert_close(got, wanted)
    with pytest.raises(TrackInputError, match="expected the image tower of the configuration to be timm's"):
        model.load_tower(timm.create_model("resnet10t", num_classes=0))


def test_a_tower_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(model, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(TrackInputError, match="expected the package no-such-package-of-weights to be installed"):
        model.package_file()
