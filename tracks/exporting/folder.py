"""The exported folder: network, what was learnt, runner, manifest; and whether it says what the model says.

Layout::

    manifest.json  format, preprocessing, tiles, threshold, digests of files, weights and settings, licences
    model.*        the network and what follows from it, up to maps and scores: .onnx, .xml and .bin, or .pt
    state.npz      what was learnt of references and words: of the whole, and of each position of a tile
    run.py         judges photos by the folder alone
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from models import tiles
from models.base import AnomalyModel, Images
from models.errors import ModelInputError
from models.images import Preprocess
from models.one_graph import OneGraph, check_can_be_exported, state_of
from models.references import Prepared
from models.tiles import Tiled
from models.weights.catalogue import catalogue
from tracks.decide.product import Product, unpacked
from tracks.decide.threshold import Threshold
from tracks.errors import TrackInputError
from tracks.exporting import run
from tracks.exporting.network import FORMATS, write_network
from tracks.run.fingerprint import settings_digest, weights_digest

SCORES, MAPS = 1e-4, 1e-3
"""By how much what is exported in float32 may differ from the model: scores, and maps as a share of the largest value
where that is above 1."""
CALIBRATION = 32
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class What:
    """What is exported: a model, what it knows, by which rule it judges, and the settings that it was built from."""

    model: AnomalyModel
    category: str
    threshold: Threshold
    settings: Mapping[str, Any]
    bit_depth: int | None
    product: Product | None = None


@dataclass(frozen=True)
class Difference:
    """How far the exported copy is from the model on some photos, and how many verdicts are others."""

    photos: int
    scores: float
    maps: float
    verdicts: int

    def __str__(self) -> str:
        return (
            f"{self.photos} photos: scores differ by at most {self.scores:.1e}, maps by {self.maps:.1e}, "
            f"{self.verdicts} verdicts are others"
        )

    @property
    def is_rounding(self) -> bool:
        """Whether that is no more than float32 leaves."""
        return self.scores <= SCORES and self.maps <= MAPS and not self.verdicts


def write_folder(what: What, folder: Path, kind: str, precision: str) -> None:
    """Write the folder; what an earlier export left there is replaced.

    Raises:
        ModelInputError: a model that cannot be exported.
        TrackInputError: a folder that holds something else.
    """
    inner = what.model.model if isinstance(what.model, Tiled) else what.model
    check_can_be_exported(inner)
    if not isinstance(inner.preprocess, Preprocess):
        raise ModelInputError(f"expected a model that resizes photos to a square, got {type(inner).__name__}")
    _clear(folder)
    names = {"whole": what.category} | {f"tile{i}": name for i, name in enumerate(_tile_names(what))}
    states = {part: state_of(inner, name) for part, name in names.items()}
    kept = {f"{part}/{name}": tensor for part, state in states.items() for name, tensor in state.items()}
    np.savez(folder / "state.npz", **{name: tensor.cpu().numpy() for name, tensor in kept.items()})  # type: ignore[arg-type]
    example = torch.rand(2, 3, *(inner.preprocess.image_size,) * 2, generator=torch.Generator().manual_seed(0))
    shown = calibration_images(what) if precision == "int8" else []
    network = write_network(OneGraph(inner, what.category), example, states["whole"], folder, kind, precision, shown)
    shutil.copyfile(str(run.__file__), folder / "run.py")
    files = [path for path in sorted(folder.iterdir()) if path.name != MANIFEST]
    manifest = {
        "format": run.FORMAT, "made_by": f"vandkit {version('vandkit')}", "runtime": FORMATS[kind], "network": network,
        "precision": precision, **_identity(what), "model": type(inner).__name__, "category": what.category,
        "preprocess": asdict(inner.preprocess), "bit_depth": what.bit_depth, "tiles": _tiles(what),
        "probabilities": bool(what.model.scores_are_probabilities), "threshold": asdict(what.threshold),
        "protocol": what.model.protocol, "licences": _licences(what.settings),
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str), encoding="utf-8")


def check_identity(what: What, folder: Path) -> None:
    """Refuse a folder that was exported of other weights, settings or references.

    Raises:
        TrackInputError: such a folder, or one whose files are not those of its manifest.
    """
    try:
        manifest = run.checked(folder)
    except (OSError, ValueError) as error:
        raise TrackInputError(f"expected an exported folder, got {folder}: {error}") from error
    for key, own in _identity(what).items():
        if manifest.get(key) != own:
            raise TrackInputError(
                f"expected {folder} to be exported of {key} {own}, got {manifest.get(key)}; export it again, or name "
                "the product and the settings that it was exported of"
            )


def difference(what: What, folder: Path, photos: Sequence[Image]) -> Difference:
    """How far the folder's runner is from the model on photos."""
    runner = run.Runner(folder)
    scores, maps, others = 0.0, 0.0, 0
    for photo in photos:
        with torch.inference_mode():
            prepared = what.model.preprocess(photo)[None].to(what.model.device)
            expected = what.model.predict(prepared, [what.category]).cpu()
        judged, score = runner.judge(photo), float(expected.image_scores[0])
        expected_map = expected.anomaly_maps[0].numpy()
        size = max(1.0, float(np.abs(expected_map).max()))
        scores = max(scores, abs(judged.score - score) / max(1.0, abs(score)))
        maps = max(maps, float(np.abs(judged.anomaly_map - expected_map).max()) / size)
        others += judged.verdict != what.threshold.verdict(score)
    return Difference(len(photos), scores, maps, others)


def calibration_images(what: What) -> list[Tensor]:
    """The references as the network sees them, whole."""
    assert what.product is not None
    images: Images = [Prepared(what.product.images, unpacked)[i] for i in range(len(what.product.images))][:CALIBRATION]
    if isinstance(what.model, Tiled):
        return list(what.model.views(images).wholes)
    return list(images)


def _identity(what: What) -> dict[str, Any]:
    """What a folder and its original have in common."""
    return {
        "weights": weights_digest(what.model),
        "settings": settings_digest({**what.settings, "category": what.category}),
        "product": "" if what.product is None else what.product.digest,
    }


def _tile_names(what: What) -> list[str]:
    return what.model.tile_names(what.category) if isinstance(what.model, Tiled) else []


def _tiles(what: What) -> dict[str, Any] | None:
    model = what.model
    if not isinstance(model, Tiled):
        return None
    places, above = model.learnt_places(what.category)
    return {
        "tiles": model.tiles, "side": model.side, "map_side": model.map_side, "map_weight": model.map_weight,
        "score_weight": model.score_weight, "places": places, "above": above, "overlap": tiles.OVERLAP,
        "large": tiles.LARGE, "stretch": tiles.STRETCH, "most_native": tiles.MOST_NATIVE,
        "kept_times": tiles.KEPT_TIMES,
    }  # fmt: skip


def _licences(settings: Mapping[str, Any]) -> list[str]:
    """Of this project, and of each weight file of the catalogue that the settings name."""
    known = catalogue()
    named = [known[value] for value in _texts(settings) if value in known]
    notes = [f"{each.name}: {each.licence} ({each.source})" for each in named]
    return ["run.py and the rest of the folder's making: Apache-2.0 (vandkit)", *dict.fromkeys(notes)]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)


def _clear(folder: Path) -> None:
    """Make the folder, empty but for what is no part of an export."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise TrackInputError(f"expected an empty folder or an earlier export, got {folder}; name another with out=")
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in ("state.npz", "run.py", "model.onnx", "model.xml", "model.bin", "model.pt"):
        (folder / name).unlink(missing_ok=True)
