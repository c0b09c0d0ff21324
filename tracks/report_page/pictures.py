"""One image of a report in three pictures side by side: the photo, the outlines on it, the anomaly map."""

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
import PIL.Image
from matplotlib import colormaps

from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.report_page.choice import Pick
from tracks.report_page.html import Child, Html, breakable, element, percent, significant
from tracks.report_page.outline import outline_path
from tracks.run.overlay import HeatScale

COLOUR_MAP = "inferno"
"""Its lightness only rises, so that brighter is more anomalous, also in print and for those who see fewer colours.
(The overlays' turbo is as dark at its hot end as at its cold one; there a cold pixel is the photo itself.)"""
ENCODINGS = (("webp", {"quality": 76, "method": 6}), ("jpeg", {"quality": 78, "optimize": True}))
EMPTY = (128, 128, 128)


VERDICTS: dict[tuple[str, str | None], tuple[str, str]] = {
    ("miss", GOOD): ("missed", "tag bad"),
    ("miss", DEFECT): ("found", "tag good"),
    ("miss", UNDECIDED): ("undecided", "tag"),
    ("alarm", DEFECT): ("false alarm", "tag bad"),
    ("alarm", GOOD): ("no alarm", "tag good"),
    ("alarm", UNDECIDED): ("undecided", "tag"),
}
"""What the verdict of the run's own threshold means for an anomalous and for a normal image."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What is known of an image to show: (H, W) map and mask, the photo, None where there is none."""

    anomaly_map: np.ndarray
    mask: np.ndarray | None
    photo: PIL.Image.Image | None


@dataclass(frozen=True)
class Style:
    """How maps are drawn: the colour scale, the pixel threshold to outline, and the longest side in pixels."""

    scale: HeatScale
    threshold: float | None
    side: int


def picture_row(pick: Pick, shown: Shown, style: Style, number: int, kind: str) -> Html:
    """A card with a caption and three pictures; `number` makes the ids of the page unique."""
    width, height = _fit(shown.photo.size if shown.photo else shown.anomaly_map.shape[::-1], style.side)
    photo, outlines = f"photo-{number}", f"outlines-{number}"
    name = pick.row.name
    panels: list[Child] = []
    if shown.photo is not None:
        small = shown.photo.convert("RGB").resize((width, height), PIL.Image.Resampling.LANCZOS)
        panels.append(_panel("photo", f"Photo {name}", (width, height), _image(small, (width, height), photo)))
        backdrop = element("use", href=f"#{photo}")
    else:
        backdrop = element("rect", width=width, height=height, class_="nothing")
    defect = _outline(shown.mask, (width, height), "defect")
    called = None if style.threshold is None else shown.anomaly_map.astype(np.float32) >= style.threshold
    drawn = [backdrop, _keep(defect, outlines), _outline(called, (width, height), "called")]
    panels.append(_panel("outlines", _spoken_outlines(name, shown.mask, called), (width, height), drawn))
    heat = _image(heat_picture(shown.anomaly_map, style), (width, height))
    top = significant(float(shown.anomaly_map.max()))
    over = element("use", href=f"#{outlines}") if defect else None
    panels.append(_panel("map", f"Anomaly map of {name}, maximum {top}", (width, height), [heat, over]))
    return element("figure", _caption(pick, kind), element("div", panels, class_="panels"), class_="pick")


def heat_picture(anomaly_map: np.ndarray, style: Style) -> PIL.Image.Image:
    """A map (H, W) in colours, `scale.low` and below the darkest, `scale.high` and above the lightest, RGB.

    Shrunk by averaging to at most `style.side`, never enlarged.
    """
    size = _fit(anomaly_map.shape[::-1], style.side)
    small = PIL.Image.fromarray(anomaly_map.astype(np.float32)).resize(size, PIL.Image.Resampling.BOX)
    span = style.scale.high - style.scale.low
    shares = np.clip((np.asarray(small) - style.scale.low) / span, 0, 1) if span > 0 else np.zeros(size[::-1])
    return PIL.Image.fromarray(colours()[np.rint(shares * 255).astype(np.uint8)])


@cache
def colours() -> np.ndarray:
    """The colour scale from low to high, (256, 3) uint8."""
    return np.rint(colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


def data_uri(image: PIL.Image.Image) -> str:
    """An RGB image as a data URI, in whichever of WebP and JPEG is shorter."""
    encoded = {}
    for kind, options in ENCODINGS:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _caption(pick: Pick, kind: str) -> Html:
    verdict = VERDICTS.get((kind, pick.verdict))
    facts = [pick.why, f"image score {significant(pick.row.image_score)}"]
    if pick.above_f1_max is not None and kind in ("miss", "alarm"):
        facts.append(f"by the F1-max threshold {VERDICTS[kind, DEFECT if pick.above_f1_max else GOOD][0]}")
    if pick.pixel_recall is not None:
        facts.append(f"{percent(pick.pixel_recall)}\u00a0% of its defect pixels found")
    return element(
        "figcaption",
        element("strong", breakable(pick.row.name)), " ",
        element("span", breakable(pick.row.defect_type or "unlabelled"), class_="tag"), " ",
        element("span", verdict[0], class_=verdict[1]) if verdict else None,
        element("span", " · ".join(facts), class_="facts"),
    )  # fmt: skip


def _panel(kind: str, spoken: str, size: tuple[int, int], children: Child) -> Html:
    width, height = size
    return element("svg", children, role="img", aria_label=spoken, viewBox=f"0 0 {width} {height}", class_=kind)


def _image(image: PIL.Image.Image, size: tuple[int, int], id_: str | None = None) -> Html:
    return element(
        "image", id=id_, href=data_uri(image), width=size[0], height=size[1], preserveAspectRatio="none"
    )  # fmt: skip


def _outline(mask: np.ndarray | None, size: tuple[int, int], class_: str) -> Html | None:
    """The outline of a mask (H, W), stretched over a picture of (width, height): a dark line under a light one."""
    path, unit = outline_path(mask) if mask is not None else ("", 1)
    if not path or mask is None:
        return None
    x, y = size[0] * unit / mask.shape[1], size[1] * unit / mask.shape[0]
    lines = [element("path", d=path, vector_effect="non-scaling-stroke", class_=kind) for kind in ("under", "over")]
    return element("g", lines, transform=f"scale({x:.4g} {y:.4g})", class_=f"outline {class_}")


def _keep(outline: Html | None, id_: str) -> Html | None:
    return element("g", outline, id=id_) if outline else None


def _spoken_outlines(name: str, mask: np.ndarray | None, called: np.ndarray | None) -> str:
    parts = []
    if mask is not None:
        parts.append(f"the defect covers {percent(float(mask.mean()))} percent" if mask.any() else "no defect")
    if called is not None:
        parts.append(f"{percent(float(called.mean()))} percent lies at or above the pixel threshold")
    return f"Outlines on {name}: {', '.join(parts) or 'nothing known'}"


def _fit(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """(width, height) with the longer side at most `side`, never enlarged, never below one pixel."""
    shrink = min(1.0, side / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
