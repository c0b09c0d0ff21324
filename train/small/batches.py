"""What the image tower and the adapter learn from: batches of scenes, their defective twins, and photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracks.datasets.synthetic.products import product
from train.small.corpus import Corpus
from train.small.defects import change_regions, paste_defects
from train.small.views import Pair, camera, move, taken_again
from train.small.words import NAMES_PER_PRODUCT, PAIRS


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
    """Draws augmented batches; what is drawn depends on (seed, step) alone, so a resumed run sees the same."""

    def __init__(
        self, corpus: Corpus, text: tuple[Tensor, Tensor], cfg: Any, device: str, photos: Tensor | None = None
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
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same batch on every device, no waiting

        def below(limit: int, *count: int) -> Tensor:
            return torch.randint(limit, count, generator=generator)

        num_rendered = len(self.images) // 2 // self.scenes_of_look
        look = below(num_rendered, self.num_looks)
        first = below(self.scenes_of_look, self.num_looks)
        turn = (first[:, None] + torch.arange(self.scenes)) % self.scenes_of_look
        scenes = 2 * (look[:, None] * self.scenes_of_look + turn).flatten()
        normal, defective = (self.images[scenes + twin].permute(0, 3, 1, 2).float() / 255 for twin in (0, 1))
        marked, categories = self.masks[scenes + 1], self.categories[scenes]
        pasted = torch.full_like(categories, 0.35, dtype=torch.float32)
        surface = self.surface[categories]
        if len(self.photos):
            share = torch.rand(self.num_looks, generator=generator)
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
        few = float(torch.rand((), generator=generator)) >= self.zero_shot_share
        shots = 1 + int(below(self.most_shots)) if few and self.most_shots else 0
        return Batch(images, masks, directions.repeat(2, 1, 1), names, products.repeat(2), self.scenes, shots)


def augment_twins(
    normal: Tensor,
    defective: Tensor,
    masks: Tensor,
    size: int,
    seed: int,
    scenes: int = 1,
    large: Tensor | None = None,
    squash: float = 0.15,
    pasted: Tensor | float = 0.35,
) -> Pair:
    """Pictures of B scenes without and with a defect, (B, 3, H, W) each, to 2B windows and their masks.

    Every `scenes` pictures in turn show one product: they are turned, cropped and taken alike, but for a little.
    Both twins get the same of everything, the noise too, so that the defect is all that tells them apart; something
    more is pasted into a share `pasted` of the defective ones, and a whole region of a share `large` of them is
    changed; each share is one number, or (B,) of each picture its own.
    `squash` is the most that a window is stretched, the logarithm of the factor.
    """

    def same() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    twins, nothing = move(normal, torch.zeros_like(masks), size, same(), scenes, squash)
    images, masks = move(defective, masks, size, same(), scenes, squash)
    images, masks = paste_defects(images, masks, same(), share=pasted)
    if large is not None:
        images, masks = change_regions(images, masks, same(), share=large)
    return torch.cat([camera(twins, same(), scenes), camera(images, same(), scenes)]), torch.cat([nothing, masks])


def round_of(step: int, rounds: Sequence[Any]) -> tuple[Any, int]:
    """The round that a step belongs to, the last one for what comes after all; how many of its steps are behind."""
    first = 0
    for now in rounds[:-1]:
        if step < first + now.steps:
            return now, step - first
        first += now.steps
    return rounds[-1], step - first
