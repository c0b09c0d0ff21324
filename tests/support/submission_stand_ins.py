"""Finished runs made in a moment, for the submission formats, and what their tests share."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
from hydra import compose, initialize_config_dir

from tracks.command.cli import CONF
from tracks.run.store import PredictionStore, Row


def make_run(folder, images, protocol, *, shots=0, seed=0, weights="stand-in"):
    """A finished run; `images` maps a category to {name: (score, map)}."""
    settings = {"shots": shots, "seed": seed, "weights": weights, "categories": list(images), "protocol": protocol}
    store = PredictionStore.create(folder, settings)
    for category, by_name in images.items():
        for name, (score, anomaly_map) in by_name.items():
            values = np.asarray(anomaly_map, dtype=np.float32)
            where, kind = store.map_file(category, name), name.split("/")[-2] if "/" in name else ""
            store.add(Row(name, category, None, kind, score, *values.shape, where, False, "1"), values, None)
    (store.folder / "results.json").write_text("{}")
    return store


def configured(*overrides):
    """The settings of the command, VANDKIT_RUN and VANDKIT_OUT from the environment."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("submit", overrides=list(overrides))


def kinds(problems):
    return sorted((problem.kind, Path(problem.path).name) for problem in problems)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def png(values, mode=None, kind="PNG"):
    """The bytes of an image of (h, w) or (h, w, 3) values, in another mode or file format if given."""
    content = io.BytesIO()
    image = PIL.Image.fromarray(values)
    (image.convert(mode) if mode else image).save(content, kind)
    return content.getvalue()
