"""Large images seen whole and in overlapping tiles, by any model that sees squares of one size.

A defect of a few pixels is gone when a photo of 1600 pixels is made 224 wide, and a long strip made a square is
distorted. The model sees each tile as an image of its own; what is learnt of references is learnt for each tile's
position, so that models which compare patch by patch can. Maps are joined with weights that fall to zero at a tile's
edges, without seams. The image score is the mean of the whole's and the highest tile's, both brought to the same level on
the references: the maximum of ever more tiles would only be the maximum of ever more noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import AnomalyModel, Images, Prediction
from models.errors import ModelInputError

OVERLAP = 0.25
"""Of neighbouring tiles, as a share of a tile's side."""
LARGE = 1.5
"""With "auto", an image whose shorter side is more than this many times the model's is cut into two tiles that way."""
STRETCH = 1.2
"""A tile's sides may differ by this factor."""
VIEWS_AT_ONCE = 16
WHOLE, AUTO, NATIVE = "whole", "auto", "native"

Layout = tuple[int, int]
"""Rows and columns of tiles; (0, 0) for the whole image alone."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in shares of the image's sides."""


def layout(size: tuple[int, int], side: int, tiles: str | int) -> Layout:
    """The tiles of an image of (width, height) pixels for a model that sees squares of `side`."""
    short, long = min(size), max(size)
    if tiles == WHOLE:
        return 0, 0
    if tiles == NATIVE:
        along_short = _count(short / side)
    else:
        along_short = int(tiles) if tiles != AUTO else 2 if short > LARGE * side else 1
    along_long = max(along_short, _count(long / (short * share(along_short)) / STRETCH))
    if along_long == 1:
        return 0, 0
    return (along_short, along_long) if size[0] >= size[1] else (along_long, along_short)


def share(count: int) -> float:
    """A tile's share of a side along which `count` of them overlap."""
    return 1 / (count - (count - 1) * OVERLAP)


def boxes(tiles: Layout) -> Iterator[Box]:
    """The tiles of a layout, row by row."""
    down, across = (share(max(1, count)) for count in tiles)
    for row in range(tiles[0]):
        top = (1 - down) * row / max(1, tiles[0] - 1)
        for column in range(tiles[1]):
            left = (1 - across) * column / max(1, tiles[1] - 1)
            yield left, top, left + across, top + down


def _count(times: float) -> int:
    """The fewest tiles along a side that is so many times a tile's."""
    return max(1, math.ceil((times - OVERLAP) / (1 - OVERLAP) - 1e-6))


@dataclass(frozen=True)
class TiledPreprocess:
    """One image to (3, (rows + 1) * S, columns * S): the whole at the top left, its tiles in the rows below."""

    inner: Callable[[PIL.Image.Image], Tensor]
    side: int
    tiles: str | int

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        rows, columns = layout(image.size, self.side, self.tiles)
        canvas = torch.zeros(3, (rows + 1) * self.side, max(1, columns) * self.side)
        canvas[:, : self.side, : self.side] = self.inner(image)
        width, height = image.size
        for number, (left, top, right, bottom) in enumerate(boxes((rows, columns))):
            cut = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
            y, x = (number // columns + 1) * self.side, number % columns * self.side
            canvas[:, y : y + self.side, x : x + self.side] = self.inner(cut)
        return canvas


@dataclass(frozen=True)
class Views:
    """B images as the inner model sees them: `wholes` (B, 3, S, S), all `tiles` (T, 3, S, S), whose they are, and where."""

    wholes: Tensor
    tiles: Tensor
    owners: tuple[int, ...]
    boxes: tuple[Box, ...]

    @staticmethod
    def of(images: Sequence[Tensor], side: int) -> "Views":
        """From the canvases that `TiledPreprocess` makes."""
        tiles, owners, places = [], [], []
        for owner, canvas in enumerate(images):
            rows, columns = _layout_of(canvas, side)
            cells = canvas[:, side:].unflatten(1, (rows, side)).unflatten(3, (-1, side)) if rows else None
            for number, box in enumerate(boxes((rows, columns))):
                assert cells is not None
                tiles.append(cells[:, number // columns, :, number % columns])
                owners.append(owner)
                places.append(box)
        wholes = torch.stack([canvas[:, :side, :side] for canvas in images])
        return Views(wholes, torch.stack(tiles) if tiles else wholes[:0], tuple(owners), tuple(places))


def _layout_of(canvas: Tensor, side: int) -> Layout:
    height, width = canvas.shape[-2:]
    if canvas.ndim != 3 or height % side or width % side:
        raise ModelInputError(
            f"expected images made by the model's own `preprocess`, of shape (3, n x {side}, m x {side}), got "
            f"{tuple(canvas.shape)}"
        )
    rows = height // side - 1
    return rows, width // side if rows else 0


class Tiled(AnomalyModel):
    """A model that also looks at overlapping tiles of large images.

    Args:
        model: any whose `preprocess` gives squares of one size.
        tiles: "auto" (two tiles along the shorter side of a large image, a strip in squares along its length), a number
            of tiles along the shorter side, or "native" (tiles of about the model's own size).
        map_weight: share of the joined tiles' map in the map, the rest being the whole's.
        score_weight: share of the highest tile's score in the image score.
    """

    def __init__(
        self, model: AnomalyModel, tiles: str | int = AUTO, *, map_weight: float = 0.5, score_weight: float = 0.5
    ):
        super().__init__()
        side = model.protocol.get("model_image_size")
        if not isinstance(side, int):
            raise ModelInputError(
                f"expected a model that sees squares of one size where tiles={tiles}, got {type(model).__name__}, which "
                "sees images at other sizes; say tiles=whole"
            )
        if tiles not in (AUTO, NATIVE) and not (isinstance(tiles, int) and tiles >= 2):
            raise ModelInputError(f"expected tiles to be whole, auto, native or a number from 2, got {tiles!r}")
        self.model = model
        self.tiles = tiles
        self.side = side
        self.map_weight = map_weight
        self.score_weight = score_weight
        self.map_side = side * (4 if tiles == NATIVE else 2 if tiles == AUTO else min(int(tiles), 4))
        self.preprocess = TiledPreprocess(model.preprocess, side, tiles)
        self.scores_are_probabilities = model.scores_are_probabilities  # type: ignore[misc]
        self._boxes: dict[str, tuple[Box, ...]] = {}
        self._above: dict[str, float] = {}

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Learn the whole references, and at each tile's position the tiles there."""
        views = Views.of(list(references), self.side)
        self.model.fit(views.wholes, category)
        layouts = [tuple(box for box, owner in zip(views.boxes, views.owners, strict=True) if owner == i) for i in range(len(views.wholes))]
        places = max(layouts, key=layouts.count)
        self._boxes[category] = places
        for number, place in enumerate(places):
            chosen = [_nearest(place, [(t, views.boxes[t]) for t in range(len(views.owners)) if views.owners[t] == i]) for i, own in enumerate(layouts) if own]
            self.model.fit(views.tiles[chosen], _tile_name(category, number))
        self._above[category] = 0.0
        if places:
            whole, tiles = self._reference_parts(category)
            level = torch.stack([self._level(part.image_scores) for part in tiles]).amax(dim=0)
            self._above[category] = float((level - self._level(whole.image_scores)).mean())

    def _reference_parts(self, category: str) -> tuple[Prediction, list[Prediction]]:
        tiles = [self.model.reference_prediction(_tile_name(category, n)) for n in range(len(self._boxes[category]))]
        return self.model.reference_prediction(category), tiles

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """The references as whole images and as tiles, each left out."""
        whole, tiles = self._reference_parts(category)
        places = self._boxes[category]
        count = len(whole.image_scores)
        parts = [Prediction(torch.stack([part.anomaly_maps[i] for part in tiles]), torch.stack([part.image_scores[i] for part in tiles])) if tiles else None for i in range(count)]
        return self._joined(whole, parts, [places] * count, [self._above[category]] * count)

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B preprocessed images of B named categories."""
        if isinstance(categories, str) or len(categories) != len(images):
            raise ModelInputError(f"expected one category for each of {len(images)} images, got {categories!r}")
        views = Views.of(list(images), self.side)
        whole = self.model.predict(views.wholes, categories)
        names = [self._tile_category(categories[owner], box) for owner, box in zip(views.owners, views.boxes, strict=True)]
        found = [
            self.model.predict(views.tiles[start : start + VIEWS_AT_ONCE], names[start : start + VIEWS_AT_ONCE])
            for start in range(0, len(names), VIEWS_AT_ONCE)
        ]
        parts, places = [], []
        for i in range(len(categories)):
            own = [t for t, owner in enumerate(views.owners) if owner == i]
            places.append(tuple(views.boxes[t] for t in own))
            parts.append(
                Prediction(
                    torch.stack([found[t // VIEWS_AT_ONCE].anomaly_maps[t % VIEWS_AT_ONCE] for t in own]),
                    torch.stack([found[t // VIEWS_AT_ONCE].image_scores[t % VIEWS_AT_ONCE] for t in own]),
                ) if own else None
            )
        return self._joined(whole, parts, places, [self._above.get(category, 0.0) for category in categories])

    def _tile_category(self, category: str, box: Box) -> str:
        if category not in self._boxes:
            return category
        places = self._boxes[category]
        return _tile_name(category, _nearest(box, list(enumerate(places)))) if places else category

    def _joined(self, whole: Prediction, tiles: Sequence[Prediction | None], places, above) -> Prediction:
        size = (self.map_side, self.map_side)
        maps = F.interpolate(whole.anomaly_maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        scores = whole.image_scores.clone()
        for i, part in enumerate(tiles):
            if part is None:
                continue
            maps[i] = torch.lerp(maps[i], joined_maps(part.anomaly_maps, places[i], self.map_side), self.map_weight)
            tile = self._level(part.image_scores).max() - above[i]
            scores[i] = self._unlevel(torch.lerp(self._level(scores[i]), tile, self.score_weight))
        return Prediction(maps, scores, whole.scalars)

    def _level(self, scores: Tensor) -> Tensor:
        if not self.scores_are_probabilities:
            return scores
        return scores.double().clamp(1e-6, 1 - 1e-6).logit().float()

    def _unlevel(self, level: Tensor) -> Tensor:
        return level.sigmoid() if self.scores_are_probabilities else level

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """The inner model's labels, and how images are cut."""
        return {**self.model.protocol, "tiles": str(self.tiles)}


def _tile_name(category: str, number: int) -> str:
    return f"{category}, tile {number}"


def _nearest(box: Box, known: Sequence[tuple[int, Box]]) -> int:
    def apart(other: Box) -> float:
        return (other[0] + other[2] - box[0] - box[2]) ** 2 + (other[1] + other[3] - box[1] - box[3]) ** 2
    return min(known, key=lambda pair: apart(pair[1]))[0]


def joined_maps(maps: Tensor, places: Sequence[Box], side: int) -> Tensor:
    """The maps (T, h, w) of tiles as one (side, side) map of the image."""
    total, weights = maps.new_zeros(side, side), maps.new_zeros(side, side)
    for each, box in zip(maps, places, strict=True):
        left, top, right, bottom = (round(edge * side) for edge in box)
        weight = _fading(bottom - top)[:, None] * _fading(right - left)
        weight = weight.to(maps.device)
        tile = F.interpolate(each[None, None], size=(bottom - top, right - left), mode="bilinear", align_corners=False)
        total[top:bottom, left:right] += weight * tile[0, 0]
        weights[top:bottom, left:right] += weight
    return total / weights


@lru_cache(maxsize=64)
def _fading(length: int) -> Tensor:
    """Weights along a tile's side: 1 inside, falling to nearly 0 over the overlap at both ends."""
    position = torch.arange(length) + 0.5
    return (torch.minimum(position, length - position) / (OVERLAP * length)).clamp(max=1)
