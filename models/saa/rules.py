"""The two protocols of SAA+ as switches: what the paper's equations say, and what the published code does.

The saliency has its own, named alike (models/saa/saliency/prompt.py). Facts on the code:
github.com/caoyunkang/Segment-Any-Anomaly, branch SAA-plus, 23acbd9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args, get_type_hints

from models.errors import ModelInputError, checked

Location = Literal["iou", "off"]
NameFilter = Literal["tokens", "substring", "off"]


@dataclass(frozen=True)
class Rules:
    """Each departure of the published code from the paper is one switch.

    Args:
        name: the protocol that the switches were taken from.
        bgr: the refiner and the saliency net are shown blue for red, as the published code shows them.
        raw_names: captions hold "metal_nut" and the object's "metal_nut,"; otherwise "metal nut".
        name_filter: a box whose words name the object is dropped: as a "substring", by "tokens", or "off" (the paper
            has no such step).
        objects: the boxes that count as the object: the "best", with half of the best one's score or more, or the
            "capped", each less than 1/count of the image. The paper does not say.
        area_of: theta_area is applied to "regions" and the object's outline, or to "boxes" and its largest box.
        location: theta_IoU is on "iou" with the object, or "off"; on regions only.
        several_objects: where the product's count is above 1, saliency compares each object with the others.
        exponent: factor on the mean saliency in the exponent of Eq. 6.
        denominator: added to the sum of regions in Eq. 9.
        top_k: K of Eq. 8 for every product; 0 for each product's own.
        max_side: images with a longer side are shrunk to it, in pixels; 0 for never.
    """

    name: str
    bgr: bool
    raw_names: bool
    name_filter: NameFilter
    objects: Literal["best", "capped"]
    area_of: Literal["regions", "boxes"]
    location: Location
    several_objects: bool
    exponent: float
    denominator: float
    top_k: int
    max_side: int

    @classmethod
    def paper(cls) -> Self:
        """What the equations say."""
        return cls(
            name="paper", bgr=False, raw_names=False, name_filter="off", objects="best", area_of="regions",
            location="iou", several_objects=False, exponent=1.0, denominator=0.0, top_k=5,
            max_side=1333,
        )  # fmt: skip

    @classmethod
    def released(cls) -> Self:
        """What the published code does."""
        return cls(
            name="released", bgr=True, raw_names=True, name_filter="substring", objects="capped", area_of="boxes",
            location="off", several_objects=True, exponent=3.0, denominator=1.0, top_k=0,
            max_side=0,
        )  # fmt: skip

    @classmethod
    def named(cls, name: str, switches: Mapping[str, Any] | None = None) -> Self:
        """The protocol of that name, with the switches given otherwise; a switch that is None stays as it is.

        Raises:
            ModelInputError: a name, switch or value that does not exist.
        """
        protocols = {"paper": cls.paper, "released": cls.released}
        checked("rules", name, name in protocols, f"one of {', '.join(protocols)}")
        set_otherwise = {key: value for key, value in (switches or {}).items() if value is not None}
        known = [field.name for field in fields(cls) if field.name != "name"]
        if unknown := set(set_otherwise) - set(known):
            raise ModelInputError(f"expected switches among {', '.join(known)}, got {', '.join(sorted(unknown))}")
        rules = replace(protocols[name](), **set_otherwise)
        rules._check()
        return rules

    @property
    def label(self) -> str:
        """The protocol and every switch that differs from it."""
        plain = Rules.named(self.name)
        own = [f"{field.name}={getattr(self, field.name)}" for field in fields(self)
               if getattr(self, field.name) != getattr(plain, field.name)]  # fmt: skip
        return f"{self.name}{' with ' + ', '.join(own) if own else ''}"

    def _check(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(kind)
            if choices:
                good, expected = value in choices, f"one of {', '.join(map(str, choices))}"
            elif kind is bool:
                good, expected = isinstance(value, bool), "true or false"
            elif kind in (int, float):
                number = isinstance(value, int | kind) and not isinstance(value, bool)
                good, expected = number and value >= 0, f"a{' whole' if kind is int else ''} number from 0"
            else:
                continue
            checked(f"the switch {name}", value, good, expected)
