"""The models of the demo page: which can be chosen, and those that are loaded."""

import copy
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from models.base import AnomalyModel
from models.weights.catalogue import catalogue, missing_files, texts_in
from tracks import api
from tracks.command.explained import CONF


class Models:
    """Loaded models, one for each pair of model and weights; other words for defects load it anew."""

    def __init__(self, device: str = "auto", settings: dict[tuple[str, str], dict[str, Any]] | None = None):
        """`settings` are those of `tracks.api.load_model`, by (model, weights)."""
        self.device, self._settings = device, settings or {}
        self._kept: dict[tuple[str, str], tuple[tuple[str, ...], AnomalyModel]] = {}
        self._lock = Lock()

    def get(self, model: str, weights: str, defects: Sequence[str] = ()) -> AnomalyModel:
        """A model that has learnt nothing."""
        key, words = (model, weights), tuple(defects)
        with self._lock:
            if key not in self._kept or self._kept[key][0] != words:
                self._kept.pop(key, None)  # its memory is free before the next one needs it
                settings = self._settings.get(key, {}) | ({"prompts.defects": list(words)} if words else {})
                self._kept[key] = words, api.load_model(model, weights=weights, device=self.device, **settings)
            return self._kept[key][1]


def taught(model: AnomalyModel) -> AnomalyModel:
    """A copy that may learn: it shares the weights, and nothing that it learns reaches the original."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)  # type: ignore[arg-type]


def choices() -> tuple[list[str], list[str]]:
    """Names of models that can tell something, and of weights all files of which are here."""
    models = [
        path.stem for path in sorted((CONF / "model").glob("*.yaml")) if ".trivial." not in path.read_text("utf-8")
    ]
    return models, [path.stem for path in sorted((CONF / "weights").glob("*.yaml")) if _is_here(path)]


def _is_here(path: Path) -> bool:
    content = yaml.safe_load(path.read_text("utf-8"))
    texts = list(texts_in(content))
    named = [text for text in texts if text in catalogue()]
    return bool(named) and not missing_files(content) and not {"???", "random:0"} & set(texts)
