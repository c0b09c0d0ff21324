"""Large images seen whole and in overlapping tiles, by any model that sees squares of one size.

A defect of a few pixels is gone when a photo of 1600 pixels is made 224 wide, and a long strip made a square is
distorted. The model sees each tile as an image of its own; what is learnt of references is learnt for each tile's
position, so that models which compare patch by patch can. Maps are joined with weights that fall to zero at a tile's
edges, without seams. The image score is the weighted mean of the whole's and the highest tile's, brought to the same
level on the references: the maximum of ever more tiles alone would be the maximum of ever more noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import INDUCTIVE, AnomalyModel, Images, Prediction, State, below, check_categories
from models.errors import ModelInputError
from models.images import Preprocess, in_rgb
from models.references import MAX_REFERENCES, ManyReferences, cut, joined

OVERLAP = 0.25
"""Of neighbouring tiles, as a share of a tile's side."""
LARGE = 1.5
"""With "auto", an image whose shorter side is more than this many times the model's is cut into two tiles that way."""
STRETCH = 1.2
"""A tile's sides may differ by this factor."""
VIEWS_AT_ONCE, DEVICE_VIEWS = 4, 32
"""Wholes or tiles in a batch: what of them is worked on then fits a processor's cache; and on any other device."""
KEPT_TIMES = 3
"""A large photo is first averaged down by a whole factor, its tiles to no less than so many times a model's side: what
is left for the bicubic resize costs a quarter, and pixels differ by a grey level at the most."""
MOST_TILES = 16
MOST_NATIVE = 8
"""Along the shorter side, so that a photo of 12 megapixels needs some 60 MB."""
LEAST_SCORE = 1e-6
"""Probabilities nearer to 0 or 1 count as this."""
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
        along_short = min(MOST_NATIVE, _count(short / side))
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


def reduced(image: PIL.Image.Image, side: int, tiles: Layout) -> PIL.Image.Image:
    """A photo as small as its tiles allow (`KEPT_TIMES`)."""
    rows, columns = (max(1, count) for count in tiles)
    factor = int(min(image.width * share(columns), image.height * share(rows)) / (KEPT_TIMES * side))
    return in_rgb(image).reduce(factor) if factor > 1 else image


def _count(times: float) -> int:
    """The fewest tiles along a side that is so many times a tile's."""
    return max(1, math.ceil((times - OVERLAP) / (1 - OVERLAP) - 1e-6))


@dataclass(frozen=True)
class TiledPreprocess:
    """One image to (3, (rows + 1) * S, columns * S): the whole at the top left, its tiles in the rows below.

    In bytes where `inner` is a `Preprocess`, a quarter of the memory on the way to the model, which finishes them; else
    as `inner` makes them.
    """

    inner: Callable[[PIL.Image.Image], Tensor]
    side: int
    tiles: str | int

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """One image to a tensor."""
        rows, columns = layout(image.size, self.side, self.tiles)
        image = reduced(image, self.side, (rows, columns))
        make = self.inner.pixels if isinstance(self.inner, Preprocess) else self.inner
        whole = make(image)
        canvas = whole.new_zeros(3, (rows + 1) * self.side, max(1, columns) * self.side)
        canvas[:, : self.side, : self.side] = whole
        width, height = image.size
        for number, (left, top, right, bottom) in enumerate(boxes((rows, columns))):
            cut = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
            y, x = (number // columns + 1) * self.side, number % columns * self.side
            canvas[:, y : y + self.side, x : x + self.side] = make(cut)
        return canvas

    def finished(self, views: Tensor) -> Tensor:
        """Views (N, 3, S, S), cut from canvases, as the inner model takes them."""
        if isinstance(self.inner, Preprocess) and not views.is_floating_point():
            return self.inner.finished(views)
        return views


@dataclass(frozen=True)
class Views:
    """B images as the inner model sees them.

    `wholes` (B, 3, S, S); `tiles` (T, 3, S, S), those of an image together; for each tile its image in `owners` and its
    place in `boxes`.
    """

    wholes: Tensor
    tiles: Tensor
    owners: tuple[int, ...]
    boxes: tuple[Box, ...]

    @staticmethod
    def of(images: Images, preprocess: TiledPreprocess, device: torch.device) -> "Views":
        """From the canvases that `preprocess` made."""
        wholes: list[Tensor] = []
        tiles: list[Tensor] = []
        owners: list[int] = []
        places: list[Box] = []
        side = preprocess.side
        for owner, canvas in enumerate(images):
            rows, columns = _layout_of(canvas, side)
            cells = canvas.unflatten(1, (rows + 1, side)).unflatten(3, (-1, side)).permute(1, 3, 0, 2, 4)
            wholes.append(cells[0, 0])
            tiles.append(cells[1:].flatten(0, 1))
            owners += [owner] * (rows * columns)
            places += boxes((rows, columns))
        views = [preprocess.finished(each.to(device)) for each in (torch.stack(wholes), torch.cat(tiles))]
        return Views(views[0], views[1], tuple(owners), tuple(places))

    def by_image(self) -> list[list[int]]:
        """The numbers of each image's tiles."""
        tiles: list[list[int]] = [[] for _ in self.wholes]
        for tile, owner in enumerate(self.owners):
            tiles[owner].append(tile)
        return tiles

    def cut_alike(self) -> Iterator[tuple[tuple[Box, ...], list[int], Tensor]]:
        """The places of T tiles, the N images that have tiles there, and the numbers of theirs, (N, T)."""
        groups: dict[tuple[Box, ...], list[int]] = {}
        every = self.by_image()
        for image, tiles in enumerate(every):
            groups.setdefault(tuple(self.boxes[tile] for tile in tiles), []).append(image)
        for places, members in groups.items():
            if places:
                yield places, members, torch.tensor([every[image] for image in members])


def _layout_of(canvas: Tensor, side: int) -> Layout:
    height, width = canvas.shape[-2:]
    if canvas.ndim != 3 or height < side or height % side or width < side or width % side:
        raise ModelInputError(
            f"expected images made by the model's own `preprocess`, of shape (3, n x {side}, m x {side}), got "
            f"{tuple(canvas.shape)}"
        )
    rows = height // side - 1
    return rows, width // side if rows else 0


class Tiled(AnomalyModel):
    """A model that looks at overlapping tiles of large images as well.

    Args:
        model: any whose `preprocess` gives squares of one size, its protocol's `model_image_size`.
        tiles: "auto" (two tiles along the shorter side of a large image; a strip in squares along its length), a number
            of tiles along the shorter side, or "native" (tiles of about the model's own size).
        map_weight: share of the tiles' map in the map, the rest being the whole's.
        score_weight: share of the highest tile's score in the image score.
        max_references: of more, evenly spread ones are learnt and the others only scored, as in the models; fewer than
            there, since each position of a tile keeps its own.
    """

    preprocess: TiledPreprocess

    def __init__(
        self, model: AnomalyModel, tiles: str | int = AUTO, *, map_weight: float = 0.3, score_weight: float = 0.3,
        max_references: int = MAX_REFERENCES // 2,
    ):  # fmt: skip
        super().__init__()
        side = model.protocol.get("model_image_size")
        if model.setting != INDUCTIVE:
            raise ModelInputError(
                f"expected a model that scores each image by itself with tiles={tiles}, got {type(model).__name__}, "
                f"which is {model.setting}; say tiles=whole"
            )
        if not isinstance(side, int):
            raise ModelInputError(
                f"expected a model that sees squares of one size with tiles={tiles}, got {type(model).__name__}, which "
                "does not; say tiles=whole"
            )
        check_tiles(tiles)
        self.model = model
        self.tiles = tiles
        self.side = side
        self.map_weight = map_weight
        self.score_weight = score_weight
        self.map_side = side * (2 if tiles == AUTO else 4 if tiles == NATIVE else min(int(tiles), 4))
        self.preprocess = TiledPreprocess(model.preprocess, side, tiles)
        self.scores_are_probabilities = model.scores_are_probabilities  # type: ignore[misc]
        self._many = ManyReferences(max_references)
        self._places: dict[str, tuple[Box, ...]] = {}
        self._above: dict[str, float] = {}

    @torch.no_grad()
    def fit(self, references: Images, category: str) -> None:
        """Learn the whole references, and at each position of a tile what the references show there."""
        for name, views in self._parts(self._many.remembered(references, category), category):
            self.model.fit(views, name)
        self._above[category] = self._height(category)

    def state(self, category: str) -> State:
        """What the inner model learnt of the whole and of each position of a tile."""
        if category not in self._places:
            raise KeyError(f"expected a category with references, got {category!r}; call `fit` for it")
        state = {f"whole.{name}": tensor for name, tensor in self.model.state(category).items()}
        for number in range(len(self._places[category])):
            of_tile = self.model.state(_tile_name(category, number))
            state |= {f"tile{number}.{name}": tensor for name, tensor in of_tile.items()}
        return state | {"above": torch.tensor(self._above[category], dtype=torch.float64)}

    @torch.no_grad()
    def load_state(self, state: State, category: str, references: Images) -> None:
        """Know a category as `fit` left it."""
        positions = self._many.among(references, category)
        parts = self._parts([references[i] for i in positions], category)
        for number, (name, views) in enumerate(parts):
            self.model.load_state(below(state, f"tile{number - 1}." if number else "whole."), name, views)
        self._above[category] = float(state["above"])

    @torch.no_grad()
    def predict(self, images: Images, categories: Sequence[str]) -> Prediction:
        """Score B preprocessed images of B named categories.

        Raises:
            KeyError: once `fit` was called, for a category that was not fitted.
            ModelInputError: images of another shape, or not one category per image.
        """
        check_categories(images, categories)
        views = self.views(images)
        names = [self._name_at(categories[owner], box) for owner, box in zip(views.owners, views.boxes, strict=True)]
        order = sorted(range(len(names)), key=lambda tile: (names[tile], tile))  # those that share references together
        at_once = VIEWS_AT_ONCE if self.device.type == "cpu" else DEVICE_VIEWS
        wholes = cut(range(len(images)), at_once)
        jobs = [(views.wholes[part], [categories[i] for i in part]) for part in wholes]
        jobs += [(views.tiles[part], [names[i] for i in part]) for part in cut(order, at_once)]
        seen = side_by_side(self.model.predict, jobs, self.device)
        whole = joined(seen[: len(wholes)], range(len(images)))
        levels, maps = self._levelled(whole.image_scores), self._enlarged(whole.anomaly_maps)
        if order:
            found = joined(seen[len(wholes) :], order)
            of_tiles, above = self._levelled(found.image_scores), [self._above.get(each, 0.0) for each in categories]
            for places, members, tiles in views.cut_alike():
                together = joined_maps(found.anomaly_maps[tiles], places, self.map_side)
                maps[members] = torch.lerp(maps[members], together, self.map_weight)
                highest = of_tiles[tiles].amax(dim=1) - levels.new_tensor(above)[members]
                levels[members] = torch.lerp(levels[members], highest, self.score_weight)
        return Prediction(maps, self._scores(levels), whole.scalars)

    @torch.no_grad()
    def reference_prediction(self, category: str) -> Prediction:
        """The references as whole images and as tiles, each left out of what was learnt."""
        whole, tiles = self.model.reference_prediction(category), self._reference_tiles(category)
        maps, levels = self._enlarged(whole.anomaly_maps), self._levelled(whole.image_scores)
        if tiles:
            of_image = torch.stack([tile.anomaly_maps for tile in tiles], dim=1)
            joined = joined_maps(of_image, self._places[category], self.map_side)
            highest = torch.stack([self._levelled(tile.image_scores) for tile in tiles]).amax(dim=0)
            maps = torch.lerp(maps, joined, self.map_weight)
            levels = torch.lerp(levels, highest - self._above[category], self.score_weight)
        return self._many.with_others(self, category, Prediction(maps, self._scores(levels), whole.scalars))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """The inner model's labels, and how images are cut."""
        how = {
            AUTO: "the whole, and tiles of a large or long image",
            NATIVE: f"the whole, and tiles of {self.side} px, at most {MOST_NATIVE} along the shorter side",
        }
        return {
            **self.model.protocol,
            "tiles": how.get(str(self.tiles), f"the whole, and {self.tiles} tiles along the shorter side"),
            "tile_weights": f"{self.map_weight:g} of the map, {self.score_weight:g} of the image score for the highest "
            "tile, less what it is above the whole in the references",
            "tile_references": self._many.label,
        }

    def views(self, images: Images) -> Views:
        """What the inner model sees of canvases."""
        return Views.of(images, self.preprocess, self.device)

    def learnt_places(self, category: str) -> tuple[tuple[Box, ...], float]:
        """The positions of the tiles that a category's references have, and how far the highest is above the whole."""
        return self._places.get(category, ()), self._above.get(category, 0.0)

    def tile_names(self, category: str) -> list[str]:
        """What the inner model knows the tiles' content as, position by position."""
        return [_tile_name(category, number) for number in range(len(self._places.get(category, ())))]

    def _parts(self, references: Images, category: str) -> Iterator[tuple[str, Tensor]]:
        """What the inner model is to know: the whole references, and what they show at each place, with its name."""
        views = self.views(references)
        yield category, views.wholes
        own = views.by_image()
        layouts = [tuple(views.boxes[tile] for tile in tiles) for tiles in own]
        self._places[category] = places = max(layouts, key=layouts.count)
        for number, place in enumerate(places):
            chosen = [tiles[_nearest(place, layout)] for tiles, layout in zip(own, layouts, strict=True) if tiles]
            yield _tile_name(category, number), views.tiles[chosen]

    def _reference_tiles(self, category: str) -> list[Prediction]:
        count = len(self._places[category])
        return [self.model.reference_prediction(_tile_name(category, number)) for number in range(count)]

    def _height(self, category: str) -> float:
        """By how much the highest tile of a reference is above the whole of it, on average over the references."""
        tiles = self._reference_tiles(category)
        if not tiles:
            return 0.0
        highest = torch.stack([self._levelled(tile.image_scores) for tile in tiles]).amax(dim=0)
        return float((highest - self._levelled(self.model.reference_prediction(category).image_scores)).mean())

    def _name_at(self, category: str, box: Box) -> str:
        """What the model knows a tile's content as; the image's category if it learnt no tiles."""
        places = self._places.get(category)
        return _tile_name(category, _nearest(box, places)) if places else category

    def _enlarged(self, maps: Tensor) -> Tensor:
        size = (self.map_side, self.map_side)
        return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]

    def _levelled(self, scores: Tensor) -> Tensor:
        """Scores on a scale whose differences compare: log odds of probabilities, else as they are."""
        if not self.scores_are_probabilities:
            return scores.clone()
        return scores.double().clamp(LEAST_SCORE, 1 - LEAST_SCORE).logit().float()

    def _scores(self, levels: Tensor) -> Tensor:
        return levels.sigmoid() if self.scores_are_probabilities else levels


def check_tiles(tiles: str | int) -> None:
    """Refuse what is no way to cut an image."""
    number = isinstance(tiles, int) and not isinstance(tiles, bool) and 2 <= tiles <= MOST_TILES
    if tiles not in (WHOLE, AUTO, NATIVE) and not number:
        raise ModelInputError(
            f"expected tiles to be whole, auto, native or a number from 2 to {MOST_TILES}, got {tiles!r}"
        )


def joined_maps(maps: Tensor, places: Sequence[Box], side: int) -> Tensor:
    """The maps (..., T, h, w) of T tiles as one map (..., side, side) of each image."""
    total, weights = maps.new_zeros(*maps.shape[:-3], side, side), maps.new_zeros(side, side)
    for tile, place in zip(maps.unbind(dim=-3), places, strict=True):
        left, top, right, bottom = (round(edge * side) for edge in place)
        size = (bottom - top, right - left)
        weight = _fading(size[0], maps.device)[:, None] * _fading(size[1], maps.device)
        stretched = F.interpolate(
            tile.reshape(-1, 1, *tile.shape[-2:]), size=size, mode="bilinear", align_corners=False
        )
        total[..., top:bottom, left:right] += weight * stretched.reshape(*maps.shape[:-3], *size)
        weights[top:bottom, left:right] += weight
    return total / weights


@lru_cache(maxsize=64)
def _fading(length: int, device: torch.device) -> Tensor:
    """Weights along a tile's side: 1 inside, falling to nearly 0 over the overlap at both ends."""
    position = torch.arange(length) + 0.5
    return (torch.minimum(position, length - position) / (OVERLAP * length)).clamp(max=1).to(device)


def side_by_side(
    predict: Callable[..., Prediction], jobs: Sequence[tuple[Any, ...]], device: torch.device
) -> list[Prediction]:
    """The predictions of several batches, in order; on a CPU one batch to a core, quicker than all cores to each.

    Small convolutions gain little of a second core: two batches at a time take half the time of one after the other.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(jobs) == 1:
        return [predict(*job) for job in jobs]
    inference = torch.is_inference_mode_enabled()

    def alone(job: tuple[Any, ...]) -> Prediction:
        torch.set_num_threads(1)
        with torch.inference_mode(inference):
            return predict(*job)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, jobs))
    finally:
        torch.set_num_threads(threads)


def _tile_name(category: str, number: int) -> str:
    return f"{category}, tile {number}"


def _nearest(box: Box, places: Sequence[Box]) -> int:
    """Which of the places has its middle nearest to a box's."""

    def apart(number: int) -> float:
        left, top, right, bottom = places[number]
        return (left + right - box[0] - box[2]) ** 2 + (top + bottom - box[1] - box[3]) ** 2

    return min(range(len(places)), key=apart)
