"""The saliency prompt, SAA+ Eq. 5: how unlike the rest of its image each place is.

"paper": the mean of 1 - cosine to the N = 400 nearest places of the image, a place itself not counting.
"released", as the published code has it: half of 1 - cosine, to the 400 farthest places; and where several instances
of an object are expected, to the nearest place of any other instance, 0 outside all. Our own options: normalised
stages, unsquashed input, smoothing, saliency within the object, and few-shot: half of 1 - cosine to the nearest place
of normal references.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import moved
from models.errors import ModelInputError, checked
from models.images import Size, resize_bytes
from models.saa.refiner.base import check_image
from models.saa.saliency.features import FeatureNet
from models.saa.saliency.neighbours import MAX_ELEMENTS, distance_elsewhere, mean_distance
from models.saa.saliency.places import Grid, check_mask, inside, members, upsampled
from models.saa.saliency.reference_bank import SCALE, Reference, ReferenceBank

__all__ = ["FeatureNet", "Rule", "Saliency"]

Rule = Literal["paper", "released"]
Neighbours = Literal["nearest", "farthest"]
Precision = Literal["float32", "bfloat16"]
BANK_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LARGEST_STRIDE = 32


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
        neighbours: "nearest" or "farthest" in place of the rule's.
        scale: of the distance, in place of the rule's: 1 for 1 - cosine, 0.5 for half of it.
        opencv_resize: whether the input is resized and rounded as OpenCV does it with bytes, in place of the rule's;
            only for a net whose own resizing does not average over what it leaves out (`antialias` is False).
        size: side in pixels of the net's input.
        several_size: the same where several instances are compared.
        keep_aspect: give the input the image's proportions, at about the same number of pixels.
        normalise_stages: bring each stage's features to length 1 before they are joined.
        smoothing: side in places (odd) of the window over which features are averaged first; 1 for not at all.
        own_window: a single reference meets itself without a window of this share of the side.
        bank_precision: in which references are kept: "float32", or "bfloat16" in half the memory.
        max_elements: largest similarity matrix held at a time, in elements.
    """

    def __init__(
        self, net: FeatureNet, *, rule: Rule = "paper", num_neighbours: int = 400,
        neighbours: Neighbours | None = None, scale: float | None = None, opencv_resize: bool | None = None,
        size: int = 256, several_size: int = 1024, keep_aspect: bool = False, normalise_stages: bool = False,
        smoothing: int = 1, own_window: float = 0.15, bank_precision: Precision = "float32",
        max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        super().__init__()
        checked("rule", rule, rule in RULES, " or ".join(RULES))
        self.net = net
        self.rule = rule
        self.num_neighbours = checked("num_neighbours", num_neighbours, num_neighbours >= 1, "at least 1")
        self.neighbours = neighbours or RULES[rule].neighbours
        checked("neighbours", self.neighbours, self.neighbours in get_args(Neighbours), "nearest, farthest or null")
        self.scale = RULES[rule].scale if scale is None else checked("scale", scale, scale > 0, "above 0")
        wanted = RULES[rule].opencv_resize if opencv_resize is None else opencv_resize
        self.opencv_resize = wanted and getattr(net, "antialias", None) is False
        self.size = checked("size", size, size >= LARGEST_STRIDE, f"at least {LARGEST_STRIDE}")
        self.several_size = checked(
            "several_size", several_size, several_size >= LARGEST_STRIDE, f"at least {LARGEST_STRIDE}"
        )
        self.keep_aspect = keep_aspect
        self.normalise_stages = normalise_stages
        self.smoothing = checked("smoothing", smoothing, smoothing >= 1 and smoothing % 2 == 1, "odd, 1 or more")
        self.own_window = checked("own_window", own_window, 0 <= own_window < 1, "at least 0 and below 1")
        self.bank_precision = checked(
            "bank_precision", bank_precision, bank_precision in BANK_PRECISIONS, " or ".join(BANK_PRECISIONS)
        )
        self.max_elements = checked("max_elements", max_elements, max_elements >= 1, "at least 1")
        self._banks: dict[str, ReferenceBank] = {}
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def highest(self) -> float:
        """The saliency of a place that has nothing in common with the others (cosine 0)."""
        return SCALE if self._banks else self.scale

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this saliency."""
        options = {
            "stages normalised": self.normalise_stages, f"smoothing {self.smoothing}": self.smoothing > 1,
            "image proportions kept": self.keep_aspect,
        }  # fmt: skip
        distance = "1 - cosine" if self.scale == 1 else f"{self.scale:g} (1 - cosine)"
        return {
            **self.net.protocol,
            "saliency_resize": "8 bits, as OpenCV's INTER_LINEAR" if self.opencv_resize else "as the features say",
            "saliency": f"mean of {distance} to the {self.num_neighbours} {self.neighbours} places (Eq. 5), input "
            f"{self.size} px; several instances: to the nearest place of another one, input {self.several_size} px",
            "saliency_options": ", ".join(name for name, on in options.items() if on) or "none",
            "few_shot_saliency": f"{SCALE:g} (1 - cosine) to the nearest place of the references, kept as "
            f"{self.bank_precision}",
        }

    @torch.no_grad()
    def forward(
        self, image: Tensor, objects: Tensor | Iterable[Tensor] | None = None, *, within: Tensor | None = None,
        category: str | None = None,
    ) -> Tensor:  # fmt: skip
        """Saliency (H, W) float32 >= 0 of a (3, H, W) uint8 RGB image, on the device that this module is on.

        Args:
            image: of any size, on any device.
            objects: (M, H, W) bool, the instances where several are expected: each is compared with the others. With
                fewer than two there is nothing to compare, and the saliency is 0. An iterable of such stacks is gone
                through once, so that not all masks need to be held at full size.
            within: (H, W) bool, the object that alone is looked at: 0 outside, and only its places are neighbours.
            category: whose references to compare with, in place of the image itself.

        Raises:
            KeyError: a category without references, once any category has some.
            ModelInputError: anything but such an image, or masks of another size.
        """
        check_image(image)
        check_mask("within", within, 2, image)
        if category is not None and self._banks:
            values, grid = self._unlike_references(image, self._bank(category), within)
        elif objects is not None:
            values, grid = self._unlike_other_objects(image, objects)
        else:
            values, grid = self._unlike_the_rest(image, within)
        return upsampled(values, grid, image.shape[1:])

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
            tokens = tokens.to(BANK_PRECISIONS[self.bank_precision])
            known.append(Reference(tokens, grid, (image.shape[1], image.shape[2])))
        self._banks[category] = ReferenceBank(known, own_window=self.own_window, max_elements=self.max_elements)

    @torch.no_grad()
    def reference_maps(self, category: str) -> list[Tensor]:
        """The saliency (H, W) of each reference of a category as if it were not among them.

        A single one is compared with itself, without a window around each place.
        """
        left_out = self._bank(category).left_out()
        return [upsampled(distance, reference.grid, reference.size) for distance, reference in left_out]

    def _unlike_the_rest(self, image: Tensor, within: Tensor | None) -> tuple[Tensor, Grid]:
        """Eq. 5 over the image, or over the part of it that `within` names."""
        tokens, grid = self._tokens(image, self.size)
        looked_at = inside(within, grid, tokens.device)
        farthest = self.neighbours == "farthest"
        values = tokens.new_zeros(len(tokens))
        values[looked_at] = self.scale * mean_distance(
            tokens[looked_at], self.num_neighbours, farthest, self.max_elements
        )
        return values, grid

    def _unlike_other_objects(self, image: Tensor, objects: Tensor | Iterable[Tensor]) -> tuple[Tensor, Grid]:
        """Each instance against the nearest place of the others; the highest where instances overlap."""
        tokens, grid = self._tokens(image, self.several_size)
        seen = members([objects] if isinstance(objects, Tensor) else objects, grid, image).to(tokens.device)
        values = tokens.new_zeros(len(tokens))
        if len(seen) >= 2:
            used = seen.any(dim=0)
            values[used] = self.scale * distance_elsewhere(tokens[used], seen[:, used], self.max_elements)
        return values, grid

    def _unlike_references(self, image: Tensor, bank: ReferenceBank, within: Tensor | None) -> tuple[Tensor, Grid]:
        tokens, grid = self._tokens(image, self.size)
        looked_at = inside(within, grid, tokens.device)
        values = tokens.new_zeros(len(tokens))
        values[looked_at] = bank.distance(tokens[looked_at])
        return values, grid

    def _tokens(self, image: Tensor, size: int) -> tuple[Tensor, Grid]:
        """The places of an image as rows (P, C) of length 1, and their grid."""
        input_size = self._input_size(image, size)
        target = (input_size, input_size) if isinstance(input_size, int) else input_size
        pixels = image[None].to(self._here.device)  # type: ignore[arg-type]
        maps = self.net.features(resize_bytes(pixels, target) if self.opencv_resize else pixels, input_size)
        if self.normalise_stages:
            maps = torch.cat([F.normalize(stage, dim=1) for stage in maps.split(list(self.net.stage_widths), 1)], dim=1)
        if self.smoothing > 1:
            padding = self.smoothing // 2
            maps = F.avg_pool2d(maps, self.smoothing, stride=1, padding=padding, count_include_pad=False)
        return F.normalize(maps[0].flatten(1).t(), dim=1), (maps.shape[2], maps.shape[3])

    def _input_size(self, image: Tensor, size: int) -> Size:
        if not self.keep_aspect:
            return size
        ratio = (image.shape[1] / image.shape[2]) ** 0.5
        height, width = (max(1, round(side / LARGEST_STRIDE)) * LARGEST_STRIDE for side in (size * ratio, size / ratio))
        return height, width

    def _bank(self, category: str) -> ReferenceBank:
        if category not in self._banks:
            known = ", ".join(self._banks) or "none"
            raise KeyError(f"expected a category with references, got {category!r}; fitted: {known}; call `fit` for it")
        return self._banks[category]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the references along with the parameters (`to`, `cuda`, `cpu`)."""
        super()._apply(fn, recurse)
        for bank in self._banks.values():
            bank.move(lambda tensor: moved(tensor, fn))
        return self
