"""Which tokens a training works on: cached where that is possible and wanted, computed anew otherwise."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.disk import lacking_room
from models.features import PatchBackbone
from tracks.errors import TrackInputError
from train.adapters.config import TrainOptions
from train.adapters.images import Mosaic, TrainingImages
from train.adapters.processes import ALONE, Processes
from train.adapters.source import Course
from train.adapters.token_cache import CACHE_FOLDER, GIGABYTE, TokenCache
from train.adapters.tokens import LiveTokens, TokenSource

log = logging.getLogger(__name__)
SHARE_OF_DISK = 0.95
"""The cache is not begun where it would take more than this share of the free disk."""


class CacheTooLargeError(TrackInputError):
    """The cache would be larger than allowed; raised before anything is written."""


@contextmanager
def open_sources(
    backbone: PatchBackbone, course: Course, options: TrainOptions, folder: Path, processes: Processes = ALONE
) -> Iterator[tuple[TokenSource, TokenSource]]:
    """Tokens to learn from and tokens to validate on, cached where that is possible and wanted.

    The cache outlives an error or an interruption, for the continuation; after the last epoch it is deleted unless
    `keep_cache`. Of several processes the first builds it while the others wait, then all read it.

    Raises:
        CacheTooLargeError: the cache is too large and `cache` is "always".
    """
    mosaic = Mosaic(course.samples, options.aug_rate) if options.aug_rate else None
    learnt = TrainingImages(course.samples, backbone.preprocess, mosaic, options.seed)
    held_out = TrainingImages(course.validation_samples, backbone.preprocess)
    live = [LiveTokens(backbone, images, processes.device, options.workers) for images in (learnt, held_out)]
    cache_folder = Path(options.cache_dir or folder / CACHE_FOLDER)
    sources, caches = processes.first_then_others(lambda: with_caches(live, options, cache_folder, folder))
    yield sources[0], sources[1]
    if processes.first and not options.keep_cache:
        for cache in caches:
            cache.delete()


def with_caches(
    live: Sequence[LiveTokens], options: TrainOptions, folder: Path, user: Path | None = None
) -> tuple[list[TokenSource], list[TokenCache]]:
    """Each source, or in its place its cache; and the caches.

    `user` is the run folder that the caches in `folder` are for.
    """
    if options.cache == "never":
        return list(live), []
    caches = {index: TokenCache(source, folder, user) for index, source in enumerate(live) if source.images.samples}
    try:
        check_room(list(caches.values()), folder, options.max_cache_gb)
    except CacheTooLargeError as error:
        if options.cache == "always":
            raise
        log.warning("cache=auto goes without a cache, every image is encoded in each epoch: %s", error)
        return list(live), []
    for cache in caches.values():
        cache.build(options.batch_size)
    return [caches.get(index, source) for index, source in enumerate(live)], list(caches.values())


def check_room(caches: Sequence[TokenCache], folder: Path, max_gb: float) -> None:
    """Ask whether the caches may be written into `folder`, before the first byte is.

    Raises:
        CacheTooLargeError: together they would exceed `max_gb` (10^9 bytes each) or the free disk.
    """
    needed = sum(cache.gigabytes for cache in caches)
    if needed > max_gb:
        raise CacheTooLargeError(
            f"expected the token cache to fit into max_cache_gb={max_gb:g}, got {needed:.3g} GB for "
            f"{sum(cache.num_images for cache in caches)} images; raise max_cache_gb, or set cache=never to encode "
            "every image in each epoch"
        )
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(cache.gigabytes_missing for cache in caches)
    if wrong := lacking_room(folder, math.ceil(missing * GIGABYTE / SHARE_OF_DISK), spare_bytes=0):
        raise CacheTooLargeError(
            f"{wrong}, for the token cache; free some space, name a folder on another disk with cache_dir, or set "
            "cache=never"
        )
