"""Entry point of `make tiny`: trains the small CLIP and its adapter that ship.

The image tower is an ImageNet net of timm behind open_clip's own classes (models/weights/tiny/tiny_clip.json,
train/small/tower.py). The text tower learns first, alone: product names are mostly random words, so the direction from
"flawless" to "damaged" does not depend on the product. Then the adapter, and the image tower at a small learning
rate, learn against it on rendered pictures and on photographs with made defects (small/photos.py): cross-entropy +
dice on the map (Eq. 3), the image-score loss, the same on the image embedding (Eq. 1), and which product an image
shows; in half of the batches with other scenes of the product as references. Of the rendered products only source
categories are seen.
"""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import torch
from omegaconf import DictConfig, OmegaConf
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.clip.weights import build_clip
from models.clip_adapter.adapter import LOGIT_SCALE
from models.clip_adapter.context_adapter import ContextAdapter, References
from models.disk import replaced
from models.features import ImageFeatures
from tracks.command.cli import command, run_main
from tracks.datasets.synthetic.products import product
from tracks.run.build import pick_device
from train.adapters.losses import dice_loss
from train.small.captions import CaptionSampler, vocabulary_nouns
from train.small.corpus import Corpus, CorpusPlan, build_corpus
from train.small.perturb import augment_twins, taken_again
from train.small.photos import read_photos
from train.small.tower import load_tower

log = logging.getLogger(__name__)
STATE_COSINE = 0.975
DEFECT_PIXEL_WEIGHT = 6.0
PAIRS = 6000
NAMES_PER_PRODUCT = 32
NO_MATTER = ("work", "out", "device", "threads", "render_workers", "save_every", "compile")
"""Settings that leave the weights as they are, but for rounding."""


class TinyClip(nn.Module):
    """A CLIP with an ImageNet net as image tower, and the adapter that reads its stages together, for training.

    The net's batch norms keep their ImageNet statistics. With `frozen` nothing of it is learnt.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any], stages: Sequence[int], frozen: bool = True):
        super().__init__()
        self.image_size = int(config["vision_cfg"]["image_size"])
        self.clip = build_clip(config, image_size=self.image_size, activation="gelu")
        self.stages = list(stages)
        self.frozen = frozen
        for name in ("mean", "std"):
            values = torch.tensor(config["preprocess_cfg"][name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        trunk: Any = self.trunk.requires_grad_(not frozen)
        widths = [trunk.feature_info[stage]["num_chs"] for stage in stages]
        self.adapter = ContextAdapter(widths, config["embed_dim"])
        self.train()

    @property
    def trunk(self) -> nn.Module:
        """The net of timm."""
        trunk: nn.Module = self.clip.visual.trunk
        return trunk

    def train(self, mode: bool = True) -> Self:
        """The net stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor, text: Tensor, scenes: int = 1, shots: int = 0) -> "Seen":
        """Look at (B, 3, H, W) images in [0, 1]; `text` (B, D, 2) has unit columns, normal and anomalous.

        With `shots`, the first half of the images are normal, `scenes` in turn of one product: each image, and its
        twin in the second half, has the next `shots` other scenes of its product as references.
        """
        pixels = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            last, maps = self.trunk.forward_intermediates(pixels)  # type: ignore[operator]
            pooled = self.trunk.forward_head(last)  # type: ignore[operator]
        image_features = self.clip.visual.head(pooled)
        chosen = [maps[stage] for stage in self.stages]
        grids = tuple((stage.shape[2], stage.shape[3]) for stage in chosen)
        stages = tuple(stage.flatten(2).transpose(1, 2) for stage in chosen)
        features = ImageFeatures(image_features, stages, grids)
        references = self._others(features, scenes, shots) if shots else None
        (tokens,), (grid,) = self.adapter.adapt(features, references)
        with torch.autocast(images.device.type, enabled=False):  # cosines near 1 need their digits
            embedding = functional.normalize(image_features.float(), dim=-1)
            image_logits = LOGIT_SCALE * torch.einsum("bd,bds->bs", embedding, text)
            map_logits = LOGIT_SCALE * functional.normalize(tokens.float(), dim=-1) @ text
            difference = map_logits[..., 1] - map_logits[..., 0]
            score = self.adapter.score_logit(difference, image_logits[:, 1] - image_logits[:, 0])
        return Seen(embedding, image_logits, map_logits.transpose(1, 2).unflatten(2, grid), score)

    def _others(self, features: ImageFeatures, scenes: int, shots: int) -> References:
        half = len(features.embedding) // 2
        place = torch.arange(half, device=features.embedding.device)
        first = place - place % scenes
        others = torch.stack([first + (place + step) % scenes for step in range(1, shots + 1)], dim=1)
        remembered = self.adapter.remember(features[:half])
        return References(tuple(tokens[others.repeat(2, 1)] for tokens in remembered.tokens))


@dataclass(frozen=True)
class Seen:
    """What the model says of B images.

    `embedding` (B, D) of unit length, `image_logits` (B, 2) and `map_logits` (B, 2, h, w) normal and anomalous,
    `score` (B,) the image score before its sigmoid.
    """

    embedding: Tensor
    image_logits: Tensor
    map_logits: Tensor
    score: Tensor


@dataclass(frozen=True)
class Words:
    """Sentences as token ids: `pairs` (P, 2, L) normal and anomalous, `names` (M, N, L) naming each of M products."""

    pairs: Tensor
    names: Tensor

    @staticmethod
    def draw(sampler: CaptionSampler, categories: Sequence[str], seed: int) -> "Words":
        """A fixed pool for a seed."""
        rng = np.random.default_rng(seed)
        pairs = [text for i in range(PAIRS) for text in sampler.pair(categories[i % len(categories)], rng)]
        names = [sampler.name(category, rng) for category in categories for _ in range(NAMES_PER_PRODUCT)]
        length = sampler.context_length
        return Words(
            open_clip.tokenize(pairs, length).view(PAIRS, 2, length),
            open_clip.tokenize(names, length).view(len(categories), NAMES_PER_PRODUCT, length),
        )

    @torch.no_grad()
    def embedded(self, clip: CLIP, device: str) -> tuple[Tensor, Tensor]:
        """Directions (P, D, 2), columns normal and anomalous, and names (M, N, D), all of unit length."""
        parts = torch.cat([self.pairs.flatten(0, 1), self.names.flatten(0, 1)]).split(256)
        text = torch.cat([clip.encode_text(part.to(device), normalize=True) for part in parts])
        pairs = text[: 2 * PAIRS].unflatten(0, (PAIRS, 2)).transpose(1, 2)
        return pairs, text[2 * PAIRS :].unflatten(0, self.names.shape[:2])


def teach_words(clip: CLIP, words: Words, cfg: DictConfig, device: str) -> None:
    """Train the text tower alone: one direction for every normal product, another, near it, for every damaged one.

    Within what that leaves free, products keep apart. It is fixed afterwards: learning together with the images,
    both towers settle on one embedding for everything.
    """
    parameters = [parameter for name, parameter in clip.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.text_learning_rate, weight_decay=cfg.weight_decay)
    generator = torch.Generator().manual_seed(cfg.seed)
    apart = 1 - torch.eye(len(words.names), device=device)
    for step in tqdm(range(cfg.text_steps), desc="words", unit="step"):
        rows = torch.randint(len(words.pairs), (16,), generator=generator)
        named = words.names[:, int(torch.randint(NAMES_PER_PRODUCT, (), generator=generator))]
        text = clip.encode_text(torch.cat([words.pairs[rows].flatten(0, 1), named]).to(device), normalize=True)
        normal, anomalous = text[:32:2], text[1:32:2]
        products = text[32:] @ text[32:].T
        loss = (
            (normal @ anomalous.T + 0.5).relu().mean()
            + 0.5 * (1 - normal @ normal.T).mean()
            + 0.5 * (1 - anomalous @ anomalous.T).mean()
            + 0.5 * ((products - 0.5) * apart).relu().mean()
        )
        for group in optimizer.param_groups:
            group["lr"] = cfg.text_learning_rate * min(1, (step + 1) / 50, 4 * (1 - step / cfg.text_steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    draw_together(clip, words.pairs[:500].to(device), STATE_COSINE)
    for parameter in parameters:
        parameter.requires_grad_(False)
    clip.logit_scale.requires_grad_(True)


@torch.no_grad()
def draw_together(clip: CLIP, pairs: Tensor, cosine: float) -> None:
    """Shift all sentence embeddings by one vector, so that normal and anomalous ones meet at this cosine.

    Taught apart, the two directions would saturate the softmax of the published temperature; in a CLIP trained on
    photographs they lie close together. `pairs` is (P, 2, L) token ids. The shift goes into the last norm's bias.
    """
    text = clip.encode_text(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
    normal, anomalous = text.mean(0)
    away = torch.linalg.lstsq(clip.text_projection.T, (anomalous - normal)[:, None]).solution[:, 0]
    shift = torch.ones_like(away) - away * (away.sum() / away.square().sum())
    direction = shift @ clip.text_projection
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        together = functional.cosine_similarity(normal + middle * direction, anomalous + middle * direction, dim=0)
        low, high = (middle, high) if together < cosine else (low, middle)
    clip.ln_final.bias.add_(low * shift)


@dataclass(frozen=True)
class Batch:
    """B augmented images and what they are taught with.

    `images` (B, 3, H, W) in [0, 1], `masks` (B, H, W) bool, `directions` (B, D, 2) a normal and an anomalous
    sentence for each, `names` (M, D) the M products of the batch, `products` (B,) which of them an image shows,
    `scenes` how many in turn are of one look, `shots` how many of these are a picture's references.
    """

    images: Tensor
    masks: Tensor
    directions: Tensor
    names: Tensor
    products: Tensor
    scenes: int
    shots: int


class BatchSource:
    """Draws augmented batches; what is drawn depends on (seed, step) alone, so a resumed run goes on as before."""

    def __init__(
        self, corpus: Corpus, text: tuple[Tensor, Tensor], cfg: DictConfig, device: str, photos: Tensor | None = None
    ):
        self.num_looks, self.scenes = cfg.looks, cfg.batch_scenes
        self.most_shots, self.zero_shot_share = cfg.batch_scenes - 1, cfg.zero_shot_share
        self.rounds, self.photo_share = cfg.rounds, cfg.photo_share
        surface = ["surface" in product(category).traits for category in corpus.plan.categories]
        self.surface = torch.tensor(surface, device=device).float()
        self.seed, self.device = cfg.seed, device
        self.scenes_of_look = corpus.plan.scenes
        self.images = torch.from_numpy(corpus.images).to(device)
        self.masks = torch.from_numpy(corpus.masks).to(device)
        self.categories = torch.from_numpy(corpus.categories).to(device)
        self.photos = torch.empty(0) if photos is None else photos.to(device)
        self.directions, self.names = text

    def draw(self, step: int, size: int) -> Batch:
        """The batch of one step, images of `size` pixels a side: half of them scenes, half their defective twins."""
        seed = self.seed * 1_000_003 + step
        generator = torch.Generator(self.device).manual_seed(seed)

        def below(limit: int, *count: int) -> Tensor:
            return torch.randint(limit, count, generator=generator, device=self.device)

        num_rendered = len(self.images) // 2 // self.scenes_of_look
        look = below(num_rendered, self.num_looks)
        first = below(self.scenes_of_look, self.num_looks)
        turn = (first[:, None] + torch.arange(self.scenes, device=self.device)) % self.scenes_of_look
        scenes = 2 * (look[:, None] * self.scenes_of_look + turn).flatten()
        normal, defective = (self.images[scenes + twin].permute(0, 3, 1, 2).float() / 255 for twin in (0, 1))
        marked, categories = self.masks[scenes + 1], self.categories[scenes]
        pasted = torch.full_like(categories, 0.35, dtype=torch.float32)
        surface = self.surface[categories]
        if len(self.photos):
            share = torch.rand(self.num_looks, generator=generator, device=self.device)
            photo = below(len(self.photos), self.num_looks).repeat_interleave(self.scenes)
            chosen = (share < self.photo_share).repeat_interleave(self.scenes)
            normal[chosen] = taken_again(self.photos[photo[chosen]].permute(0, 3, 1, 2).float() / 255, generator)
            defective[chosen], marked[chosen], pasted[chosen], surface[chosen] = normal[chosen], False, 1.0, 0.0
            categories[chosen] = len(self.names) - 1
        now, _ = round_of(step, self.rounds)
        large = now.large_share * surface if now.large_share else None
        images, masks = augment_twins(normal, defective, marked, size, seed, self.scenes, large, now.squash, pasted)
        present, products = categories.unique(return_inverse=True)
        names = self.names[present, below(NAMES_PER_PRODUCT, len(present))]
        directions = self.directions[below(PAIRS, len(scenes))]
        few = float(torch.rand((), generator=generator, device=self.device)) >= self.zero_shot_share
        shots = 1 + int(below(self.most_shots)) if few and self.most_shots else 0
        return Batch(images, masks, directions.repeat(2, 1, 1), names, products.repeat(2), self.scenes, shots)


def loss_terms(model: TinyClip, batch: Batch, cfg: DictConfig) -> dict[str, Tensor]:
    """The weighted terms of the loss, each a scalar."""
    seen = model(batch.images, batch.directions, batch.scenes, batch.shots)
    masks = functional.avg_pool2d(batch.masks[:, None].float(), 2)[:, 0] >= 0.5
    logits = functional.interpolate(seen.map_logits, size=masks.shape[-2:], mode="bilinear", align_corners=True)
    labels = batch.masks.flatten(1).any(1)
    contrast = contrast_loss(seen.embedding, batch.names, batch.products, model.clip.logit_scale)
    return {
        "map": dense_loss(logits.log_softmax(1), masks),
        "score": cfg.score_weight * functional.binary_cross_entropy_with_logits(seen.score, labels.float()),
        "image": cfg.image_weight * functional.cross_entropy(seen.image_logits, labels.long()),
        "contrast": cfg.contrast_weight * contrast,
    }


def dense_loss(log_probabilities: Tensor, masks: Tensor) -> Tensor:
    """3 x weighted cross-entropy of all pixels + dice of the images with a defect; (B, 2, H, W) and (B, H, W) bool.

    Departs from the paper's focal loss, which the adapters of a trained encoder can do with: an encoder that begins
    from nothing stays with it on the share of defect pixels for a long time.
    """
    weights = torch.where(masks, DEFECT_PIXEL_WEIGHT, 1.0)
    log_p = torch.where(masks, log_probabilities[:, 1], log_probabilities[:, 0])
    cross_entropy = -(weights * log_p).sum() / weights.sum()
    return 3 * cross_entropy + dice_loss(log_probabilities[:, 1].exp(), masks, on_normal=False)


def contrast_loss(embedding: Tensor, names: Tensor, products: Tensor, logit_scale: Tensor) -> Tensor:
    """Which of the batch's products does each image show: (B, D), (M, D), (B,).

    The image half of CLIP's loss; with several images of one product in a batch the other half has no single answer.
    """
    return functional.cross_entropy(logit_scale.exp().clamp(max=100) * embedding.float() @ names.float().T, products)


def round_of(step: int, rounds: Sequence[DictConfig]) -> tuple[DictConfig, int]:
    """The round that a step belongs to, the last one for what comes after all; how many of its steps are behind."""
    first = 0
    for now in rounds[:-1]:
        if step < first + now.steps:
            return now, step - first
        first += now.steps
    return rounds[-1], step - first


def learning_rate(step: int, cfg: DictConfig) -> float:
    """Within a round: linear warm-up, then half a cosine to zero (warm restarts, Loshchilov and Hutter 2017)."""
    now, behind = round_of(step, cfg.rounds)
    if behind < cfg.warmup:
        return now.learning_rate * (behind + 1) / cfg.warmup
    progress = (behind - cfg.warmup) / max(1, now.steps - cfg.warmup)
    return now.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def fit(model: TinyClip, corpus: Corpus, photos: Tensor | None, words: Words, cfg: DictConfig, device: str) -> TinyClip:
    """Train all rounds, resuming from the last checkpoint in cfg.work; the averaged model."""
    checkpoint = Path(cfg.work) / "checkpoint.pt"
    teach_words(model.clip, words, cfg, device)
    model.clip.visual.to(memory_format=torch.channels_last)  # quicker on CPU
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(cfg.ema), use_buffers=True
    )
    tower = [parameter for parameter in model.trunk.parameters() if parameter.requires_grad]
    others = [each for each in model.parameters() if each.requires_grad and all(each is not one for one in tower)]
    groups = [{"params": others, "share": 1.0}, {"params": tower, "share": cfg.tower_share}]
    learning = [*others, *tower]
    optimizer = torch.optim.AdamW(groups, lr=cfg.rounds[0].learning_rate, weight_decay=cfg.weight_decay)
    settings = digest_of(cfg)
    start = _restore(checkpoint, model, average, optimizer, settings)
    source = BatchSource(corpus, words.embedded(model.clip, device), cfg, device, photos)
    log_file = Path(cfg.work) / "log.csv"
    total = sum(now.steps for now in cfg.rounds)
    if cfg.compile:
        model.compile()
    bar = tqdm(range(start, total), initial=start, total=total, desc="tiny", unit="step")
    for step in bar:
        batch = source.draw(step, model.image_size)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, cfg)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=cfg.bfloat16):
            terms = loss_terms(model, batch, cfg)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        average.update_parameters(model)
        if step % 100 == 0:
            values = {name: round(float(value.detach()), 4) for name, value in terms.items()}
            bar.set_postfix(values)
            append_row(log_file, {"step": step, **values})
        if (step + 1) % cfg.save_every == 0:
            _save(checkpoint, step + 1, model, average, optimizer, settings)
    averaged = average.module
    assert isinstance(averaged, TinyClip)
    averaged.clip.visual.to(memory_format=torch.contiguous_format)
    return averaged


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a row to a CSV file, a header first where the file is new."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def digest_of(cfg: DictConfig) -> str:
    """Twelve digits of the settings that decide the weights."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    decisive = {key: value for key, value in content.items() if key not in NO_MATTER}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _save(
    path: Path, step: int, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, settings: str
) -> None:
    state = {
        "step": step, "model": model.state_dict(), "average": average.state_dict(),
        "optimizer": optimizer.state_dict(), "settings": settings,
    }  # fmt: skip
    with replaced(path) as part:
        torch.save(state, part)


def _restore(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, settings: str) -> int:
    """The step to go on from: 0 without a checkpoint, or with one of other settings."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)  # each part finds its own device
    if state.get("settings") != settings:
        log.warning("the checkpoint in %s was made with other settings: training starts anew", path.parent)
        return 0
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def train_tiny(cfg: DictConfig) -> TinyClip:
    """Render, train, and return the averaged model in eval mode on the CPU."""
    device = pick_device(cfg.device)
    torch.manual_seed(cfg.seed)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    work = Path(cfg.work)
    work.mkdir(parents=True, exist_ok=True)
    config = json.loads(Path(cfg.config).read_text())
    plan = CorpusPlan(cfg.variants, cfg.invented, cfg.scenes, cfg.picture_size, cfg.seed)
    corpus = build_corpus(plan, work / "corpus", cfg.render_workers)
    sampler = CaptionSampler(
        cfg.prompts.normal_states, cfg.prompts.anomalous_states, cfg.prompts.templates, vocabulary_nouns(),
        config["text_cfg"]["context_length"],
    )  # fmt: skip
    photos = read_photos(Path(cfg.photos), cfg.picture_size) if cfg.photos else None
    model = TinyClip(config, list(cfg.stages), frozen=not cfg.tower_share)
    if cfg.imagenet:
        load_tower(model.trunk)
    words = Words.draw(sampler, [*plan.categories, "scene"], cfg.seed)
    return fit(model.to(device), corpus, photos, words, cfg, device).eval().cpu()


@command("tiny")
def main(cfg: DictConfig) -> None:
    """Train and write the weights with their header and card."""
    from train.small.ship import ship

    ship(train_tiny(cfg), cfg)


if __name__ == "__main__":
    run_main(main)
