"""The state of a scorer as one file: compressed arrays and a line of JSON, no pickles; so shards can travel."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.category import DefectRecord
from eval.errors import ScoringInputError
from eval.images import ImageFacts
from eval.ranking.histogram import RoundingSample

FORMAT = "vandkit scorer 1"
_RAGGED = ("ranks", "counts", "hit_values", "hits")


def write_state(
    path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], images: ImageFacts,
    records: Sequence[DefectRecord], unrounded: RoundingSample,
) -> None:  # fmt: skip
    """Write a state; `arrays` are integer counts, mostly zeros, of which only the others are kept."""
    kept: dict[str, np.ndarray] = {
        "image_scores": np.array(images.scores, dtype=np.float64),
        "image_labels": np.array(images.labels, dtype=np.int8),
        "num_regions": np.array([record.num_regions for record in records], dtype=np.int64),
    }
    for name, array in arrays.items():
        kept[f"{name}_at"] = np.flatnonzero(array)
        kept[f"{name}_values"] = array.ravel()[kept[f"{name}_at"]]
    kept["unrounded_values"], kept["unrounded_weights"] = unrounded.pixels()
    for name in _RAGGED:
        parts = [getattr(record, name) for record in records]
        kept[f"{name}_lengths"] = np.array([part.size for part in parts], dtype=np.int64)
        kept[f"{name}_joined"] = np.concatenate(parts) if parts else np.zeros(0)
    head = {
        "format": FORMAT,
        "settings": dict(settings),
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "defect_types": images.defect_types,
        "record_types": [record.defect_type for record in records],
        "num_unlabelled": images.num_unlabelled,
        "num_without_mask": images.num_without_mask,
    }
    content = io.BytesIO()
    kept["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez_compressed(content, allow_pickle=False, **kept)
    path.write_bytes(content.getvalue())


def read_state(
    path: Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray], ImageFacts, list[DefectRecord], RoundingSample]:
    """Settings, arrays, images, records and unrounded pixels as they were written.

    Raises:
        ScoringInputError: if the file is missing or is not such a state.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            head, kept = json.loads(file["head"].tobytes()), dict(file)
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']!r}")
        unrounded = RoundingSample((kept["unrounded_values"], kept["unrounded_weights"]))
        return head["settings"], _arrays(head, kept), _images(head, kept), _records(head, kept), unrounded
    except Exception as error:  # broken bytes end in any of zipfile's, zlib's, json's and numpy's own errors
        raise ScoringInputError(
            f"Expected the state of a scorer ({FORMAT}) at {path}, got {error}. Save it again with Scorer.save."
        ) from error


def _arrays(head: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, shape in head["shapes"].items():
        array = np.zeros(shape, dtype=np.int64)
        array.ravel()[kept[f"{name}_at"]] = kept[f"{name}_values"]
        arrays[name] = array
    return arrays


def _images(head: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> ImageFacts:
    images = ImageFacts()
    images.scores, images.labels = kept["image_scores"].tolist(), kept["image_labels"].tolist()
    images.defect_types = list(head["defect_types"])
    images.num_unlabelled, images.num_without_mask = head["num_unlabelled"], head["num_without_mask"]
    return images


def _records(head: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> list[DefectRecord]:
    parts = {
        name: np.split(kept[f"{name}_joined"], np.cumsum(kept[f"{name}_lengths"])[:-1])
        if kept[f"{name}_lengths"].size
        else []
        for name in _RAGGED
    }
    return [
        DefectRecord(
            defect_type, parts["ranks"][i], parts["counts"][i], int(kept["num_regions"][i]), parts["hit_values"][i],
            parts["hits"][i],
        )
        for i, defect_type in enumerate(head["record_types"])
    ]  # fmt: skip
