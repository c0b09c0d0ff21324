"""The saliency prompt, SAA+ Eq. 5: how unlike the rest of its image each patch is.

"paper": the mean of 1 - cosine to the N = 400 nearest patches of the image, a patch itself not counting.
"released", as the published code has it: half of 1 - cosine, to the 400 farthest patches; and where several instances
of an object are expected, to the nearest patch of any other instance, 0 outside all. Our own: normalised stages, and
few-shot: half of 1 - cosine to the nearest patch of normal references.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import ByCategory, State, moved
from models.errors import ModelInputError, checked
from models.images import check_image, nearest_rows, resize_bytes
from models.saa.saliency.distances import SCALE, Reference, ReferenceBank, distance_elsewhere, mean_distance
from models.saa.saliency.features import FeatureNet

logger = logging.getLogger(__name__)

Rule = Literal["paper", "released"]
Neighbours = Literal["nearest", "farthest"]
Grid = tuple[int, int]
"""(height, width) in patches."""
LEAST_SIZE = 32
"""Largest stride of a net in pixels."""


class RuleSettings(NamedTuple):
    """What a rule stands for."""

    neighbours: Neighbours
    scale: float
    opencv_resize: bool


RULES: dict[Rule, RuleSettings] = {
    "paper": RuleSettings("nearest", 1.0, False), "released": RuleSettings("farthest", 0.5, True),
}  # fmt: skip


class Saliency(nn.Module):
    """Maps of how unlike the rest each pixel of an image is, at the image's own size.

    Args:
        net: gives the features.
        rule: "paper" or "released".
        num_neighbours: N of Eq. 5; all others where there are fewer.
        neighbours: "nearest" or "farthest" instead of the rule's.
        scale: of the distance, instead of the rule's: 1 for 1 - cosine, 0.5 for half of it.
        opencv_resize: whether the input is resized and rounded as OpenCV does it with bytes, instead of the rule's;
            only for a net whose own resizing does not average over what it leaves out (`antialias` is False).
        size: side in pixels of the net's input.
        several_size: the same where several instances are compared.
        enlarge: whether a smaller picture is enlarged to these; else the net sees it at its longer side's size.
        normalise_stages: bring each stage's features to length 1 before they are joined.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is compared
            with itself.
    """

    def __init__(
        self, net: FeatureNet, *, rule: Rule = "paper", num_neighbours: int = 400,
        neighbours: Neighbours | None = None, scale: float | None = None, opencv_resize: bool | None = None,
        size: int = 256, several_size: int = 1024, enlarge: bool = True, normalise_stages: bool = False,
        own_window: float = 0.15,
    ):  # fmt: skip
        super().__init__()
        settings = RULES[checked("rule", rule, rule in RULES, " or ".join(RULES))]
        self.net = net
        self.rule = rule
        self.num_neighbours = checked("num_neighbours", num_neighbours, num_neighbours >= 1, "at least 1")
        self.neighbours = neighbours or settings.neighbours
        checked("neighbours", self.neighbours, self.neighbours in get_args(Neighbours), "nearest, farthest or null")
        self.scale = settings.scale if scale is None else checked("scale", scale, scale > 0, "above 0")
        wanted = settings.opencv_resize if opencv_resize is None else opencv_resize
        self.opencv_resize = wanted and getattr(net, "antialias", None) is False
        self.size = checked("size", size, size >= LEAST_SIZE, f"at least {LEAST_SIZE}")
        self.several_size = checked("several_size", several_size, several_size >= LEAST_SIZE, f"at least {LEAST_SIZE}")
        self.enlarge = enlarge
        self.normalise_stages = normalise_stages
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self._banks: ByCategory[ReferenceBank] = ByCategory()
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def highest(self) -> float:
        """The saliency of a patch that has nothing in common with the others (cosine 0)."""
        return SCALE if self._banks else self.scale

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this saliency."""
        distance = "1 - cosine" if self.scale == 1 else f"{self.scale:g} (1 - cosine)"
        options = ["stages normalised"] * self.normalise_stages + ["smaller pictures as they are"] * (not self.enlarge)
        return {
            **self.net.protocol,
            "saliency_resize": "8 bits, as OpenCV's INTER_LINEAR" if self.opencv_resize else "as the features say",
            "saliency": f"mean of {distance} to the {self.num_neighbours} {self.neighbours} patches (Eq. 5), input "
            f"{self.size} px; several instances: to the nearest patch of another one, input {self.several_size} px",
            "saliency_options": ", ".join(options) or "none",
            "few_shot_saliency": f"{SCALE:g} (1 - cosine) to the nearest patch of the references",
        }

    @torch.no_grad()
    def forward(
        self, image: Tensor, objects: Tensor | Iterable[Tensor] | None = None, *, category: str | None = None
    ) -> Tensor:
        """Saliency (H, W) float32 >= 0 of a (3, H, W) uint8 RGB image, on the device that this module is on.

        Args:
            image: of any size, on any device.
            objects: (M, H, W) bool, the instances where several are expected: each is compared with the others. With
                fewer than two there is nothing to compare, and the saliency is 0. An iterable of such stacks is gone
                through once, so that not all masks need to be held at full size.
            category: whose references to compare with, instead of the image itself.

        Raises:
            KeyError: a category without references, once any category has some.
            ModelInputError: anything but such an image, or masks of another size.
        """
        check_image(image)
        if category is not None and self._banks:
            tokens, grid = self._tokens(image, self.size)
            values = self._banks[category].distance(tokens.contiguous())
        elif objects is not None:
            values, grid = self._unlike_other_objects(image, objects)
        else:
            tokens, grid = self._tokens(image, self.size)
            values = self.scale * mean_distance(tokens.contiguous(), self.num_neighbours, self.neighbours == "farthest")
        return _upsampled(values, grid, image.shape[1:])

    @torch.no_grad()
    def fit(self, references: Sequence[Tensor], category: str) -> None:
        """Remember normal images (3, H, W) uint8 of a category, of any sizes; replaces what was known of it.

        Raises:
            ModelInputError: no reference, or something else among them.
        """
        if len(references) == 0:
            raise ModelInputError(f"expected at least one reference image of {category!r}, got none")
        known = []
        for image in references:
            check_image(image)
            tokens, grid = self._tokens(image, self.size)
            known.append(Reference(tokens, grid, (image.shape[1], image.shape[2])))
        self._banks[category] = ReferenceBank(known, self.own_window)

    def state(self, category: str) -> State:
        """What is remembered of a category, for a file."""
        state: State = {}
        for i, known in enumerate(self._banks[category].references):
            state |= {
                f"reference{i}.tokens": known.tokens,
                f"reference{i}.sides": torch.tensor([known.grid, known.size]),
            }
        return state

    def load_state(self, state: State, category: str) -> None:
        """Know a category as `fit` left it."""
        known = []
        for i in range(sum(name.endswith(".tokens") for name in state)):
            grid, size = state[f"reference{i}.sides"].tolist()
            tokens = state[f"reference{i}.tokens"].to(self._here.device)  # type: ignore[arg-type]
            known.append(Reference(tokens, (grid[0], grid[1]), (size[0], size[1])))
        self._banks[category] = ReferenceBank(known, self.own_window)

    @torch.no_grad()
    def reference_maps(self, category: str) -> list[Tensor]:
        """The saliency (H, W) of each reference of a category as if it were not among them.

        A single one is compared with itself, patches near each patch excluded.
        """
        left_out = self._banks[category].left_out()
        return [_upsampled(distance, reference.grid, reference.size) for distance, reference in left_out]

    def _unlike_other_objects(self, image: Tensor, objects: Tensor | Iterable[Tensor]) -> tuple[Tensor, Grid]:
        """Each instance against the nearest patch of the others; the highest where instances overlap."""
        tokens, grid = self._tokens(image, self.several_size)
        seen = _members([objects] if isinstance(objects, Tensor) else objects, grid, image).to(tokens.device)
        values = tokens.new_zeros(len(tokens))
        if len(seen) >= 2:
            used = seen.any(dim=0)
            values[used] = self.scale * distance_elsewhere(tokens[used], seen[:, used])
        return values, grid

    def _tokens(self, image: Tensor, size: int) -> tuple[Tensor, Grid]:
        """The patches of an image as rows (P, C) of length 1, and their grid."""
        if not self.enlarge:
            size = min(size, max(LEAST_SIZE, *image.shape[1:]))
        pixels = image[None].to(self._here.device)  # type: ignore[arg-type]
        maps = self.net.features(resize_bytes(pixels, (size, size)) if self.opencv_resize else pixels, size)
        if self.normalise_stages:
            maps = torch.cat([F.normalize(stage, dim=1) for stage in maps.split(list(self.net.stage_widths), 1)], dim=1)
        return F.normalize(maps[0].flatten(1).t(), dim=1), (maps.shape[2], maps.shape[3])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the references along with the parameters (`to`, `cuda`, `cpu`)."""
        super()._apply(fn, recurse)
        for bank in self._banks.values():
            bank.move(lambda tensor: moved(tensor, fn))
        return self


def shrunk(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, H, W) masks at a grid (M, h, w): of each cell the pixel at its top left, as OpenCV's nearest resize."""
    rows, columns = (
        torch.from_numpy(nearest_rows(count, length)).to(masks.device)
        for count, length in zip(grid, masks.shape[1:], strict=True)
    )
    return masks[:, rows][:, :, columns]


def _upsampled(values: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """(P,) values of a grid's patches to (H, W) pixels, bilinear."""
    maps = values.view(1, 1, *grid)
    return F.interpolate(maps, (size[0], size[1]), mode="bilinear", align_corners=False)[0, 0]


def _members(objects: Iterable[Tensor], grid: Grid, image: Tensor) -> Tensor:
    """(M, P) bool: the patches of each instance that is large enough to have one."""
    parts = [torch.zeros(0, *grid, dtype=torch.bool, device=image.device)]
    for part in objects:
        if part.ndim != 3 or part.shape[1:] != image.shape[1:] or part.dtype != torch.bool:
            raise ModelInputError(
                f"expected objects to be bool masks (M, H, W) of the image's size {tuple(image.shape[1:])}, got "
                f"{tuple(part.shape)} of {part.dtype}"
            )
        parts.append(shrunk(part, grid).to(image.device))
    found = torch.cat(parts).flatten(1)
    seen = found[found.any(dim=1)]
    if len(seen) < len(found):
        vanished = len(found) - len(seen)
        logger.warning("saliency of several instances: %d of %d are too small to see", vanished, len(found))
    if len(seen) < 2:
        logger.warning("saliency of several instances: %d found, nothing to compare, so it is 0", len(seen))
    return seen
