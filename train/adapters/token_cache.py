"""Encoder outputs on disk, so that every epoch after the first costs no encoder pass.

The encoder is frozen: an image that nothing random touches has the same tokens in every epoch. Mosaics are encoded when
they are drawn. Trainings that share a folder share a cache: each leaves its mark there, and the last one deletes it.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.disk import alone, write_atomically
from models.features import ImageFeatures
from tracks.errors import TrackInputError
from tracks.run.fingerprint import weights_digest
from tracks.run.loading import cut
from train.adapters.tokens import LiveTokens, TokenBatch, encode, merged

log = logging.getLogger(__name__)
GIGABYTE = 1e9
CACHE_FOLDER = "cache"
COMPLETE_FILE = "complete.json"
USERS_FOLDER = "used_by"
"""One file for each training that uses the cache, with its run folder inside."""


@dataclass(frozen=True)
class Layout:
    """Shapes of one image's part in the cache: embedding width, tokens and width of each stage, mask size."""

    embedding: int
    stages: tuple[tuple[int, int], ...]
    grids: tuple[tuple[int, int], ...]
    mask: tuple[int, int]

    @classmethod
    def of(cls, batch: TokenBatch) -> "Layout":
        """The layout that a batch shows."""
        features = batch.features
        return cls(
            embedding=int(features.embedding.shape[1]),
            stages=tuple((int(stage.shape[1]), int(stage.shape[2])) for stage in features.stages),
            grids=tuple((int(h), int(w)) for h, w in features.grids),
            mask=(int(batch.masks.shape[1]), int(batch.masks.shape[2])),
        )

    @property
    def files(self) -> dict[str, np.dtype]:
        """Name of every file and the type of a row, an image's: float16 features, one byte per mask pixel."""
        stages = {f"stage_{index}.f16": np.dtype((np.float16, shape)) for index, shape in enumerate(self.stages)}
        embedding, masks = np.dtype((np.float16, (self.embedding,))), np.dtype((np.uint8, self.mask))
        return {"embedding.f16": embedding, **stages, "masks.u8": masks}

    @property
    def bytes_per_image(self) -> int:
        """Bytes on disk for one image."""
        return sum(row.itemsize for row in self.files.values())


class TokenCache:
    """Raw encoder outputs of a list of images in float16, memory-mapped from `folder`; mosaics are encoded when drawn.

    Files grow by whole batches, so that a build that was killed continues where it stopped. The folder is named
    after the weights, the images and the size: nothing else is ever read from it. `user` is the run folder of the
    training that reads it; one without is nobody's neighbour.
    """

    def __init__(self, live: LiveTokens, folder: Path, user: Path | None = None):
        self.live, self.plain = live, replace(live, images=replace(live.images, mosaic=None))
        self.folder = Path(folder) / cache_key(live)
        self.user = user

    @property
    def num_images(self) -> int:
        """Images in the cache once it is built."""
        return len(self.live.images.samples)

    @property
    def gigabytes_missing(self) -> float:
        """Room that the files still to be written take."""
        there = sum(path.stat().st_size for path in self.folder.glob("*.*")) if self.folder.is_dir() else 0
        return max(self.gigabytes - there / GIGABYTE, 0.0)

    @property
    def gigabytes(self) -> float:
        """Room that all files take."""
        return self.layout.bytes_per_image * self.num_images / GIGABYTE

    @cached_property
    def layout(self) -> Layout:
        """Shapes, found by encoding the first image."""
        return Layout.of(next(self.plain.batches([0], 1)))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every file as a read-only array, one row per image."""
        return {
            name: np.memmap(self.folder / name, dtype=row, mode="r", shape=(self.num_images,))
            for name, row in self.layout.files.items()
        }

    def build(self, batch_size: int) -> None:
        """Encode the images that are missing, in the order of the list, in batches of `batch_size`.

        Another training that is at it is waited for, and then finds itself served.
        """
        with _alone(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.user is not None:
                mark = _mark(self.folder, self.user)
                mark.parent.mkdir(exist_ok=True)
                mark.write_text(str(self.user.resolve()), encoding="utf-8")
            self._encode_missing(batch_size)

    def _encode_missing(self, batch_size: int) -> None:
        done = self._rows_done(batch_size)
        if done == self.num_images:
            return
        with ExitStack() as stack:
            files = {name: stack.enter_context((self.folder / name).open("ab")) for name in self.layout.files}
            bar = stack.enter_context(tqdm(total=self.num_images, initial=done, desc="encode once", unit="image"))
            for batch in self.plain.batches(range(done, self.num_images), batch_size):
                for name, array in _rows(batch).items():
                    files[name].write(array.tobytes())
                bar.update(len(batch.categories))
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        write_atomically(self.folder / COMPLETE_FILE, json.dumps(asdict(self.layout)).encode())

    def delete(self) -> None:
        """Give the disk back, unless another training uses the cache."""
        self.__dict__.pop("arrays", None)
        release(self.folder, self.user)

    def batches(self, order: Sequence[int], batch_size: int, *, epoch: int = 0) -> Iterator[TokenBatch]:
        """The same pictures in the same order as without the cache."""
        images, groups = self.live.images, cut(order, batch_size)
        drawn = [[index for index in group if images.replaced(index, epoch)] for group in groups]
        mosaics = images.groups([group for group in drawn if group], epoch=epoch, workers=self.live.workers)
        for group, replaced in zip(groups, drawn, strict=True):
            kept = [index for index in group if index not in replaced]
            parts = [(kept, self._read(kept))] if kept else []
            if replaced:
                parts.append((replaced, encode(self.live.backbone, next(mosaics), self.live.device)))
            yield merged(parts, group)

    def _rows_done(self, batch_size: int) -> int:
        """Rows that all files hold, cut back to whole batches."""
        if (self.folder / COMPLETE_FILE).is_file():
            return self.num_images
        paths = {self.folder / name: row.itemsize for name, row in self.layout.files.items()}
        rows = [path.stat().st_size // size if path.is_file() else 0 for path, size in paths.items()]
        done = min(rows) // batch_size * batch_size
        for path, size in paths.items():
            with path.open("ab") as file:
                file.truncate(done * size)
        return done

    def _read(self, indices: Sequence[int]) -> TokenBatch:
        rows = {
            name: torch.from_numpy(array[list(indices)]).to(self.live.device) for name, array in self.arrays.items()
        }
        features = ImageFeatures(
            embedding=rows["embedding.f16"].float(),
            stages=tuple(rows[f"stage_{index}.f16"].float() for index in range(len(self.layout.stages))),
            grids=self.layout.grids,
        )
        samples = self.live.images.samples
        return TokenBatch(features, rows["masks.u8"].bool(), tuple(samples[index].category for index in indices))


def _rows(batch: TokenBatch) -> dict[str, np.ndarray]:
    rows = {"embedding.f16": _half(batch.features.embedding), "masks.u8": batch.masks.cpu().numpy().view(np.uint8)}
    stages = {f"stage_{index}.f16": _half(stage) for index, stage in enumerate(batch.features.stages)}
    return {**rows, **stages}


def release(cache: Path, user: Path | None) -> None:
    """Delete a cache that no training but that of the run folder `user` has left its mark in."""
    with _alone(cache):
        if user is not None:
            _mark(cache, user).unlink(missing_ok=True)
        marks = cache.glob(f"{USERS_FOLDER}/*")
        others = [path for mark in marks if Path(path := mark.read_text(encoding="utf-8")).is_dir()]
        if others:
            log.warning("the token cache %s stays: %s still uses it", cache, ", ".join(others))
        else:
            shutil.rmtree(cache, ignore_errors=True)
    with suppress(OSError):  # something else is in it
        cache.parent.rmdir()


def _alone(cache: Path) -> AbstractContextManager[None]:
    return alone(cache.with_name(f".{cache.name}.lock"), f"the token cache {cache}")


def _mark(cache: Path, user: Path) -> Path:
    return cache / USERS_FOLDER / hashlib.sha256(str(user.resolve()).encode()).hexdigest()[:16]


def cache_key(live: LiveTokens) -> str:
    """Digest of all that decides the tokens: encoder weights and settings, images in order."""
    backbone = live.backbone
    assert isinstance(backbone, nn.Module)
    facts = {
        "weights": weights_digest(backbone),
        "settings": [
            backbone.name,
            backbone.stages,
            backbone.image_size,
            getattr(backbone, "activation", ""),
            getattr(backbone, "precision", "float32"),
        ],
        "images": [(sample.category, sample.name, sample.fingerprint) for sample in live.images.samples],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _half(tensor: Tensor) -> np.ndarray:
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise TrackInputError(
            "expected encoder tokens within float16 (at most 65,504), got larger or undefined ones; set cache=never"
        )
    return half.cpu().numpy()
