"""The training of the small weights: the loss, the learning rate, and the loop, which resumes from its checkpoint."""

import csv
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from train.adapters.losses import dice_loss
from train.checkpoint import Stateful, load_checkpoint, save_checkpoint
from train.small.batches import Batch, BatchSource, round_of
from train.small.corpus import Corpus
from train.small.model import TinyClip
from train.small.words import Words, teach_words

log = logging.getLogger(__name__)
DEFECT_PIXEL_WEIGHT = 6.0


def fit(
    model: TinyClip, corpus: Corpus, photos: Tensor | None, words: Words, cfg: Any, settings: str, device: str
) -> TinyClip:
    """Train all rounds; the averaged model.

    Resumes from the checkpoint in cfg.work, if that was made with the same `settings`, a digest.
    """
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
    parts: dict[str, Stateful] = {"model": model, "average": average, "optimizer": optimizer}
    state = load_checkpoint(checkpoint, parts, "delete it to begin anew", settings=settings)
    if state is None and checkpoint.is_file():
        log.warning("the checkpoint in %s was made with other settings: training starts anew", checkpoint.parent)
    start = int(state["step"]) if state else 0
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
            save_checkpoint(checkpoint, parts, step=step + 1, settings=settings)
    averaged = average.module
    assert isinstance(averaged, TinyClip)
    averaged.clip.visual.to(memory_format=torch.contiguous_format)
    return averaged


def loss_terms(model: TinyClip, batch: Batch, cfg: Any) -> dict[str, Tensor]:
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


def learning_rate(step: int, cfg: Any) -> float:
    """Within a round: linear warm-up, then half a cosine to zero (warm restarts, Loshchilov and Hutter 2017)."""
    now, behind = round_of(step, cfg.rounds)
    if behind < cfg.warmup:
        return now.learning_rate * (behind + 1) / cfg.warmup
    progress = (behind - cfg.warmup) / max(1, now.steps - cfg.warmup)
    return now.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a row to a CSV file, a header first where the file is new."""
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
