"""Renders the synthetic source categories in many variants to two files that training maps into memory."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.disk import replaced, write_atomically
from tracks.datasets.synthetic import INVENTED, SOURCE, SOURCE_KINDS, kinds_of, render

CHUNK = 64


@dataclass(frozen=True)
class CorpusPlan:
    """What to render: every source category in `variants` looks, `scenes` scenes of each look.

    A scene is rendered without and with a defect, at an even index and the odd one after it. Categories whose looks
    are products of their own (`INVENTED`) get `invented` looks.
    """

    variants: int = 24
    invented: int = 240
    scenes: int = 4
    image_size: int = 224
    seed: int = 0

    @property
    def categories(self) -> list[str]:
        """The source categories in alphabetical order; a picture's category is an index into it."""
        return sorted(SOURCE)

    @cached_property
    def looks(self) -> list[tuple[int, int]]:
        """(category index, variant) of every look."""
        return [
            (number, variant)
            for number, category in enumerate(self.categories)
            for variant in range(self.invented if category in INVENTED else self.variants)
        ]

    def __len__(self) -> int:
        return len(self.looks) * self.scenes * 2

    def picture(self, index: int) -> tuple[int, int, int, str | None]:
        """(category index, variant, scene within it, defect kind or None) of one picture."""
        scene, defective = divmod(index, 2)
        look, number = divmod(scene, self.scenes)
        category, variant = self.looks[look]
        if not defective:
            return category, variant, number, None
        draw = np.random.default_rng((self.seed, scene))
        kinds = [kind for kind in kinds_of(self.categories[category]) if kind in SOURCE_KINDS]
        return category, variant, number, str(draw.choice(kinds))


@dataclass(frozen=True)
class Corpus:
    """N pictures: images (N, H, W, 3) uint8, masks (N, H, W) bool, category index (N,)."""

    plan: CorpusPlan
    images: np.ndarray
    masks: np.ndarray
    categories: np.ndarray


def build_corpus(plan: CorpusPlan, folder: Path, workers: int | None = None) -> Corpus:
    """Render the plan into `folder`, or open what was rendered there for the same plan before.

    A picture depends on its place in the plan alone; chunks that a killed rendering finished are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "plan.json"
    wanted = json.dumps(asdict(plan), sort_keys=True)
    if not stamp.is_file() or stamp.read_text() != wanted:
        for path in folder.glob("chunk-*.npz"):
            path.unlink()
        write_atomically(stamp, wanted.encode())
    starts = [start for start in range(0, len(plan), CHUNK) if not _chunk_file(folder, start).is_file()]
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = pool.map(_render_chunk, [plan] * len(starts), [folder] * len(starts), starts)
        for _ in tqdm(jobs, total=len(starts), desc="rendering the source categories", unit="chunk"):
            pass
    return _gather(plan, folder)


def _chunk_file(folder: Path, start: int) -> Path:
    return folder / f"chunk-{start:07d}.npz"


def _render_chunk(plan: CorpusPlan, folder: Path, start: int) -> None:
    size = plan.image_size
    indices = range(start, min(start + CHUNK, len(plan)))
    images = np.zeros((len(indices), size, size, 3), dtype=np.uint8)
    masks = np.zeros((len(indices), size, size), dtype=bool)
    for place, index in enumerate(indices):
        category, variant, number, defect = plan.picture(index)
        rendering = render(
            plan.categories[category], seed=plan.seed, variant=variant, index=number, defect=defect, size=size
        )
        images[place], masks[place] = rendering.image, rendering.mask
    path = _chunk_file(folder, start)
    with replaced(path) as part, part.open("wb") as file:
        np.savez(file, images=images, masks=np.packbits(masks, axis=-1))


def _gather(plan: CorpusPlan, folder: Path) -> Corpus:
    side = plan.image_size
    images = np.empty((len(plan), side, side, 3), dtype=np.uint8)
    masks = np.empty((len(plan), side, side), dtype=bool)
    for start in range(0, len(plan), CHUNK):
        with np.load(_chunk_file(folder, start)) as chunk:
            place = slice(start, start + len(chunk["images"]))
            images[place] = chunk["images"]
            masks[place] = np.unpackbits(chunk["masks"], axis=-1, count=side).astype(bool)
    return Corpus(plan, images, masks, np.array([plan.picture(index)[0] for index in range(len(plan))]))
