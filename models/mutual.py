"""Images scored by each other, in blocks: mutual scoring and a score shared by like images (MuSc, arXiv 2401.16753),
and the mean of the lowest distances to all patches of the others (AnomalyDINO, batched).

What is kept of the images lies in memory, or, beyond a limit, in files of a temporary folder that the system reads and
writes as it finds room.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nearest import MAX_ELEMENTS, held

MEGABYTE = 1024**2


class Scratch:
    """Room for large tensors on the processor, for as long as the block `with Scratch(...)` lasts.

    Args:
        memory_mb: what does not fit into so much any more is kept in files of a temporary folder.
    """

    def __init__(self, memory_mb: float):
        self._all = self._left = memory_mb * MEGABYTE
        self._folder: Path | None = None
        self._files = 0

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of this shape, its content arbitrary."""
        needed = math.prod(shape) * dtype.itemsize
        if needed <= self._left:
            self._left -= needed
            return torch.empty(shape, dtype=dtype)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="vandkit-"))
        self._files += 1
        name = str(self._folder / f"{self._files}.bin")
        return torch.from_file(name, shared=True, size=math.prod(shape), dtype=dtype).view(shape)

    def rows(self, count: int, *shape: int) -> Tensor:
        """A float32 tensor in memory: of `count` rows of this shape as many as fit into what is left, or into a quarter
        of the whole, and one at least.
        """
        fit = int(max(self._left, self._all / 4) / (4 * math.prod(shape)))
        rows = max(1, min(count, fit))
        self._left = max(0, self._left - 4 * rows * math.prod(shape))
        return torch.empty(rows, *shape)


def mutual_scores(
    patches: Tensor, share: float, *, scratch: Tensor, device: torch.device, max_elements: int = MAX_ELEMENTS
) -> Tensor:
    """How unlike the patches (N, L, C), of length 1, are to those of the other images: (N, L) float64.

    Of a patch's N - 1 Euclidean distances, each to the nearest patch of one other image, the mean of the lowest `share`
    (at least one). `scratch` (R, N, L) float32 is written over, with the distances of R images at a time. A product of
    two images' patches gives the nearest in both directions: with R = N each pair is multiplied once, with fewer up to
    twice. No matrix on `device` has more than `max_elements` elements, or one image's patches by another's.
    """
    count, num_patches = patches.shape[:2]
    centre = patches.mean(dim=(0, 1), dtype=torch.float32).to(device)
    lowest = max(1, int((count - 1) * share))
    step = min(len(scratch), max(1, math.isqrt(held(max_elements, device)) // num_patches))
    at_once = count if len(scratch) == count else len(scratch) // step * step
    scores = torch.empty(count, num_patches, dtype=torch.float64)
    for first in range(0, count, at_once):
        own = range(first, min(first + at_once, count))
        _fill(scratch, patches, centre, own, step)
        for row, image in enumerate(own):
            scratch[row, image] = torch.inf
            scores[image] = scratch[row].topk(lowest, dim=0, largest=False).values.double().mean(dim=0)
    return scores


def _fill(scratch: Tensor, patches: Tensor, centre: Tensor, own: range, step: int) -> None:
    """The distances of each patch of the images `own` to the nearest of every image, (len(own), N, L), in blocks."""
    count, num_patches = patches.shape[:2]
    for top in range(own.start, own.stop, step):
        rows = slice(top, min(top + step, own.stop))
        queries, lengths = _block(patches, centre, rows)
        here = slice(rows.start - own.start, rows.stop - own.start)
        for left in range(0, count, step):
            if own.start <= left < top:
                continue  # its mirror image has been written
            columns = slice(left, left + step)
            others, their_lengths = (queries, lengths) if left == top else _block(patches, centre, columns)
            squared = (
                torch.addmm(their_lengths, queries, others.T, alpha=-2)
                if queries.dtype == torch.float32
                else (their_lengths - 2 * (queries @ others.T).float())
            )
            squared = squared.add_(lengths[:, None]).view(-1, num_patches, len(others) // num_patches, num_patches)
            scratch[here, columns] = _root(squared.amin(dim=3)).transpose(1, 2)
            if top < left < own.stop:
                there = slice(left - own.start, left - own.start + squared.shape[2])
                scratch[there, rows] = _root(squared.amin(dim=1)).movedim(0, 1)


def _block(patches: Tensor, centre: Tensor, images: slice) -> tuple[Tensor, Tensor]:
    """The patches of some images as rows, and their squared lengths in float32, on the device of the centre.

    Less the centre of all: distances stay as they are, and far fewer digits cancel in the products.
    """
    rows = (patches[images].to(centre.device).flatten(0, 1) - centre).to(patches.dtype)
    return rows, rows.float().square().sum(dim=1)


def _root(squared: Tensor) -> Tensor:
    return squared.clamp(min=0).sqrt().cpu()


def lowest_means(
    patches: Sequence[Tensor], share: float, *, device: torch.device, max_elements: int = MAX_ELEMENTS
) -> Iterator[Tensor]:
    """How unlike each image's patches (L_i, C), of length 1, are to those of all others: (L_i,), image after image.

    The mean of a patch's distances 1 - cosine below their quantile `share`, in the count of all; where none is below
    it, the distance at it. No matrix has more than `max_elements` elements, or a patch's distances to those that are
    compared at a time.
    """
    total, longest = sum(map(len, patches)), max(map(len, patches))
    for number, own in enumerate(patches):
        others = [*patches[:number], *patches[number + 1 :]]
        count = max(1, int(share * (total - len(own))))
        width = max(longest, 8 * count)
        rows = max(1, held(max_elements, device) // (count + width))
        parts = [_lowest_mean(queries.to(device), others, count, width) for queries in own.split(rows)]
        yield torch.cat(parts)


def _lowest_mean(queries: Tensor, others: Sequence[Tensor], count: int, width: int) -> Tensor:
    lowest = queries.new_empty(len(queries), 0)
    for run in _runs(others, width):
        distances = 1 - queries @ torch.cat(run).to(queries.device).T
        both = torch.cat([lowest, distances], dim=1)
        lowest = both.topk(min(count, both.shape[1]), dim=1, largest=False).values
    edge = lowest.amax(dim=1, keepdim=True)
    below = lowest < edge
    number = below.sum(dim=1)
    return torch.where(number > 0, (lowest * below).sum(dim=1) / number.clamp(min=1), edge[:, 0])


def _runs(images: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """The images in order, as many at a time as have `most` patches together, or one."""
    run: list[Tensor] = []
    for image in images:
        if run and sum(map(len, run)) + len(image) > most:
            yield run
            run = []
        run.append(image)
    yield run


def shared_scores(scores: Tensor, embeddings: Tensor, neighbours: Sequence[int], at_once: int = 1024) -> Tensor:
    """RsCIN: scores (N,), scaled to [0, 1] over the images, averaged over images that are alike.

    For each k the mean of the k images of highest similarity (product of `embeddings` (N, D); itself among them),
    weighted by it; then the mean over all k. No k at all, or a k of 0, leaves the scores as they are.
    """
    if not neighbours or 0 in neighbours:
        return scores
    low, high = scores.aminmax()
    scaled = ((scores - low) / (high - low) if high > low else torch.zeros_like(scores)).float()
    most = min(max(neighbours), len(scores))
    shared = []
    for rows in embeddings.split(at_once):
        similarity, alike = (rows @ embeddings.T).topk(most, dim=1)
        means = (similarity * scaled[alike]).cumsum(dim=1) / similarity.cumsum(dim=1)
        shared.append(torch.stack([means[:, min(k, most) - 1] for k in neighbours]).mean(dim=0))
    return torch.cat(shared)


def aggregated(patches: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """LNAMD: patches (B, L, C) as means of the `degree` x `degree` around each, zeros beyond the edge, of length 1.

    The authors lay the values around a patch out by channel and average them adaptively to C: that is this mean.
    """
    if degree > 1:
        maps = patches.transpose(1, 2).unflatten(2, grid)
        patches = F.avg_pool2d(maps, degree, stride=1, padding=degree // 2).flatten(2).transpose(1, 2)
    return F.normalize(patches, dim=-1)
