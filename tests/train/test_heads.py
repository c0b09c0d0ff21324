"""Vectors without words in the training of adapters: its loss, what it learns, what it leaves on disk."""

import json
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.testing import assert_close

from models.features import ImageFeatures
from models.vector_adapter.checkpoint import trained_vectors
from models.vector_adapter.model import VectorAdapter
from tests.support.baseline_stand_ins import small_resnet
from tests.support.train_stand_ins import FlatDataset, break_off, small_backbone
from tracks.command.settings import CONF
from tracks.errors import TrackInputError
from train.adapter import build_head
from train.adapters.checkpoint import open_run
from train.adapters.config import TrainOptions
from train.adapters.heads import VectorHead, WordHead
from train.adapters.record import describe
from train.adapters.source import plan_course
from train.adapters.tokens import TokenBatch
from train.adapters.training import AdapterTraining

OPTIONS = TrainOptions(
    target="mvtec", epochs=12, batch_size=4, validation_categories=["tube"], aug_rate=0.0, learning_rate=0.03
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("train.adapters.training.draw_curves", lambda *_: None)


def training(folder, options=OPTIONS, backbone=None) -> AdapterTraining:
    course = plan_course(FlatDataset(), options)
    head = VectorHead(backbone or small_backbone(), options.seed)
    open_run(folder, describe(head, course, options))
    return AdapterTraining(head, course, options, folder)


def random_batch(head: VectorHead) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    stages = tuple(torch.randn(3, 4, width, generator=generator) for width in head.adapter.stage_widths)
    embedding = torch.randn(3, head.adapter.embed_dim, generator=generator)
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    masks[0, 0, 1] = masks[2, 1, 0] = True
    return TokenBatch(ImageFeatures(embedding, stages, ((2, 2),) * len(stages)), masks, ("a", "b", "c"))


def test_the_loss_is_focal_and_dice_of_every_stage_and_the_cross_entropy_of_images():
    """Written out for masks as large as the grid, so that no pixel is interpolated."""
    head = VectorHead(small_backbone(), seed=0)
    batch, expected = random_batch(head), 0.0
    pixel_scale, image_scale = head.adapter.log_scales.exp().tolist()

    def abnormal(token, pair, scale):
        normal, odd = (scale * float(torch.cosine_similarity(token, each, dim=0)) for each in pair)
        return math.exp(odd) / (math.exp(normal) + math.exp(odd))

    for tokens, pair in zip(batch.features.stages, head.adapter.pixel, strict=True):
        for image, mask in zip(tokens, batch.masks, strict=True):
            p = [abnormal(token, pair, pixel_scale) for token in image]
            g = mask.flatten().int().tolist()
            right = [
                (a if b else 1 - a) * (1 - 1e-5) + (1 - a if b else a) * 1e-5 + 1e-5 for a, b in zip(p, g, strict=True)
            ]
            expected += sum(-((1 - each) ** 2) * math.log(each) for each in right) / 4 / 3
            overlap = sum(a * b for a, b in zip(p, g, strict=True))
            expected += (1 - (2 * overlap + 1) / (sum(p) + sum(g) + 1)) / 3
    for embedding, mask in zip(batch.features.embedding, batch.masks, strict=True):
        p = abnormal(embedding, head.adapter.image, image_scale)
        expected -= math.log(p if mask.any() else 1 - p) / 3
    got = head.loss(batch, dice_on_normal=True, shares=(1.0, 1.0))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_the_losses_of_the_parts_of_a_batch_add_up():
    head = VectorHead(small_backbone(), seed=0)
    batch = random_batch(head)
    parts = []
    for chosen in ([0, 1], [2]):
        part = TokenBatch(batch.features[chosen], batch.masks[chosen], ("a",) * len(chosen))
        share = len(chosen) / 3
        parts.append(head.loss(part, dice_on_normal=True, shares=(share, share)))
    assert_close(sum(parts), head.loss(batch, dice_on_normal=True, shares=(1.0, 1.0)))


@pytest.mark.parametrize("build", [small_backbone, lambda: small_resnet(32)], ids=["clip", "resnet of timm"])
def test_it_learns_and_the_checkpoint_serves_the_model(tmp_path, build):
    backbone = build()
    training(tmp_path, backbone=backbone).run()
    losses = [float(line.split(",")[1]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]
    vectors = trained_vectors(tmp_path / "adapter.safetensors")
    model = VectorAdapter(backbone, vectors)
    assert model.protocol["adapter_trained_on"] == "flat"
    samples = FlatDataset().test("plate")
    images = torch.stack([model.preprocess(sample.load_image()) for sample in samples])
    found = model.predict(images, ["plate"] * len(samples))
    masks = torch.stack([torch.from_numpy(sample.load_mask()) for sample in samples])
    assert found.anomaly_maps[masks].mean() > 2 * found.anomaly_maps[~masks].mean()
    labels = masks.flatten(1).any(dim=1)
    assert found.image_scores[labels].min() > found.image_scores[~labels].max()
    assert vectors.header is not None
    assert vectors.header.threshold_source.startswith(
        "highest recall less at most 10% false alarms (Youden's J), the zero-shot image scores of tube in flat"
    )


def test_killed_and_continued_ends_in_the_same_vectors(tmp_path):
    options = TrainOptions(target="mvtec", epochs=2, batch_size=5, aug_rate=0.5, checkpoint_every=2)
    training(tmp_path / "whole", options).run()
    break_off(training(tmp_path / "killed", options), 5)
    training(tmp_path / "killed", options).run()
    whole, killed = (
        trained_vectors(tmp_path / each / "adapter.safetensors").state_dict() for each in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["adapter"] == "vectors"


def test_the_model_chooses_what_learns():
    def head(*settings):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [*settings, "weights.backbone.image_size=64"])
        return build_head(cfg, plan_course(FlatDataset(), OPTIONS), seed=0)

    assert isinstance(head("model=vector_adapter"), VectorHead)
    assert isinstance(head("model=clip_adapter"), WordHead)
    with pytest.raises(TrackInputError, match="model=vector_adapter"):
        head("model=patchcore")
