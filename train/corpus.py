"""Renders the synthetic source categories in many variants to two files that training maps into memory."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tracks.datasets.synthetic import SOURCE, SOURCE_KINDS, kinds_of, render
from tracks.store import write_atomically

CHUNK = 64


@dataclass(frozen=True)
class CorpusPlan:
    """What to render: every source category in `variants` looks, `pairs` pairs of pictures of each.

    A pair is the same scene without and with a defect, at an even index and the odd one after it.
    """

    variants: int = 40
    pairs: int = 4
    image_size: int = 256
    seed: int = 0

    @property
    def categories(self) -> list[str]:
        """The source categories in alphabetical order; a picture's category is an index into it."""
        return sorted(SOURCE)

    def __len__(self) -> int:
        return len(self.categories) * self.variants * self.pairs * 2

    def picture(self, index: int) -> tuple[int, int, int, str | None]:
        """(category index, variant, scene within it, defect kind or None) of one picture."""
        scene, defective = divmod(index, 2)
        rest, number = divmod(scene, self.pairs)
        category, variant = divmod(rest, self.variants)
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
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, images=images, masks=np.packbits(masks, axis=-1))
    temporary.replace(path)


def _gather(plan: CorpusPlan, folder: Path) -> Corpus:
    chunks = list(_chunks(folder, range(0, len(plan), CHUNK)))
    masks = np.concatenate([chunk["masks"] for chunk in chunks])
    return Corpus(
        plan,
        images=np.concatenate([chunk["images"] for chunk in chunks]),
        masks=np.unpackbits(masks, axis=-1, count=plan.image_size).astype(bool),
        categories=np.array([plan.picture(index)[0] for index in range(len(plan))]),
    )


def _chunks(folder: Path, starts: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    for start in starts:
        with np.load(_chunk_file(folder, start)) as file:
            yield {name: file[name] for name in file.files}
