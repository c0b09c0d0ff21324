"""Which products and which defect kinds there are, which split each belongs to, and which go together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracks.datasets.synthetic import part_defects as part
from tracks.datasets.synthetic import source_assemblies as assemblies
from tracks.datasets.synthetic import source_fabrics as fabrics
from tracks.datasets.synthetic import source_invented as invented
from tracks.datasets.synthetic import source_objects as objects
from tracks.datasets.synthetic import source_surfaces as surfaces
from tracks.datasets.synthetic import surface_defects as mark
from tracks.datasets.synthetic import target_products as target
from tracks.datasets.synthetic import validation_products as validation
from tracks.datasets.synthetic.defect_shapes import Stroke
from tracks.datasets.synthetic.scene import Scene, Studio
from tracks.errors import TrackInputError

Split = Literal["source", "validation", "target"]
Trait = Literal["any", "surface", "object", "several", "arranged", "lines"]


@dataclass(frozen=True)
class Product:
    """How a category is drawn, its split, and its traits.

    "several" instances are "arranged" where each has its place, so that one missing is a defect.
    """

    draw: Callable[[Studio], Scene]
    split: Split
    traits: frozenset[Trait]


@dataclass(frozen=True)
class Defect:
    """How a kind is made, what a product must have for it, and its range of the picture's area."""

    make: Callable[[Stroke], np.ndarray]
    needs: Trait
    area: tuple[float, float]
    held_out: bool = False


def _product(split: Split, draw: Callable[[Studio], Scene], *traits: Trait) -> tuple[str, Product]:
    return draw.__name__, Product(draw, split, frozenset(("any", *traits)))


PRODUCTS: dict[str, Product] = dict(
    [
        _product("source", fabrics.woven_fabric, "surface", "lines"),
        _product("source", surfaces.brushed_metal, "surface"),
        _product("source", fabrics.leather, "surface"),
        _product("source", surfaces.wood, "surface"),
        _product("source", surfaces.cast_iron, "surface"),
        _product("source", surfaces.terrazzo, "surface"),
        _product("source", surfaces.paper, "surface"),
        _product("source", surfaces.ceramic_tile, "surface", "lines"),
        _product("source", surfaces.wire_mesh, "surface", "lines"),
        _product("source", fabrics.carpet, "surface"),
        _product("source", surfaces.printed_pattern, "surface", "lines"),
        _product("source", fabrics.knitted, "surface", "lines"),
        _product("source", surfaces.concrete, "surface"),
        _product("source", surfaces.rubber_mat, "surface", "lines"),
        _product("source", surfaces.crinkled_foil, "surface"),
        _product("source", fabrics.corduroy, "surface", "lines"),
        _product("source", objects.washer, "object"),
        _product("source", objects.gear, "object"),
        _product("source", objects.screw, "object"),
        _product("source", objects.capsule, "object"),
        _product("source", objects.bottle_cap, "object"),
        _product("source", assemblies.circuit_board, "object", "several", "arranged"),
        _product("source", assemblies.beads, "object", "several"),
        _product("source", assemblies.hex_nuts, "object", "several", "arranged"),
        _product("source", objects.coin, "object"),
        _product("source", objects.jar_mouth, "object"),
        _product("source", objects.toothed_rack, "object"),
        _product("source", objects.bracket, "object"),
        _product("source", objects.ferrite_block, "object"),
        _product("source", assemblies.tablets, "object", "several", "arranged"),
        _product("source", invented.coated_sheet, "surface"),
        _product("source", invented.patterned_sheet, "surface", "lines"),
        _product("source", invented.lit_panel, "surface"),
        _product("source", invented.turned_part, "object"),
        _product("source", invented.moulded_part, "object"),
        _product("source", invented.part_tray, "object", "several", "arranged"),
        _product("source", invented.loose_parts, "object", "several"),
        _product("validation", validation.cork, "surface"),
        _product("validation", validation.cardboard, "surface", "lines"),
        _product("validation", validation.shirt_button, "object"),
        _product("validation", validation.dominoes, "object", "several", "arranged"),
        _product("target", target.denim, "surface", "lines"),
        _product("target", target.marble, "surface"),
        _product("target", target.perforated_sheet, "surface", "lines"),
        _product("target", target.plaster, "surface"),
        _product("target", target.ball_bearing, "object", "several", "arranged"),
        _product("target", target.battery, "object"),
        _product("target", target.candles, "object", "several", "arranged"),
        _product("target", target.almonds, "object", "several"),
    ]
)

DEFECTS: dict[str, Defect] = {
    "scratch": Defect(mark.scratch, "any", (0.001, 0.03)),
    "crack": Defect(mark.crack, "any", (0.001, 0.06)),
    "stain": Defect(mark.stain, "any", (0.001, 0.2)),
    "pit": Defect(mark.pit, "any", (0.001, 0.02)),
    "dent": Defect(mark.dent, "any", (0.002, 0.1)),
    "contamination": Defect(mark.contamination, "any", (0.001, 0.05)),
    "glue": Defect(mark.glue, "any", (0.003, 0.15)),
    "colour_change": Defect(mark.colour_change, "any", (0.002, 0.25)),
    "smear": Defect(mark.smear, "any", (0.005, 0.2)),
    "abrasion": Defect(mark.abrasion, "any", (0.005, 0.25)),
    "uneven_band": Defect(mark.uneven_band, "any", (0.02, 0.25)),
    "cut_and_paste": Defect(part.cut_and_paste, "any", (0.002, 0.2)),
    "foreign_texture": Defect(part.foreign_texture, "any", (0.002, 0.25)),
    "hole": Defect(part.hole, "any", (0.001, 0.1)),
    "missing_part": Defect(part.missing_part, "object", (0.002, 0.12)),
    "broken_edge": Defect(part.broken_edge, "object", (0.002, 0.1)),
    "missing_instance": Defect(part.missing_instance, "arranged", (0.01, 0.2)),
    "fibre": Defect(mark.fibre, "any", (0.001, 0.02), held_out=True),
    "fold": Defect(mark.fold, "surface", (0.002, 0.05), held_out=True),
    "frayed": Defect(part.frayed, "surface", (0.002, 0.03), held_out=True),
    "deformation": Defect(part.deformation, "any", (0.004, 0.12), held_out=True),
    "misplaced_part": Defect(part.misplaced_part, "object", (0.004, 0.12), held_out=True),
    "extra_part": Defect(part.extra_part, "any", (0.002, 0.08), held_out=True),
    "missing_line": Defect(part.missing_line, "lines", (0.003, 0.08), held_out=True),
}

SOURCE = tuple(name for name, product in PRODUCTS.items() if product.split == "source")
INVENTED = tuple(name for name in SOURCE if PRODUCTS[name].draw.__module__ == invented.__name__)
"""Source categories each of whose looks is a product of its own."""
VALIDATION = tuple(name for name, product in PRODUCTS.items() if product.split == "validation")
TARGET = tuple(name for name, product in PRODUCTS.items() if product.split == "target")
DEFECT_KINDS = tuple(DEFECTS)
SOURCE_KINDS = tuple(name for name, defect in DEFECTS.items() if not defect.held_out)
HELD_OUT_KINDS = tuple(name for name, defect in DEFECTS.items() if defect.held_out)


def product(category: str) -> Product:
    """How a category is drawn.

    Raises:
        TrackInputError: for a name that is not a category; lists those that are.

    """
    if category not in PRODUCTS:
        raise TrackInputError(
            f"The synthetic data set has no category {category!r}. Choose one of: {', '.join(sorted(PRODUCTS))}."
        )
    return PRODUCTS[category]


def kinds_of(category: str) -> tuple[str, ...]:
    """The defect kinds a category can have: those its traits allow, and none that its split holds out.

    Kinds in `HELD_OUT_KINDS` are for the validation and target splits alone.
    """
    item = product(category)
    return tuple(
        name
        for name, defect in DEFECTS.items()
        if defect.needs in item.traits and not (defect.held_out and item.split == "source")
    )
