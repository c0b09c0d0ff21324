"""The pictures that a reader lists, each with what looking at it and its masks shows."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from tracks.datasets.files import FileSample
from tracks.datasets.images import read_image
from tracks.datasets.masks import Oddity, defects
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError

PARTS = {
    **dict.fromkeys(("train", "validation"), "train"),
    **dict.fromkeys(("test", "test_public", "test_private", "test_private_mixed"), "test"),
}
"""The part of a set that the first folder of a sample's name says."""


@dataclass
class Picture:
    """One image file that a reader lists, in its part ("train", "test", "all"), and what looking at it showed."""

    sample: FileSample
    part: str
    is_read: bool = True
    digest: str = ""
    error: str = ""
    oddities: list[Oddity] = field(default_factory=list)


@dataclass
class Listed:
    """What a reader lists: all pictures, and the number of normal ones to draw references from, by category.

    Without a name where it lists nothing.
    """

    name: str = ""
    pictures: list[Picture] = field(default_factory=list)
    references: dict[str, int] = field(default_factory=dict)


def list_pictures(dataset: Dataset) -> Listed:
    """All that a reader lists, and what it knows but no run with these settings reads (its `unread`)."""
    listed = Listed(dataset.name)
    unread: Callable[[str], Sequence[Sample]] = getattr(dataset, "unread", lambda category: [])
    for category in dataset.categories:
        test = dataset.test(category)
        try:
            train = dataset.train(category)
        except TrackInputError:
            train = []
        listed.references[category] = len(train)
        tested = {sample.name for sample in test}
        alone = [sample for sample in train if sample.name not in tested]
        pool = "all" if train and not alone else "test"
        for part, samples in ((pool, test), ("train", alone), ("", unread(category))):
            listed.pictures += [
                Picture(sample, PARTS.get(sample.name.split("/")[0].casefold(), part or "all"), is_read=bool(part))
                for sample in samples
                if isinstance(sample, FileSample)
            ]
    return listed


def look_at(pictures: Sequence[Picture], mask_above: float, workers: int) -> None:
    """Decode every picture and mask once, as a run would; nothing raises."""

    def look(picture: Picture) -> None:
        sample = picture.sample
        try:
            image = read_image(sample.path, sample.bit_depth)
            picture.digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
            if sample.label == 1 and sample.mask_path:
                _, picture.oddities = defects(sample.path, [sample.mask_path, *sample.more_masks], mask_above)
        except TrackInputError as error:
            picture.error = str(error)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in tqdm(pool.map(look, pictures), "looking", len(pictures), disable=None, leave=False):
            pass
